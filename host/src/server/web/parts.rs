//! Small parts that several pages have.

use maud::{Markup, html};
use serde_json::Value;

use crate::server::paths::escaped;

/// More of a payload is not shown; the API has all of it.
const SHOWN_BYTES: usize = 48 << 10;

/// The page of an instance.
pub(super) fn instance_href(id: &str) -> String {
    format!("/ui/instances/{}", escaped(id))
}

/// A status with its colour.
pub(super) fn badge(status: &str) -> Markup {
    html! { span .badge .{ "is-" (status) } { (status) } }
}

/// A point in time (RFC 3339); scripts show how long ago it is.
pub(super) fn ago(at: &str) -> Markup {
    html! { time datetime=(at) title=(at) data-ago { (clock(at)) } }
}

/// A point in time that is to come; scripts count down to it.
pub(super) fn until(at: &str) -> Markup {
    html! { time datetime=(at) title=(at) data-until { (at.replace('T', " ").trim_end_matches('Z')) } }
}

/// `12:03:04` of a timestamp, with its day.
fn clock(at: &str) -> String {
    at.get(..19).unwrap_or(at).replace('T', " ")
}

/// A text of a field, or nothing.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// A payload for people: JSON, indented and coloured.
pub(super) fn payload(value: &Value) -> Markup {
    let whole = serde_json::to_string(value).map_or(0, |text| text.len());
    html! {
        @if whole > SHOWN_BYTES {
            pre.json tabindex="0" { (serde_json::to_string_pretty(value).unwrap_or_default().chars().take(SHOWN_BYTES / 2).collect::<String>()) "…" }
            p.dim { "Only the beginning of " (bytes(whole as u64)) "." }
        } @else {
            pre.json tabindex="0" { (json(value, 0)) }
        }
    }
}

/// A payload in a few words.
pub(super) fn brief(value: &Value) -> String {
    let whole = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    crate::core::payload::shortened(&whole, 140)
}

fn json(value: &Value, depth: usize) -> Markup {
    let indent = |depth: usize| "  ".repeat(depth);
    html! {
        @match value {
            Value::Null => span.j-word { "null" },
            Value::Bool(value) => span.j-word { (value) },
            Value::Number(value) => span.j-number { (value) },
            Value::String(value) => span.j-text { (serde_json::to_string(value).unwrap_or_default()) },
            Value::Array(values) if values.is_empty() => { "[]" },
            Value::Object(fields) if fields.is_empty() => { "{}" },
            Value::Array(values) => {
                "[\n"
                @for (n, value) in values.iter().enumerate() {
                    (indent(depth + 1)) (json(value, depth + 1)) @if n + 1 < values.len() { "," } "\n"
                }
                (indent(depth)) "]"
            },
            Value::Object(fields) => {
                "{\n"
                @for (n, (name, value)) in fields.iter().enumerate() {
                    (indent(depth + 1)) span.j-name { (serde_json::to_string(name).unwrap_or_default()) } ": "
                    (json(value, depth + 1)) @if n + 1 < fields.len() { "," } "\n"
                }
                (indent(depth)) "}"
            },
        }
    }
}

/// `1.2 MB`.
pub(super) fn bytes(count: u64) -> String {
    let steps = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match steps.into_iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", count as f64 / size as f64),
        None => format!("{count} B"),
    }
}

/// `340 ms`, `2.4 s`, `3 min 5 s`, `2 d 4 h`.
pub(super) fn duration(ms: u64) -> String {
    let (seconds, minutes, hours, days) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    let two = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {unit}"),
        small => format!("{big} {unit} {small} {small_unit}"),
    };
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{:.1} s", ms as f64 / 1000.0),
        10_000..60_000 => format!("{seconds} s"),
        60_000..3_600_000 => two(minutes, "min", seconds % 60, "s"),
        3_600_000..86_400_000 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// `1 instance`, `2 instances`.
pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Nothing is here, and what to do about it.
pub(super) fn empty(what: &str, hint: &Markup) -> Markup {
    html! { div.empty { p { (what) } p.dim { (hint) } } }
}

/// A button that asks in a dialog and then calls the API. `ask` is the dialog's
/// question, `go` what its button says.
pub(super) struct Action<'a> {
    pub(super) name: &'a str,
    pub(super) method: &'a str,
    pub(super) path: String,
    pub(super) ask: String,
    pub(super) is_grave: bool,
    /// What is typed in: a name, what it is called, and whether it is JSON.
    pub(super) fields: &'a [Field<'a>],
    /// Where to go when it is done; else the page is rendered anew.
    pub(super) then: Option<&'a str>,
}

/// Something that is typed in before an action. The name says where it goes: `body`
/// is all of the body, `path` the end of the path, others are fields of the body.
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Required,
    Json,
    Check,
    Number,
}

/// Why something is done; it is recorded.
pub(super) const REASON: Field<'static> = Field { name: "reason", label: "Reason (recorded)", kind: Kind::Text };

impl Action<'_> {
    pub(super) fn button(&self) -> Markup {
        let id = format!("do-{}", self.name.to_lowercase().replace(' ', "-"));
        self.button_of(&id)
    }

    /// With an id that no other button of the page has.
    pub(super) fn button_of(&self, id: &str) -> Markup {
        let grave = if self.is_grave { "grave" } else { "" };
        html! {
            button .small .(grave) type="button" data-opens=(id) { (self.name) }
            dialog id=(id) aria-labelledby={ (id) "-title" } {
                form method="dialog" data-method=(self.method) data-path=(self.path) data-then=[self.then] {
                    h2 id={ (id) "-title" } { (self.name) }
                    p { (self.ask) }
                    @for field in self.fields { (field.input(id)) }
                    p.problem role="alert" hidden {}
                    div.dialog-end {
                        button type="button" data-closes { "Back" }
                        button .primary .(grave) type="submit" { (self.name) }
                    }
                }
            }
        }
    }
}

impl Field<'_> {
    fn input(&self, id: &str) -> Markup {
        let input = format!("{id}-{}", self.name);
        html! {
            @match self.kind {
                Kind::Check => label.check { input type="checkbox" name=(self.name); " " (self.label) },
                Kind::Json => div.field {
                    label for=(input) { (self.label) }
                    textarea id=(input) name=(self.name) rows="4" spellcheck="false" data-json { "null" }
                },
                Kind::Text | Kind::Required | Kind::Number => div.field {
                    label for=(input) { (self.label) }
                    input id=(input) name=(self.name) autocomplete="off" required[self.kind != Kind::Text]
                        data-number[self.kind == Kind::Number] inputmode=[(self.kind == Kind::Number).then_some("numeric")];
                },
            }
        }
    }
}

//! An execution on a time axis: a bar for each operation, with its attempts.
//!
//! Drawn as SVG with positions in percent, so that it fits any width; a script makes
//! it wider to zoom. Whatever an operation is, an event that schedules it opens its
//! bar and one that ends in `-completed`, `-failed` and so on closes it; so kinds of
//! events that are new here are drawn as well.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::Value;

use super::parts::{duration, text};

/// More bars are not drawn: nobody can look at them.
const MOST_BARS: usize = 200;
const ROW: usize = 26;
const AXIS: usize = 24;

/// Milliseconds since 1970 of an RFC 3339 text; 0 if it is none.
pub(super) fn millis(at: &str) -> u64 {
    at.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or(0)
}

/// How a stretch of a bar went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    Well,
    Failed,
    Cancelled,
    /// Between two attempts.
    BackOff,
    /// It is not over.
    Pending,
}

#[derive(Debug)]
struct Stretch {
    from: u64,
    to: u64,
    went: Went,
    what: String,
}

#[derive(Debug)]
struct Bar {
    label: String,
    kind: &'static str,
    event: u64,
    from: u64,
    open: bool,
    stretches: Vec<Stretch>,
    attempts: u64,
}

/// See the file's page.
pub(super) struct Timeline {
    bars: Vec<Bar>,
    /// What came from outside: its time, its event, its text.
    marks: Vec<(u64, u64, String)>,
    from: u64,
    to: u64,
    left_out: usize,
}

impl Timeline {
    pub(super) fn of(events: &[Value], now: u64, goes_on: bool) -> Self {
        let at = |event: Option<&Value>| event.map_or(now, |event| millis(text(event, "at")));
        let (from, last) = (at(events.first()), at(events.last()));
        let mut bars = Drawing::default();
        for event in events {
            bars.take(event);
        }
        let mut timeline = Self {
            bars: bars.bars,
            marks: bars.marks,
            from,
            to: if goes_on { now.max(last) } else { last },
            left_out: 0,
        };
        for bar in timeline.bars.iter_mut().filter(|bar| bar.open) {
            let went = if goes_on { Went::Pending } else { Went::Cancelled };
            let what = if goes_on { "not over" } else { "ended with the instance" };
            bar.stretches.push(Stretch { from: bar.from, to: timeline.to, went, what: what.to_owned() });
        }
        // An attempt that is still to come is drawn up to now.
        for stretch in timeline.bars.iter_mut().flat_map(|bar| &mut bar.stretches) {
            stretch.to = stretch.to.min(timeline.to);
            stretch.from = stretch.from.min(stretch.to);
        }
        timeline.left_out = timeline.bars.len().saturating_sub(MOST_BARS);
        timeline.bars.truncate(MOST_BARS);
        timeline
    }

    fn width(&self) -> u64 {
        self.to.saturating_sub(self.from).max(1)
    }

    /// Where a time is, in percent; a little room stays at both ends.
    fn x(&self, at: u64) -> f64 {
        0.5 + at.saturating_sub(self.from) as f64 * 98.0 / self.width() as f64
    }

    pub(super) fn render(&self) -> Markup {
        let height = AXIS + ROW * (self.bars.len() + usize::from(!self.marks.is_empty()));
        html! {
            div.head {
                h2 #timeline-title { "Timeline" }
                div.head-end {
                    span.dim { (duration(self.width())) }
                    div.group role="group" aria-label="Zoom" {
                        button.small type="button" data-zoom="0.5" aria-label="Narrower" { "−" }
                        button.small type="button" data-zoom="0" { "Fit" }
                        button.small type="button" data-zoom="2" aria-label="Wider" { "+" }
                    }
                }
            }
            @if self.bars.is_empty() && self.marks.is_empty() {
                p.dim { "It has asked for nothing that takes time." }
            } @else {
                div.timeline {
                    ol.labels {
                        @if !self.marks.is_empty() { li { span.kind.k-event { "in" } span.name { "from outside" } } }
                        @for bar in &self.bars {
                            li { a href=(format!("#e{}", bar.event)) title=(bar.label) {
                                span .kind .{ "k-" (bar.kind) } { (bar.kind) }
                                span.name { (bar.label) @if bar.attempts > 1 { " ×" (bar.attempts) } }
                                span.took { (self.took(bar)) }
                            } }
                        }
                    }
                    div.chart tabindex="0" role="region" aria-label="Bars on a time axis" {
                        svg.bars role="img" aria-label=(format!("{} operations in {}", self.bars.len(), duration(self.width()))) height=(height) width="100%" {
                            @for (x, label) in self.ticks() {
                                line.tick x1=(x) x2=(x) y1=(AXIS - 6) y2=(height) {}
                                text.tick x=(x) y="13" dx="3" { (label) }
                            }
                            @for (at, event, what) in &self.marks {
                                a href=(format!("#e{event}")) tabindex="-1" {
                                    circle.mark cx=(percent(self.x(*at))) cy=(AXIS + ROW / 2) r="5" { title { (what) } }
                                }
                            }
                            @for (row, bar) in self.bars.iter().enumerate() {
                                @let y = AXIS + ROW * (row + usize::from(!self.marks.is_empty()));
                                @for stretch in &bar.stretches { (self.stretch(bar, stretch, y)) }
                            }
                        }
                    }
                }
                @if self.left_out > 0 { p.dim { (self.left_out) " more are not drawn." } }
            }
        }
    }

    fn stretch(&self, bar: &Bar, stretch: &Stretch, y: usize) -> Markup {
        let (x, end) = (self.x(stretch.from), self.x(stretch.to));
        let title = format!("{}: {} ({})", bar.label, stretch.what, duration(stretch.to.saturating_sub(stretch.from)));
        let class = match stretch.went {
            Went::Well => "s-well",
            Went::Failed => "s-failed",
            Went::Cancelled => "s-cancelled",
            Went::BackOff => "s-back-off",
            Went::Pending => "s-pending",
        };
        html! {
            @if stretch.went == Went::BackOff {
                line .(class) x1=(percent(x)) x2=(percent(end)) y1=(y + ROW / 2) y2=(y + ROW / 2) { title { (title) } }
            } @else {
                rect .(class) .{ "b-" (bar.kind) } x=(percent(x)) y=(y + 6) width=(percent(end - x)) height=(ROW - 12) rx="3" { title { (title) } }
            }
        }
    }

    fn took(&self, bar: &Bar) -> String {
        let (from, to) = bar.stretches.iter().fold((u64::MAX, 0), |(from, to), s| (from.min(s.from), to.max(s.to)));
        duration(to.saturating_sub(from.min(to)))
    }

    /// Four to nine lines at round times.
    fn ticks(&self) -> Vec<(String, String)> {
        const SECOND: u64 = 1000;
        let steps = [1, 2, 5, 10, 20, 50, 100, 200, 500].into_iter();
        let steps = steps.chain([1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600].map(|s| s * SECOND));
        let steps = steps.chain([2, 4, 6, 12, 24, 48, 168, 720, 8760].map(|hours| hours * 3600 * SECOND));
        let step = steps.into_iter().find(|step| self.width() / step <= 8).unwrap_or(self.width());
        let times = (0..=self.width() / step).map(|n| n * step);
        // The text stands to the right of its line, and must have room there.
        let labelled = |after: u64| if self.x(self.from + after) > 95.0 { String::new() } else { duration(after) };
        times.map(|after| (percent(self.x(self.from + after)), labelled(after))).collect()
    }
}

fn percent(x: f64) -> String {
    format!("{x:.3}%")
}

#[derive(Default)]
struct Drawing {
    bars: Vec<Bar>,
    marks: Vec<(u64, u64, String)>,
    of_operation: BTreeMap<u64, usize>,
    of_request: BTreeMap<u64, usize>,
}

impl Drawing {
    fn take(&mut self, event: &Value) {
        let (kind, at) = (text(event, "kind"), millis(text(event, "at")));
        let (number, name) = (event["event"].as_u64().unwrap_or(0), text(event, "name").to_owned());
        let operation = event["operation"].as_u64();
        match (kind, operation) {
            ("activity-scheduled", Some(operation)) => self.open(operation, "activity", name, number, at),
            ("timer-scheduled", Some(operation)) => {
                let wait = event["fire_at"].as_u64().unwrap_or(at).saturating_sub(at);
                self.open(operation, "timer", format!("timer of {}", duration(wait)), number, at);
            }
            ("event-awaited", Some(operation)) => self.open(operation, "event", name, number, at),
            ("activity-attempt-failed" | "orchestration-attempt-failed", Some(operation)) => {
                self.attempt_failed(operation, at, event)
            }
            ("operation-cancelled", Some(operation)) => {
                self.close(operation, at, Went::Cancelled, "cancelled".to_owned())
            }
            ("event-raised" | "event-raised-once", _) => {
                self.marks.push((at, number, format!("event {name}")));
                let waits = self.bars.iter().position(|bar| bar.open && bar.kind == "event" && bar.label == name);
                if let Some(waits) = waits {
                    self.close_bar(waits, at, Went::Well, "came".to_owned());
                }
            }
            ("request-received", _) => {
                self.marks.push((at, number, format!("{} {name}", text(event, "request_kind"))));
                self.bars.push(Bar::new("request", name, number, at));
                self.of_request.insert(event["id"].as_u64().unwrap_or(0), self.bars.len() - 1);
            }
            ("responded", _) => {
                if let Some(bar) = self.of_request.remove(&event["request"].as_u64().unwrap_or(0)) {
                    self.close_bar(bar, at, Went::Well, "answered".to_owned());
                }
            }
            ("cancel-requested" | "suspended" | "resumed" | "terminated", _) => {
                self.marks.push((at, number, kind.replace('-', " ")));
            }
            (kind, Some(operation)) if kind.ends_with("-failed") => {
                self.close(operation, at, Went::Failed, failure(event));
            }
            (kind, Some(operation)) if kind.ends_with("-completed") || kind.ends_with("-fired") => {
                self.close(operation, at, Went::Well, "done".to_owned());
            }
            // Something that takes time and is not known here: an operation that was asked for.
            (kind, Some(operation))
                if kind.ends_with("-scheduled") || kind.ends_with("-called") || kind.ends_with("-started") =>
            {
                let label = if name.is_empty() { kind.replace('-', " ") } else { name };
                self.open(operation, "call", label, number, at);
            }
            _ => {}
        }
    }

    fn open(&mut self, operation: u64, kind: &'static str, label: String, event: u64, at: u64) {
        self.bars.push(Bar::new(kind, label, event, at));
        self.of_operation.insert(operation, self.bars.len() - 1);
    }

    fn close(&mut self, operation: u64, at: u64, went: Went, what: String) {
        if let Some(bar) = self.of_operation.remove(&operation) {
            self.close_bar(bar, at, went, what);
        }
    }

    fn close_bar(&mut self, bar: usize, at: u64, went: Went, what: String) {
        let bar = &mut self.bars[bar];
        if bar.open {
            bar.open = false;
            bar.stretches.push(Stretch { from: bar.from.min(at), to: at, went, what });
        }
    }

    fn attempt_failed(&mut self, operation: u64, at: u64, event: &Value) {
        let Some(bar) = self.of_operation.get(&operation).map(|bar| &mut self.bars[*bar]) else { return };
        let next = event["retry_at"].as_u64().unwrap_or(at);
        let what = format!("attempt {} failed: {}", event["attempt"], failure(event));
        bar.stretches.push(Stretch { from: bar.from.min(at), to: at, went: Went::Failed, what });
        bar.stretches.push(Stretch {
            from: at,
            to: next,
            went: Went::BackOff,
            what: "waits for the next attempt".to_owned(),
        });
        bar.from = next;
        bar.attempts += 1;
    }
}

fn failure(event: &Value) -> String {
    let failure = &event["failure"];
    let message = failure["message"].as_str().unwrap_or("failed");
    crate::core::payload::shortened(message, 200)
}

impl Bar {
    fn new(kind: &'static str, label: String, event: u64, from: u64) -> Self {
        Self { label, kind, event, from, open: true, stretches: Vec::new(), attempts: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(number: u64, second: u64, fields: Value) -> Value {
        let mut event = json!({ "event": number, "at": format!("2026-01-01T00:00:{second:02}Z") });
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        event
    }

    #[test]
    fn attempts_back_off_and_what_is_not_over_are_stretches_of_a_bar() {
        let start = millis("2026-01-01T00:00:00Z");
        let events = [
            event(1, 0, json!({ "kind": "activity-scheduled", "operation": 1, "name": "hotel.book" })),
            event(
                2,
                2,
                json!({ "kind": "activity-attempt-failed", "operation": 1, "attempt": 1, "retry_at": start + 4000, "failure": { "message": "full" } }),
            ),
            event(3, 5, json!({ "kind": "activity-completed", "operation": 1 })),
            event(4, 5, json!({ "kind": "event-awaited", "operation": 2, "name": "paid" })),
            event(5, 6, json!({ "kind": "event-raised", "name": "paid" })),
            event(6, 6, json!({ "kind": "timer-scheduled", "operation": 3, "fire_at": start + 60_000 })),
        ];
        let timeline = Timeline::of(&events, start + 10_000, true);
        let stretches = |bar: usize| {
            let stretches = timeline.bars[bar].stretches.iter();
            stretches.map(|s| (s.from - start, s.to - start, s.went)).collect::<Vec<_>>()
        };
        assert_eq!(stretches(0), [(0, 2000, Went::Failed), (2000, 4000, Went::BackOff), (4000, 5000, Went::Well)]);
        assert_eq!(timeline.bars[0].attempts, 2);
        assert_eq!(stretches(1), [(5000, 6000, Went::Well)]);
        assert_eq!(stretches(2), [(6000, 10_000, Went::Pending)]);
        assert_eq!(timeline.marks.len(), 1);
        // Before the next attempt is due, nothing goes beyond now.
        let early = Timeline::of(&events[..2], start + 3000, true);
        let ends = early.bars[0].stretches.iter().map(|s| (s.from - start, s.to - start));
        assert_eq!(ends.collect::<Vec<_>>(), [(0, 2000), (2000, 3000), (3000, 3000)]);
        let ticks = timeline.ticks();
        assert!((4..=9).contains(&ticks.len()), "{ticks:?}");
    }
}

//! A replay asked for something else than what was recorded: where, what is
//! recorded, what was asked, which field of it differs, and what can be done.

mod report;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::report::Report;
use super::event::{Event, Origin};
use super::payload::shortened;
use super::turn::TurnRecord;

/// A place in a guest's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLine {
    /// The function, as its language names it.
    pub function: String,
    /// The file, as the compiler knew it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        // Bodies of async functions have no name of their own.
        if self.function.starts_with('{') { Ok(()) } else { write!(f, " in {}", self.function) }
    }
}

/// A replay asked for something else than what was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// The instance whose history it is.
    pub instance: String,
    /// The event's number, from 1.
    pub event: u32,
    /// Its turn's number, from 1.
    pub turn: u32,
    /// What the history has there; none where the recorded turn had ended.
    pub recorded: Option<Event>,
    /// What the guest did instead; none where it asked for nothing more.
    pub asked: Option<Event>,
    /// Where later in the history the very thing that was asked is recorded, see
    /// [`Self::look_ahead`].
    pub recorded_later: Option<u32>,
    /// The module that the history is pinned to, and the one that was replayed,
    /// where they are two: the short form of their hashes.
    pub modules: Option<(String, String)>,
    /// Where in the guest's source it was asked, the innermost line first; empty
    /// where nothing was asked, or where the module has no line tables.
    pub source: Vec<SourceLine>,
    /// The last event that both have in common and behind which the history can be
    /// cut: a fork there goes on in either way.
    pub common: u32,
}

/// The first field in which two events differ.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// Something of another kind was asked.
    Kind,
    /// The guest asked for nothing where something is recorded.
    Missing,
    /// The guest asked where the recorded turn had ended.
    Extra,
    /// What was asked is recorded, but later.
    Order {
        /// Where it is recorded.
        recorded_at: u32,
    },
    /// A field of the same kind of event.
    Field {
        /// Its path: `input.nights`.
        path: String,
        /// What is recorded there.
        recorded: Value,
        /// What was asked.
        asked: Value,
    },
    /// The same JSON, in other bytes.
    Bytes,
}

impl Divergence {
    /// Notes where in `turns`, the history from event number `first` on, the thing
    /// that was asked is recorded after the difference: then the order changed, or
    /// something was left out.
    pub fn look_ahead(&mut self, first: u32, turns: &[TurnRecord]) {
        let Some(asked) = self.asked.as_ref().map(unnumbered) else { return };
        if matches!(asked, Event::NowRead { .. } | Event::RandomDrawn { .. } | Event::GuidGenerated { .. }) {
            return;
        }
        let numbered = (first..).zip(turns.iter().flat_map(|turn| &turn.events));
        let mut after = numbered.skip_while(|(number, _)| *number <= self.event);
        self.recorded_later = after.find(|(_, event)| unnumbered(event) == asked).map(|(number, _)| number);
    }

    /// What differs, first of all.
    pub fn difference(&self) -> Difference {
        match (&self.recorded, &self.asked) {
            (_, None) => Difference::Missing,
            (None, Some(_)) => Difference::Extra,
            _ if self.recorded_later.is_some() => {
                Difference::Order { recorded_at: self.recorded_later.unwrap_or_default() }
            }
            (Some(recorded), Some(asked)) if recorded.kind() != asked.kind() => Difference::Kind,
            (Some(recorded), Some(asked)) => first_field(&recorded.to_json(), &asked.to_json(), String::new())
                // JSON that says the same in other bytes was written by other code, too.
                .unwrap_or(Difference::Bytes),
        }
    }

    /// One line: what differs.
    pub fn what_differs(&self) -> String {
        let kind = |event: &Option<Event>| event.as_ref().map_or("nothing", Event::kind);
        match self.difference() {
            Difference::Missing if self.recorded.as_ref().is_some_and(|r| r.origin() == Origin::Outcome) => {
                "the guest waits where the recording has ended".to_owned()
            }
            Difference::Missing => format!("the guest did not ask for the {} any more", kind(&self.recorded)),
            Difference::Extra => format!("the {} is new: the recorded turn had ended", kind(&self.asked)),
            Difference::Order { recorded_at } => format!(
                "the order: what was asked is recorded as event {recorded_at}, so the {} of event {} is left out or \
                 comes later",
                kind(&self.recorded),
                self.event
            ),
            Difference::Kind => format!("the kind: recorded {}, asked {}", kind(&self.recorded), kind(&self.asked)),
            Difference::Field { path, recorded, asked } => {
                let show = |value: &Value| shortened(&value.to_string(), 120);
                format!("{path}: recorded {}, asked {}", show(&recorded), show(&asked))
            }
            Difference::Bytes => "the bytes: the same JSON, written in another way".to_owned(),
        }
    }

    /// The three likely repairs.
    pub fn repairs(&self) -> [String; 3] {
        let instance = &self.instance;
        match &self.modules {
            Some((recorded, _)) => [
                format!(
                    "the change is for new instances only: upload it as a new version; {instance} stays with {recorded}"
                ),
                format!(
                    "the change is for running instances too: keep the recorded way beside it, \
                     `if ctx.patched(\"{}\") {{ new }} else {{ as recorded }}`; `dacapo check NEW --migrate` then moves \
                     those that match",
                    self.name_of_patch()
                ),
                format!(
                    "{instance} itself must take the new way: upload it, end {instance} (`dacapo terminate {instance}`) and \
                     go on in its place with `dacapo fork {instance} --at {} --module NAME@VERSION`; what it did after that \
                     event is done, and is not undone",
                    self.common
                ),
            ],
            // The very module that was recorded: no change of code explains it.
            None => [
                "the host changed: run it with the version of dacapo that recorded it, and report the difference as an \
                 error; a module alone cannot differ from itself"
                    .to_owned(),
                "the compiled module is at fault: remove the folder `cache` in the data folder, it is made again"
                    .to_owned(),
                format!("neither helps: end it (`dacapo terminate {instance}`) and start it again"),
            ],
        }
    }

    /// What a branch for the change could be called.
    fn name_of_patch(&self) -> String {
        let named = [&self.asked, &self.recorded].into_iter().flatten().find_map(|event| match event {
            Event::ActivityScheduled(call) => Some(call.name.as_str()),
            Event::EventAwaited { name, .. } | Event::ValueRecorded { name, .. } | Event::TagSet { name, .. } => {
                Some(name.as_str())
            }
            _ => None,
        });
        let plain: String =
            named.unwrap_or("this change").chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        format!("{plain}-2")
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        let (path, values) = match self.difference() {
            Difference::Field { path, recorded, asked } => (path, json!({ "recorded": recorded, "asked": asked })),
            Difference::Kind => ("kind".to_owned(), Value::Null),
            Difference::Order { .. } => ("order".to_owned(), Value::Null),
            Difference::Missing | Difference::Extra => ("presence".to_owned(), Value::Null),
            Difference::Bytes => ("bytes".to_owned(), Value::Null),
        };
        json!({
            "event": self.event,
            "turn": self.turn,
            "recorded": self.recorded.as_ref().map(Event::to_json),
            "asked": self.asked.as_ref().map(Event::to_json),
            "field": path,
            "values": values,
            "differs": self.what_differs(),
            "recorded_later": self.recorded_later,
            "source": self.source,
            "modules": self.modules.as_ref().map(|(recorded, replayed)| json!({ "recorded": recorded, "replayed": replayed })),
            "common": self.common,
            "repairs": self.repairs(),
        })
    }
}

/// The event without the number of its operation, which depends on what came before.
fn unnumbered(event: &Event) -> Event {
    let mut event = event.clone();
    match &mut event {
        Event::ActivityScheduled(call) => Arc::make_mut(call).operation = 0,
        Event::TimerScheduled { operation, .. }
        | Event::EventAwaited { operation, .. }
        | Event::OperationRefused { operation, .. } => *operation = 0,
        _ => {}
    }
    event
}

fn shown(event: &Option<Event>, width: usize) -> String {
    event.as_ref().map_or_else(|| "nothing".to_owned(), |event| format!("{} {}", event.kind(), event.summary(width)))
}

/// One line, as errors have it.
impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "replay of {} diverged at event {}: recorded {}, got {}",
            self.instance,
            self.event,
            shown(&self.recorded, 200),
            shown(&self.asked, 200)
        )?;
        if let Difference::Field { .. } | Difference::Order { .. } = self.difference() {
            write!(f, " ({})", self.what_differs())?;
        }
        if let Some(source) = self.source.first() {
            write!(f, " at {source}")?;
        }
        match &self.modules {
            Some(_) => write!(f, "; upload the change as a new version"),
            None => {
                write!(f, "; its module is the recorded one, so the host differs: use the version that recorded it")
            }
        }
    }
}

impl std::error::Error for Divergence {}

/// The first difference of two JSON values, in the order of the recorded one.
fn first_field(recorded: &Value, asked: &Value, path: String) -> Option<Difference> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (recorded, asked) {
        (Value::Object(a), Value::Object(b)) => a
            .iter()
            .find_map(|(name, value)| first_field(value, b.get(name).unwrap_or(&Value::Null), below(name)))
            .or_else(|| {
                let (name, value) = b.iter().find(|(name, _)| !a.contains_key(*name))?;
                first_field(&Value::Null, value, below(name))
            }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            (0..).zip(a.iter().zip(b)).find_map(|(at, (a, b))| first_field(a, b, format!("{path}[{at}]")))
        }
        _ if recorded == asked => None,
        _ => Some(Difference::Field { path, recorded: recorded.clone(), asked: asked.clone() }),
    }
}

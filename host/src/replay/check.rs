//! Upgrade check: would this module have done what a history says?
//!
//! A history is replayed with another module than the one that wrote it. What
//! comes out is one [`Verdict`] for each history; nothing is changed and nothing
//! is let out.

use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::{Replayed, Unwatched, replay};
use crate::core::event::{Event, Origin};
use crate::core::turn::{Divergence, TurnRecord};
use crate::sandbox::settings::SandboxSettings;
use crate::sandbox::{OrchestrationModule, Sandbox};

/// Guests of one check that are in memory at the same time, at most.
const THREADS: usize = 16;

/// What a module makes of a history.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It asks for the same, event by event.
    Same,
    /// It asks for something else.
    Differs(Box<Divergence>),
    /// It ends where the history goes on, goes on where the history ends, or ends
    /// with something else.
    EndedDifferently(Box<Divergence>),
    /// It cannot run that history at all.
    CannotRun(String),
}

/// A module that histories are checked against.
#[derive(Debug)]
pub struct Candidate {
    /// The module, ready to run.
    pub module: OrchestrationModule,
    /// The orchestrations that it offers, and those of its entities.
    pub runs: Vec<String>,
}

/// One line of a check's table.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Whose history: an id, or a file.
    pub name: String,
    /// Which life of it.
    pub execution: u32,
    /// Its orchestration.
    pub orchestration: String,
    /// Events that matched.
    pub matched: u32,
    /// Events of the history.
    pub events: u32,
    /// The result.
    pub verdict: Verdict,
    /// Whether the instance was moved to the module, or why not.
    pub migrated: Option<Result<(), String>>,
}

impl Candidate {
    /// Whether it offers `orchestration`.
    pub fn runs(&self, orchestration: &str) -> bool {
        self.runs.iter().any(|name| name == orchestration)
    }

    /// Replays `records` with it.
    pub fn check(&self, name: &str, records: &[TurnRecord]) -> Checked {
        let started = records.first().and_then(|first| match first.events.first() {
            Some(Event::ExecutionStarted(started)) => Some(started),
            _ => None,
        });
        let (orchestration, execution) = started.map_or((String::new(), 0), |s| (s.orchestration.clone(), s.execution));
        let (verdict, matched) = if started.is_some() && !self.runs(&orchestration) {
            let why = format!("the module has no orchestration {orchestration:?}, it has {}", self.runs.join(", "));
            (Verdict::CannotRun(why), 0)
        } else {
            let replayed = replay(&self.module, records, &mut Unwatched);
            (verdict(&replayed), replayed.events)
        };
        let events = records.iter().map(|record| record.events.len() as u32).sum();
        Checked { name: name.to_owned(), execution, orchestration, matched, events, verdict, migrated: None }
    }
}

fn verdict(replayed: &Replayed) -> Verdict {
    let is_end = |event: &Option<Event>| event.as_ref().is_some_and(|event| event.origin() == Origin::Outcome);
    match (&replayed.divergence, &replayed.error) {
        (Some(found), _) if is_end(&found.recorded) || is_end(&found.asked) => Verdict::EndedDifferently(found.clone()),
        (Some(found), _) => Verdict::Differs(found.clone()),
        (None, Some(why)) => Verdict::CannotRun(why.clone()),
        (None, None) => Verdict::Same,
    }
}

/// Guests that [`in_parallel`] runs side by side.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(THREADS)
}

/// A sandbox for checks alone, so that they take no room from instances that run.
/// Compiled modules are kept in `cache`, if given.
///
/// # Errors
/// If this machine cannot give the memory.
pub fn sandbox_of(settings: &SandboxSettings, cache: Option<PathBuf>) -> Result<Sandbox, String> {
    let resident_guests = settings.resident_guests.min(2 * THREADS as u32);
    let settings = SandboxSettings { resident_guests, ..settings.clone() };
    Sandbox::new(settings, cache).map_err(|error| format!("{error:#}"))
}

/// `work` on each item, on all processors; results in the items' order.
pub fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    let unpoisoned = std::sync::PoisonError::into_inner;
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let Some((number, item)) = queue.lock().unwrap_or_else(unpoisoned).next() else { break };
                    let result = work(item);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

impl Checked {
    /// Whether the module does what the history says.
    pub fn is_same(&self) -> bool {
        self.verdict == Verdict::Same
    }

    /// The result in a few words.
    pub fn result(&self) -> String {
        match &self.verdict {
            Verdict::Same => "same".to_owned(),
            Verdict::Differs(found) => format!("differs at event {}", found.event),
            Verdict::EndedDifferently(found) => format!("ended differently at event {}", found.event),
            Verdict::CannotRun(_) => "cannot run".to_owned(),
        }
    }

    /// The line as JSON.
    pub fn to_json(&self) -> Value {
        let side = |event: &Option<Event>| event.as_ref().map(Event::to_json);
        let words = |event: &Option<Event>| {
            let text = event.as_ref().map(|event| format!("{} {}", event.kind(), event.summary(200)));
            text.unwrap_or_else(|| "nothing".to_owned())
        };
        let mut line = json!({
            "id": self.name,
            "execution": self.execution,
            "orchestration": self.orchestration,
            "events": self.events,
            "matched": self.matched,
            "result": match &self.verdict {
                Verdict::Same => "same",
                Verdict::Differs(_) => "differs",
                Verdict::EndedDifferently(_) => "ended-differently",
                Verdict::CannotRun(_) => "cannot-run",
            },
            "summary": self.result(),
        });
        match &self.verdict {
            Verdict::Differs(found) | Verdict::EndedDifferently(found) => {
                line["event"] = found.event.into();
                line["recorded"] = json!(side(&found.recorded));
                line["asked"] = json!(side(&found.asked));
                line["recorded_summary"] = words(&found.recorded).into();
                line["asked_summary"] = words(&found.asked).into();
                line["report"] = json!(found.in_words());
            }
            Verdict::CannotRun(why) => line["why"] = why.as_str().into(),
            Verdict::Same => {}
        }
        if let Some(migrated) = &self.migrated {
            line["migrated"] = migrated.is_ok().into();
            if let Err(why) = migrated {
                line["not_migrated"] = why.as_str().into();
            }
        }
        line
    }
}

/// A whole check as JSON: its lines and how many of each result.
pub fn report(checked: &[Checked]) -> Value {
    let count = |is: &dyn Fn(&Checked) -> bool| checked.iter().filter(|line| is(line)).count();
    json!({
        "checked": checked.iter().map(Checked::to_json).collect::<Vec<_>>(),
        "same": count(&Checked::is_same),
        "different": count(&|line| !line.is_same()),
        "migrated": count(&|line| matches!(line.migrated, Some(Ok(())))),
    })
}

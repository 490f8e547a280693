//! The desk: where all activities are answered, and each call is noted.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, Weak};

use dacapo::core::event::Event;
use dacapo::core::payload::{Failure, FailureKind, Outcome, Payload};
use dacapo::engine::Task;
use dacapo::store::Store as _;
use serde_json::Value;
use tokio::sync::oneshot;

use super::store::WatchedStore;
use super::{lock, wait_for};

/// One attempt of an activity, as it reached whoever does the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) input: String,
    pub(crate) attempt: u32,
    pub(crate) key: String,
    /// The context that it was told, where spans are told.
    pub(crate) traceparent: Option<String>,
    /// Whether the journal held the call, at that moment.
    pub(crate) was_durable: bool,
}

/// An attempt that waits for its answer; dropped, it never gets one.
pub(crate) struct Held {
    pub(crate) task: Arc<Task>,
    reply: oneshot::Sender<Outcome>,
}

impl Held {
    pub(crate) fn answer(self, outcome: Outcome) {
        let _ = self.reply.send(outcome);
    }

    /// Answers as the desk does by itself.
    pub(crate) fn go_on(self) {
        let outcome = by_itself(&self.task);
        self.answer(outcome);
    }
}

/// Where all activities are answered. By itself it answers at once; see [`by_itself`].
#[derive(Default)]
pub(crate) struct Desk {
    state: Mutex<DeskState>,
    changed: Condvar,
}

#[derive(Default)]
struct DeskState {
    calls: Vec<Call>,
    held_names: Vec<String>,
    held: Vec<Held>,
    scripts: HashMap<String, Vec<Outcome>>,
    store: Weak<WatchedStore>,
}

impl Desk {
    /// From now on, calls of `name` wait for an answer.
    pub(crate) fn hold(&self, name: &str) {
        lock(&self.state).held_names.push(name.to_owned());
    }

    /// From now on, calls of `name` are answered at once again, and those that wait too.
    pub(crate) fn release_all(&self, name: &str) {
        self.release(name);
        let mut state = lock(&self.state);
        let (waiting, rest) = std::mem::take(&mut state.held).into_iter().partition(|held| held.task.name == name);
        state.held = rest;
        drop(state);
        let waiting: Vec<Held> = waiting;
        waiting.into_iter().for_each(Held::go_on);
    }

    /// From now on, calls of `name` are answered at once again.
    pub(crate) fn release(&self, name: &str) {
        lock(&self.state).held_names.retain(|held| held != name);
    }

    /// The next attempts of `name` get these answers.
    pub(crate) fn script(&self, name: &str, answers: impl IntoIterator<Item = Outcome>) {
        lock(&self.state).scripts.entry(name.to_owned()).or_default().extend(answers);
    }

    /// Waits for a held call of `name`.
    pub(crate) fn next(&self, name: &str) -> Held {
        wait_for(&self.state, &self.changed, name, |state| {
            let at = state.held.iter().position(|held| held.task.name == name)?;
            Some(state.held.remove(at))
        })
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.state).calls.clone()
    }

    /// Calls of `name`.
    pub(crate) fn calls_of(&self, name: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.name == name).collect()
    }

    /// Another host has its activities answered here.
    pub(super) fn serve(&self, store: &Arc<WatchedStore>) {
        lock(&self.state).store = Arc::downgrade(store);
    }

    /// The host is gone, and what it waited for with it.
    pub(super) fn forget(&self) {
        lock(&self.state).held.clear();
    }

    pub(super) fn take(&self, task: &Arc<Task>) -> Result<Outcome, oneshot::Receiver<Outcome>> {
        let Some(store) = lock(&self.state).store.upgrade() else {
            // Its host is dead, and has only not noticed.
            return Err(oneshot::channel().1);
        };
        // Held until the call is noted: whoever drops a host waits for that.
        let was_durable = is_scheduled(&store, task);
        let mut state = lock(&self.state);
        state.calls.push(Call {
            name: task.name.clone(),
            input: task.input.to_string(),
            attempt: task.attempt,
            key: task.idempotency_key(),
            traceparent: task.traceparent.clone(),
            was_durable,
        });
        let is_held = state.held_names.contains(&task.name);
        let scripted = state.scripts.get_mut(&task.name).filter(|script| !script.is_empty());
        let answer = match scripted {
            Some(script) => Ok(script.remove(0)),
            None if is_held => {
                let (reply, answer) = oneshot::channel();
                state.held.push(Held { task: task.clone(), reply });
                Err(answer)
            }
            None => Ok(by_itself(task)),
        };
        drop(state);
        self.changed.notify_all();
        answer
    }
}

/// `step.square` squares, `step.keep` returns what it is given, `step.do` cannot
/// do `three`; the others say their name and what they were given.
pub(crate) fn by_itself(task: &Task) -> Outcome {
    let input = task.input.to_json().expect("guests send JSON");
    let answer: Value = match task.name.as_str() {
        "step.square" => input.as_u64().map(|n| n * n).into(),
        "step.keep" | "step.keep_text" => input,
        "step.do" if input == "three" => return failed("NoSeat", "there is no seat left"),
        name => format!("{}({})", name.trim_start_matches("step."), input.as_str().unwrap_or_default()).into(),
    };
    Ok(Payload::json(answer.to_string()))
}

pub(crate) fn failed(error_type: &str, message: &str) -> Outcome {
    let failure = Failure::retryable(FailureKind::Application, message);
    Err(Failure { error_type: error_type.to_owned(), ..failure })
}

pub(crate) fn text(answer: &str) -> Outcome {
    Ok(Payload::of(answer).expect("text is JSON"))
}

fn is_scheduled(store: &WatchedStore, task: &Task) -> bool {
    let history = store.history(&task.instance, Some(task.execution)).expect("a readable store");
    let records = history.map(|history| history.decode().expect("a sound history")).unwrap_or_default();
    records.iter().flat_map(|record| &record.events).any(|event| {
        matches!(event, Event::ActivityScheduled(call)
            if call.operation == task.operation && call.name == task.name && call.input == task.input)
    })
}

//! Test orchestrations in the real sandbox, in virtual time.
//!
//! A test runs the crate as it will run in production: built to WebAssembly, in
//! the sandbox of the `dacapo` program, recorded event by event. Time is virtual
//! (a delay of thirty days takes none), activities are closures, and nothing is
//! written anywhere. The program is `$DACAPO`, else the `dacapo` in the path.
//!
//! ```no_run
//! use dacapo_testkit::{Failure, TestKit, json};
//! use std::time::Duration;
//!
//! let mut kit = TestKit::open(env!("CARGO_MANIFEST_DIR"));
//! kit.activity("invoices.issue", |_| Ok("I-1"));
//! kit.results("mail.send", [Err(Failure::new("Busy", "try later")), Ok(json!(null))]);
//! kit.start("order-42", "invoice", json!({ "amount": 100 }));
//! kit.raise_after(Duration::from_secs(30 * 86_400), "order-42", "paid", json!("in cash"));
//! kit.run();
//! assert_eq!(kit.output::<String>("order-42"), "I-1 paid in cash");
//! assert_eq!(kit.history("order-42").count("activity-attempt-failed"), 1);
//! assert!(kit.elapsed() >= Duration::from_secs(30 * 86_400));
//! ```
//!
//! Instances may call and signal each other, also by virtual time: those that are
//! called run in the same sandbox and are asserted on by their ids. Updates and queries
//! are served:
//!
//! ```no_run
//! # use dacapo_testkit::{TestKit, json};
//! # let mut kit = TestKit::open(".");
//! kit.start("loom", "assembly", json!({ "parts": ["frame"] }));
//! kit.run();
//! assert_eq!(kit.instances(), ["loom", "loom-frame"]);
//! let more = kit.update("loom", "add", "shuttle");
//! kit.run();
//! assert_eq!(kit.answer::<u32>(&more), Some(Ok(2)));
//! assert_eq!(kit.query::<u32>("loom", "parts", ()), Ok(2));
//! ```
//!
//! That a history which was recorded once must still replay is one line:
//!
//! ```no_run
//! dacapo_testkit::assert_replays(env!("CARGO_MANIFEST_DIR"), "tests/histories/order-42.dacapo");
//! ```
//!
//! The SDK is not run natively in place of a guest: what is tested would be
//! another program, with another executor, another allocator and real clocks.

mod history;
mod host;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
pub use serde_json::json;

pub use self::history::History;
use self::host::Host;

/// Why an activity or an orchestration failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of trouble: `application` for an activity's own.
    pub kind: String,
    /// What retry policies match.
    #[serde(default)]
    pub error_type: String,
    /// For people.
    pub message: String,
    /// No retry policy may try again.
    #[serde(default)]
    pub non_retryable: bool,
    /// For programs.
    #[serde(default)]
    pub details: Option<Box<Value>>,
}

impl Failure {
    /// An activity's own failure.
    pub fn new(error_type: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "application".to_owned(),
            error_type: error_type.to_owned(),
            message: message.into(),
            non_retryable: false,
            details: None,
        }
    }

    /// The same, and no retry policy may try again.
    #[must_use]
    pub fn non_retryable(self) -> Self {
        Self { non_retryable: true, ..self }
    }
}

/// One attempt of an activity.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// The instance that called.
    pub instance: String,
    /// Which life of it.
    pub execution: u32,
    /// Which of its operations.
    pub operation: u32,
    /// From 1.
    pub attempt: u32,
    /// `service.method`.
    pub name: String,
    /// The argument.
    pub input: Value,
    /// The same for every attempt: `instance/execution/operation`.
    pub idempotency_key: String,
}

impl Call {
    /// The argument, decoded.
    ///
    /// # Panics
    /// If it is not of that type.
    #[track_caller]
    pub fn input<T: DeserializeOwned>(&self) -> T {
        decode(&format!("the input of {}", self.name), self.input.clone())
    }
}

/// An update that was sent; see [`TestKit::update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    id: String,
    number: u32,
}

type Act = Box<dyn FnMut(&Call) -> Result<Value, Failure>>;

/// Orchestrations of one crate, under test. See the crate's page.
pub struct TestKit {
    host: Host,
    activities: BTreeMap<String, (Duration, Act)>,
    calls: Vec<Call>,
    /// What comes in later, by time and order: requests to the host.
    later: BTreeMap<(Duration, usize), Value>,
    planned: usize,
    elapsed: Duration,
}

impl std::fmt::Debug for TestKit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestKit").field("calls", &self.calls).field("elapsed", &self.elapsed).finish_non_exhaustive()
    }
}

/// What one [`TestKit::run`] does at most: an orchestration that goes on for ever
/// is tested with [`TestKit::run_for`].
const MOST: usize = 100_000;

impl TestKit {
    /// Builds the crate in `folder` (or reads a `.wasm` file) and puts it into a
    /// sandbox. It is 2026-01-01T00:00:00Z there.
    ///
    /// # Panics
    /// If that is not possible; the message says why.
    #[track_caller]
    pub fn open(folder: impl AsRef<Path>) -> Self {
        Self::open_with(std::env::var_os("DACAPO").unwrap_or_else(|| "dacapo".into()), folder)
    }

    /// As [`Self::open`], with this `dacapo` program.
    ///
    /// # Panics
    /// As [`Self::open`].
    #[track_caller]
    pub fn open_with(dacapo: impl AsRef<Path>, folder: impl AsRef<Path>) -> Self {
        let mut host = Host::start(dacapo.as_ref());
        host.ask(&json!({ "open": { "path": folder.as_ref() } }));
        let (activities, calls, later) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { host, activities, calls, later, planned: 0, elapsed: Duration::ZERO }
    }

    /// Another crate or `.wasm` file, whose orchestrations are called by the name of its
    /// module.
    ///
    /// # Panics
    /// As [`Self::open`].
    #[track_caller]
    pub fn module(&mut self, name: &str, folder: impl AsRef<Path>) {
        self.host.ask(&json!({ "module": { "name": name, "path": folder.as_ref() } }));
    }

    /// What an activity does.
    pub fn activity<T: Serialize>(&mut self, name: &str, act: impl FnMut(&Call) -> Result<T, Failure> + 'static) {
        self.activity_taking(name, Duration::ZERO, act);
    }

    /// What an activity does, and how much virtual time it takes: what takes less
    /// comes back first.
    pub fn activity_taking<T: Serialize>(
        &mut self,
        name: &str,
        time: Duration,
        mut act: impl FnMut(&Call) -> Result<T, Failure> + 'static,
    ) {
        let act = move |call: &Call| act(call).map(|result| serde_json::to_value(result).expect("a result is JSON"));
        self.activities.insert(name.to_owned(), (time, Box::new(act)));
    }

    /// What the attempts of an activity come back with, one after the other.
    pub fn results(&mut self, name: &str, results: impl IntoIterator<Item = Result<Value, Failure>>) {
        let mut results = results.into_iter().collect::<Vec<_>>().into_iter();
        let of = name.to_owned();
        self.activity(name, move |_| results.next().unwrap_or_else(|| panic!("{of} was run more often than expected")));
    }

    /// Starts an instance; it does nothing before [`Self::run`].
    ///
    /// # Panics
    /// If there is no such orchestration, or the id is taken.
    #[track_caller]
    pub fn start(&mut self, id: &str, orchestration: &str, input: impl Serialize) {
        let start = json!({ "id": id, "orchestration": orchestration, "input": input });
        self.host.ask(&json!({ "start": start }));
    }

    /// Raises an event.
    ///
    /// # Panics
    /// If the instance is unknown or has ended.
    #[track_caller]
    pub fn raise(&mut self, id: &str, name: &str, value: impl Serialize) {
        self.host.ask(&json!({ "raise": { "id": id, "name": name, "value": value } }));
    }

    /// Raises an event when so much virtual time has passed from now.
    pub fn raise_after(&mut self, time: Duration, id: &str, name: &str, value: impl Serialize) {
        self.plan(time, json!({ "raise": { "id": id, "name": name, "value": value } }));
    }

    /// Asks an instance for something; [`Self::answer`] tells what came of it.
    ///
    /// # Panics
    /// If the instance is unknown or has ended.
    #[track_caller]
    pub fn update(&mut self, id: &str, name: &str, input: impl Serialize) -> Update {
        let number = self.host.ask(&json!({ "update": { "id": id, "name": name, "input": input } }));
        Update { id: id.to_owned(), number: decode("an update's number", number) }
    }

    /// What an update was answered with; none while it waits for its answer, and for
    /// ever if the instance ended without one.
    ///
    /// # Panics
    /// If the answer is no `T`.
    #[track_caller]
    pub fn answer<T: DeserializeOwned>(&mut self, update: &Update) -> Option<Result<T, Failure>> {
        let Update { id, number } = update;
        let answer = self.host.ask(&json!({ "answer": { "id": id, "update": number } }));
        let answer = outcome(answer)?;
        Some(answer.map(|answer| decode(&format!("the answer of {id}"), answer)))
    }

    /// Asks an instance's own code for its state, as it is now; it may have ended.
    ///
    /// # Errors
    /// What the code says, if it has no such query or cannot answer it.
    ///
    /// # Panics
    /// If there is no such instance, or the answer is no `T`.
    #[track_caller]
    pub fn query<T: DeserializeOwned>(&mut self, id: &str, name: &str, input: impl Serialize) -> Result<T, Failure> {
        let answer = self.host.ask(&json!({ "query": { "id": id, "name": name, "input": input } }));
        let answer = outcome(answer).expect("a query has an answer");
        answer.map(|answer| decode(&format!("the answer of {id} to {name}"), answer))
    }

    /// Asks an instance to end.
    ///
    /// # Panics
    /// If the instance is unknown or has ended.
    #[track_caller]
    pub fn cancel(&mut self, id: &str, reason: &str) {
        self.host.ask(&json!({ "cancel": { "id": id, "reason": reason } }));
    }

    /// Asks an instance to end when so much virtual time has passed from now.
    pub fn cancel_after(&mut self, time: Duration, id: &str, reason: &str) {
        self.plan(time, json!({ "cancel": { "id": id, "reason": reason } }));
    }

    /// Ends an instance at once.
    ///
    /// # Panics
    /// If the instance is unknown or has ended.
    #[track_caller]
    pub fn terminate(&mut self, id: &str, reason: &str) {
        self.host.ask(&json!({ "terminate": { "id": id, "reason": reason } }));
    }

    /// The host dies here and another one takes over: guests are made again by
    /// replay, and activities whose results had not come back are run again.
    #[track_caller]
    pub fn crash(&mut self) {
        self.later.retain(|_, request| request.get("outcome").is_none());
        self.host.ask(&json!("crash"));
    }

    /// Runs until nothing goes on by itself; then every history is replayed.
    ///
    /// # Panics
    /// If an activity is called that the test does not have, or a history does not replay.
    #[track_caller]
    pub fn run(&mut self) {
        for _ in 0..MOST {
            if !self.step(Duration::MAX) {
                self.host.ask(&json!("check"));
                return;
            }
        }
        panic!("still running after {MOST} steps and {:?} of virtual time; use run_for", self.elapsed);
    }

    /// Runs for so much virtual time, then replays every history.
    ///
    /// # Panics
    /// As [`Self::run`].
    #[track_caller]
    pub fn run_for(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.step(end) {}
        self.advance_to(end);
        self.host.ask(&json!("check"));
    }

    /// One thing more, if there is one until `end`.
    #[track_caller]
    fn step(&mut self, end: Duration) -> bool {
        let next = self.host.ask(&json!("next"));
        if let Some(task) = next.get("task") {
            self.act(decode("a task", task.clone()));
            return true;
        }
        let due = next["due"].as_u64().map(|ms| self.elapsed + Duration::from_millis(ms));
        let planned = self.later.first_key_value().map(|((time, _), _)| *time);
        let Some(time) = due.into_iter().chain(planned).min().filter(|time| *time <= end) else {
            return false;
        };
        self.advance_to(time);
        if planned == Some(time)
            && let Some((_, request)) = self.later.pop_first()
        {
            // It may have ended in between: then nobody is there to be told.
            let _ = self.host.try_ask(&request);
        }
        true
    }

    #[track_caller]
    fn act(&mut self, call: Call) {
        let Some((time, act)) = self.activities.get_mut(&call.name) else {
            let known: Vec<_> = self.activities.keys().map(String::as_str).collect();
            panic!(
                "{} calls {:?}, which this test does not have; it has {}",
                call.instance,
                call.name,
                known.join(", ")
            );
        };
        let time = *time;
        let outcome: Result<Value, Failure> = act(&call);
        let outcome = json!({ "outcome": {
            "id": call.instance, "execution": call.execution, "operation": call.operation, "attempt": call.attempt,
            "outcome": outcome,
        } });
        self.calls.push(call);
        if time.is_zero() {
            self.host.ask(&outcome);
        } else {
            self.plan(time, outcome);
        }
    }

    fn plan(&mut self, time: Duration, request: Value) {
        self.planned += 1;
        self.later.insert((self.elapsed + time, self.planned), request);
    }

    fn advance_to(&mut self, time: Duration) {
        if let Some(more) = time.checked_sub(self.elapsed) {
            self.host.ask(&json!({ "advance": { "ms": more.as_millis() as u64 } }));
            self.elapsed = time;
        }
    }

    // ---- what came of it ----

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The attempts of an activity so far.
    pub fn calls(&self, name: &str) -> Vec<&Call> {
        self.calls.iter().filter(|call| call.name == name).collect()
    }

    /// How the instance ended; none while it runs or waits.
    ///
    /// # Panics
    /// If there is no such instance.
    #[track_caller]
    pub fn outcome(&mut self, id: &str) -> Option<Result<Value, Failure>> {
        outcome(self.host.ask(&json!({ "end": { "id": id } })))
    }

    /// The instances, those that were called among them, in the order in which they began.
    #[track_caller]
    pub fn instances(&mut self) -> Vec<String> {
        decode("the instances", self.host.ask(&json!("instances")))
    }

    /// What the instance returned.
    ///
    /// # Panics
    /// If it did not, or returned something else.
    #[track_caller]
    pub fn output<T: DeserializeOwned>(&mut self, id: &str) -> T {
        match self.outcome(id) {
            Some(Ok(output)) => decode(&format!("what {id} returned"), output),
            Some(Err(failure)) => panic!("{id} failed: {} {}", failure.error_type, failure.message),
            None => panic!("{id} has not ended; its history: {:?}", self.history(id).kinds()),
        }
    }

    /// Why the instance failed.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn failure(&mut self, id: &str) -> Failure {
        match self.outcome(id) {
            Some(Err(failure)) => failure,
            other => panic!("{id} has not failed: {other:?}"),
        }
    }

    /// What is recorded of the instance's current execution.
    ///
    /// # Panics
    /// If there is no such instance.
    #[track_caller]
    pub fn history(&mut self, id: &str) -> History {
        History::new(self.host.ask(&json!({ "history": { "id": id } })))
    }

    /// What the instances logged, in order.
    pub fn logs(&mut self) -> Vec<String> {
        let lines = self.host.ask(&json!("logs"));
        lines.as_array().into_iter().flatten().filter_map(|line| Some(line["line"].as_str()?.to_owned())).collect()
    }

    /// Writes the history as a recording, for [`assert_replays`] and `dacapo replay`.
    ///
    /// # Panics
    /// If it cannot be written.
    #[track_caller]
    pub fn save(&mut self, id: &str, file: impl AsRef<Path>) {
        self.host.ask(&json!({ "save": { "id": id, "path": file.as_ref() } }));
    }

    /// Replays a recording with the crate under test.
    ///
    /// # Panics
    /// As [`assert_replays`].
    #[track_caller]
    pub fn assert_replays(&mut self, recording: impl AsRef<Path>) {
        self.host.ask(&json!({ "replay": { "path": recording.as_ref() } }));
    }
}

/// Replays a recording with the crate in `folder`: what ran once must run the
/// same today, or running instances would not survive the change. A relative
/// `recording` is read against `folder`.
///
/// # Panics
/// With the first difference: what was recorded, what is asked for now.
#[track_caller]
pub fn assert_replays(folder: impl AsRef<Path>, recording: impl AsRef<Path>) {
    let recording = folder.as_ref().join(recording);
    TestKit::open(folder).assert_replays(recording);
}

/// How something ended, as the host tells it; none: it has not.
#[track_caller]
fn outcome(mut told: Value) -> Option<Result<Value, Failure>> {
    let (kind, value) = told.as_object_mut()?.iter_mut().next()?;
    Some(match kind.as_str() {
        "completed" => Ok(value.take()),
        "failed" => Err(decode("a failure", value.take())),
        _ => Err(Failure { kind: kind.clone(), ..Failure::new("", value.to_string()) }),
    })
}

#[track_caller]
fn decode<T: DeserializeOwned>(what: &str, value: Value) -> T {
    match serde_json::from_value(value.clone()) {
        Ok(decoded) => decoded,
        Err(error) => panic!("{what} is {value}: {error}"),
    }
}

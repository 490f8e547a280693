//! Activities: the side that implements them. A set of named handlers, the same
//! for a wasm component and for a native host, and what a handler is told.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, FailureKind, Result};
use crate::payload::Payload;
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

pub use bounds::{BoxFuture, Handler, MaybeSend, MaybeSync};

/// Natively activities run on any thread; in a component there is only one, and
/// what is built on WASI cannot be sent.
#[cfg(not(target_family = "wasm"))]
mod bounds {
    use super::{ActivityContext, Arc, Future, Payload, Result};

    /// `Send` natively, nothing in wasm.
    pub trait MaybeSend: Send {}
    impl<T: Send + ?Sized> MaybeSend for T {}
    /// `Sync` natively, nothing in wasm.
    pub trait MaybeSync: Sync {}
    impl<T: Sync + ?Sized> MaybeSync for T {}

    /// The running attempt of an activity.
    pub type BoxFuture = std::pin::Pin<Box<dyn Future<Output = Result<Payload>> + Send>>;
    /// Starts an attempt.
    pub type Handler = Arc<dyn Fn(ActivityContext, Payload) -> BoxFuture + Send + Sync>;
}

/// As above, for one thread.
#[cfg(target_family = "wasm")]
mod bounds {
    use super::{ActivityContext, Arc, Future, Payload, Result};

    /// `Send` natively, nothing in wasm.
    pub trait MaybeSend {}
    impl<T: ?Sized> MaybeSend for T {}
    /// `Sync` natively, nothing in wasm.
    pub trait MaybeSync {}
    impl<T: ?Sized> MaybeSync for T {}

    /// The running attempt of an activity.
    pub type BoxFuture = std::pin::Pin<Box<dyn Future<Output = Result<Payload>>>>;
    /// Starts an attempt.
    pub type Handler = Arc<dyn Fn(ActivityContext, Payload) -> BoxFuture>;
}

/// Named handlers.
#[derive(Clone, Debug, Default)]
pub struct ActivitySet {
    /// In the order in which they were declared.
    pub activities: Vec<Activity>,
}

/// One activity: its name, what is known about it, and what runs it.
#[derive(Clone)]
pub struct Activity {
    /// `service.method`.
    pub name: String,
    /// The method's doc comment.
    pub description: String,
    /// JSON Schema of the input, where it is known.
    pub input_schema: Option<String>,
    /// JSON Schema of the output, where it is known.
    pub output_schema: Option<String>,
    /// Used where a call gives none.
    pub default_retry: Option<RetryPolicy>,
    /// Runs one attempt.
    pub handler: Handler,
}

/// Turns an implementation into handlers: what the `activities` attribute
/// generates for a trait, as `HotelActivities(MyHotel)`.
pub trait IntoActivitySet {
    /// The handlers, which share the implementation.
    fn into_activity_set(self) -> ActivitySet;
}

impl IntoActivitySet for ActivitySet {
    fn into_activity_set(self) -> ActivitySet {
        self
    }
}

impl ActivitySet {
    /// This set and another one.
    #[must_use]
    pub fn and(mut self, more: impl IntoActivitySet) -> Self {
        self.activities.extend(more.into_activity_set().activities);
        self
    }

    /// Runs one attempt of the activity of that name.
    ///
    /// # Errors
    /// The activity's own; of kind `NotFound`, with the names that there are.
    pub async fn run(&self, name: &str, ctx: ActivityContext, input: Payload) -> Result<Payload> {
        let activity = self.activities.iter().find(|activity| activity.name == name);
        let Some(activity) = activity else {
            let offered: Vec<&str> = self.activities.iter().map(|a| a.name.as_str()).collect();
            let message = format!("no activity {name:?} here, only {}", offered.join(", "));
            return Err(Error::of_kind(FailureKind::NotFound, message).non_retryable());
        };
        (activity.handler)(ctx, input).await
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Decodes, runs, encodes: the body of every generated handler.
pub async fn handle<I, O, E, F>(name: &'static str, input: Payload, run: impl FnOnce(I) -> F) -> Result<Payload>
where
    I: DeserializeOwned,
    O: Serialize,
    E: Into<Error>,
    F: Future<Output = Result<O, E>>,
{
    let future = run(input.decode_as(format_args!("input of activity {name:?}"))?);
    let output = future.await.map_err(Into::into)?;
    Payload::json(&output)
}

/// What one attempt is told, and its way to report back. A handle: clones are the
/// same attempt.
#[derive(Clone)]
pub struct ActivityContext {
    task: Arc<Task>,
}

struct Task {
    info: ActivityInfo,
    host: Box<dyn ActivityHost>,
}

/// What an attempt is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityInfo {
    /// The same for every attempt of one call: `instance/execution/operation`.
    pub idempotency_key: String,
    /// The instance that called.
    pub instance: String,
    /// The execution of that instance, from 1.
    pub execution: u32,
    /// The operation within the execution, from 1.
    pub operation: u32,
    /// From 1.
    pub attempt: u32,
    /// When this attempt is given up; none: never.
    pub deadline: Option<Timestamp>,
    /// What the last attempt reported at its last heartbeat.
    pub last_heartbeat: Option<Payload>,
}

/// Who runs an attempt.
pub trait ActivityHost: Send + Sync {
    /// The attempt is alive, and how far it is. True: it should stop.
    fn heartbeat(&self, progress: Option<Payload>) -> bool;
}

impl ActivityContext {
    /// An attempt, run by `host`: for hosts, and for tests of activities.
    pub fn new(info: ActivityInfo, host: impl ActivityHost + 'static) -> Self {
        let task = Task { info, host: Box::new(host) };
        Self { task: Arc::new(task) }
    }

    /// What the attempt was told.
    pub fn info(&self) -> &ActivityInfo {
        &self.task.info
    }

    /// The same for every attempt of one call, different for every other call:
    /// what makes an effect happen once although the activity runs at least once.
    pub fn idempotency_key(&self) -> &str {
        &self.task.info.idempotency_key
    }

    /// From 1.
    pub fn attempt(&self) -> u32 {
        self.task.info.attempt
    }

    /// Reports that the attempt is alive and how far it is; the next attempt sees
    /// it as [`last_heartbeat`](Self::last_heartbeat). It is recorded when the
    /// attempt fails: if the host dies first, the same attempt runs again and sees
    /// what this one saw.
    ///
    /// # Errors
    /// Of kind `Cancelled`: nobody waits for the result any more. With `?` the
    /// attempt stops there. Also what JSON cannot express.
    pub fn heartbeat(&self, progress: &(impl Serialize + ?Sized)) -> Result<()> {
        if self.task.host.heartbeat(Some(Payload::json(progress)?)) {
            let error = Error::of_kind(FailureKind::Cancelled, "the activity was cancelled");
            return Err(error.non_retryable());
        }
        Ok(())
    }

    /// What the last attempt reported at its last heartbeat, if it did.
    ///
    /// # Errors
    /// It is no `T`.
    pub fn last_heartbeat<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let progress = self.task.info.last_heartbeat.as_ref();
        progress.map(|payload| payload.decode_as("last heartbeat")).transpose()
    }
}

impl fmt::Debug for ActivityContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActivityContext").field(&self.task.info).finish()
    }
}

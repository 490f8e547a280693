//! One attempt of one activity: what whoever runs it is told, and its way to say
//! that it is alive.
//!
//! A task is made when the turn that asked for it is durable, and is shared by
//! those who have to do with it: the queue, the runner, the one who watches its
//! time. What changes about it is its [`Task::heartbeat`] and what follows from
//! that; nothing of this is recorded until the attempt ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::event::{ActivityOptions, ActivityScheduled};
use super::ids::{ExecutionNumber, InstanceId, OperationId, TimestampMs};
use super::payload::{Failure, Payload};
use super::turn::too_large;

/// Tells the time to a task; a core has no clock of its own.
pub type Now = Arc<dyn Fn() -> TimestampMs + Send + Sync>;

/// One attempt of one activity.
pub struct Task {
    /// Whose.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// The execution in the idempotency key: an earlier one for a call that goes on
    /// after a rewind.
    pub key_execution: ExecutionNumber,
    /// Which call.
    pub operation: OperationId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// `service.method`.
    pub name: String,
    /// Its argument.
    pub input: Payload,
    /// How it is to be run.
    pub options: ActivityOptions,
    /// When the call was asked for.
    pub scheduled_at: TimestampMs,
    /// Since when this attempt could have started.
    pub available_at: TimestampMs,
    /// Whether an earlier host may have begun this very attempt.
    pub again: bool,
    /// What an attempt before reported at its last heartbeat.
    pub last_heartbeat: Option<Payload>,
    /// Tells its instance from others that had its id, see [`super::mail::birth`].
    pub birth: u64,
    /// The W3C `traceparent` of this attempt, for what it calls; none where nobody is
    /// told of spans.
    pub traceparent: Option<String>,
    pulse: Shared,
}

/// A task with another input has the pulse of the one that it was made of.
enum Shared {
    Own(Pulse),
    Of(Arc<Task>),
}

/// What is not fixed about a task.
struct Pulse {
    now: Now,
    payload_bytes: usize,
    cancelled: AtomicBool,
    /// When the last heartbeat was; 0: none.
    beat_at: AtomicU64,
    /// When the attempt is given up; 0: never.
    deadline: AtomicU64,
    progress: Mutex<Option<Payload>>,
}

/// What a task is made with, besides its call. See [`Task::of`].
#[derive(Clone, Debug)]
pub struct Turn {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// When the call was asked for.
    pub scheduled_at: TimestampMs,
    /// Since when this attempt could have started.
    pub available_at: TimestampMs,
    /// What an attempt before reported at its last heartbeat.
    pub last_heartbeat: Option<Payload>,
    /// Whether an earlier host may have begun this very attempt.
    pub again: bool,
}

impl Turn {
    /// The first attempt of a call that was asked for at `at`.
    pub fn first(at: TimestampMs) -> Self {
        Self { attempt: 1, scheduled_at: at, available_at: at, last_heartbeat: None, again: false }
    }
}

impl Task {
    /// An attempt of `call`. Heartbeats are stamped by `now`, and carry at most
    /// `payload_bytes`.
    pub fn of(
        instance: &InstanceId,
        execution: ExecutionNumber,
        key_execution: ExecutionNumber,
        call: &ActivityScheduled,
        turn: Turn,
        now: &Now,
        payload_bytes: usize,
    ) -> Self {
        let pulse = Pulse {
            now: now.clone(),
            payload_bytes,
            cancelled: AtomicBool::new(false),
            beat_at: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            progress: Mutex::new(None),
        };
        Self {
            instance: instance.clone(),
            execution,
            key_execution,
            operation: call.operation,
            attempt: turn.attempt,
            name: call.name.clone(),
            input: call.input.clone(),
            options: call.options.clone(),
            scheduled_at: turn.scheduled_at,
            available_at: turn.available_at,
            again: turn.again,
            last_heartbeat: turn.last_heartbeat,
            birth: 0,
            traceparent: None,
            pulse: Shared::Own(pulse),
        }
    }

    /// The same for every attempt of one call: what the outside world can use to
    /// recognise a repetition.
    pub fn idempotency_key(&self) -> String {
        let key = format!("{}/{}/{}", self.instance, self.key_execution, self.operation);
        let namespace = self.instance.namespace();
        // A key of the default one ends in a number, so none of these is ever the same.
        if namespace.is_default() { key } else { format!("{key}@{namespace}") }
    }

    /// The attempt is alive, and how far it is. True: nobody waits for its result
    /// any more, so it should stop.
    ///
    /// The last progress reaches the next attempt with the failure of this one. It
    /// is lost if the host dies first: then the same attempt is run again, and
    /// gets what this one got.
    ///
    /// # Errors
    /// Of kind `too-large`; such progress is not kept.
    pub fn heartbeat(&self, progress: Option<Payload>) -> Result<bool, Failure> {
        if let Some(progress) = progress {
            let what = format_args!("the heartbeat of {}", self.name);
            if let Some(failure) = too_large(what, progress.len(), self.pulse().payload_bytes) {
                return Err(failure);
            }
            *self.progress_slot() = Some(progress);
        }
        self.pulse().beat_at.store((self.pulse().now)().0, Ordering::Release);
        Ok(self.is_cancelled())
    }

    /// Whether nobody waits for the result any more.
    pub fn is_cancelled(&self) -> bool {
        self.pulse().cancelled.load(Ordering::Acquire)
    }

    /// When this attempt is given up, if it has started and has a bound.
    pub fn deadline(&self) -> Option<TimestampMs> {
        let at = self.pulse().deadline.load(Ordering::Acquire);
        (at != 0).then_some(TimestampMs(at))
    }

    /// What is known of the progress: this attempt's, else that of one before.
    pub fn progress(&self) -> Option<Payload> {
        self.progress_slot().clone().or_else(|| self.last_heartbeat.clone())
    }

    /// The queue that it waits in.
    pub fn queue(&self) -> &str {
        self.options.queue.as_deref().unwrap_or(DEFAULT_QUEUE)
    }

    /// The same attempt with another input.
    pub(crate) fn with_input(self: &Arc<Self>, input: Payload) -> Arc<Self> {
        Arc::new(Self {
            instance: self.instance.clone(),
            execution: self.execution,
            key_execution: self.key_execution,
            operation: self.operation,
            attempt: self.attempt,
            name: self.name.clone(),
            input,
            options: self.options.clone(),
            scheduled_at: self.scheduled_at,
            available_at: self.available_at,
            again: self.again,
            last_heartbeat: self.last_heartbeat.clone(),
            birth: self.birth,
            traceparent: self.traceparent.clone(),
            pulse: Shared::Of(self.clone()),
        })
    }

    fn pulse(&self) -> &Pulse {
        match &self.pulse {
            Shared::Own(pulse) => pulse,
            Shared::Of(task) => task.pulse(),
        }
    }

    pub(crate) fn cancel(&self) {
        self.pulse().cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn begin(&self, deadline: Option<TimestampMs>) {
        self.pulse().deadline.store(deadline.map_or(0, |at| at.0), Ordering::Release);
        self.pulse().beat_at.store(0, Ordering::Release);
    }

    pub(crate) fn beat_at(&self) -> TimestampMs {
        TimestampMs(self.pulse().beat_at.load(Ordering::Acquire))
    }

    fn progress_slot(&self) -> std::sync::MutexGuard<'_, Option<Payload>> {
        self.pulse().progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of calls that name none.
pub const DEFAULT_QUEUE: &str = "default";

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .field("key", &self.idempotency_key())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

//! What a host does around every attempt of every activity, wherever it runs:
//! tracing, credentials, encryption of payloads.
//!
//! An interceptor sees a task before it is run here or given to a remote worker,
//! and its outcome before that is recorded. One that fails, or panics, fails the
//! attempt: a recorded failure, tried again by the call's policy like any other,
//! and never more often.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::core::panics::panic_text;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::task::Task;

/// Something around every attempt. Called on threads of the engine, so it is not to
/// block.
pub trait Interceptor: Send + Sync + 'static {
    /// Before an attempt. May change the input and, for remote workers, the headers.
    ///
    /// # Errors
    /// The attempt fails with that, and is not begun.
    fn before(&self, task: &Task, input: &mut Payload, headers: &mut BTreeMap<String, String>) -> Result<(), Failure> {
        let _ = (task, input, headers);
        Ok(())
    }

    /// After an attempt: what is to be recorded of it.
    ///
    /// # Errors
    /// The attempt fails with that, whatever it came to.
    fn after(&self, task: &Task, outcome: Outcome) -> Outcome {
        let _ = task;
        outcome
    }
}

/// Interceptors in their order: the first is outermost.
#[derive(Clone, Default)]
pub struct Interceptors(pub Vec<Arc<dyn Interceptor>>);

impl fmt::Debug for Interceptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interceptors({})", self.0.len())
    }
}

impl Interceptors {
    /// The task as it is to be run, and what goes along with it.
    pub(super) fn before(&self, task: Arc<Task>) -> Result<(Arc<Task>, BTreeMap<String, String>), Failure> {
        let mut headers = BTreeMap::new();
        if self.0.is_empty() {
            return Ok((task, headers));
        }
        let mut input = task.input.clone();
        for interceptor in &self.0 {
            let seen = catch_unwind(AssertUnwindSafe(|| interceptor.before(&task, &mut input, &mut headers)));
            seen.unwrap_or_else(|panic| Err(panicked(&task, panic.as_ref())))?;
        }
        Ok((task.with_input(input), headers))
    }

    /// The outcome as it is to be recorded.
    pub(super) fn after(&self, task: &Task, mut outcome: Outcome) -> Outcome {
        for interceptor in self.0.iter().rev() {
            let seen = catch_unwind(AssertUnwindSafe(|| interceptor.after(task, outcome)));
            outcome = seen.unwrap_or_else(|panic| Err(panicked(task, panic.as_ref())));
        }
        outcome
    }
}

fn panicked(task: &Task, panic: &(dyn std::any::Any + Send)) -> Failure {
    let message = format!("an interceptor of {} panicked: {}", task.name, panic_text(panic));
    Failure::retryable(FailureKind::Trapped, message)
}

//! Sagas: what to undo, and in which order, when a later step fails.

use std::fmt;
use std::future::Future;

use futures::future::{FutureExt, LocalBoxFuture};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, FailureKind, Result};

/// Compensations of the steps done so far.
///
/// ```no_run
/// # use dacapo_sdk::{Context, Result, RetryPolicy, Saga};
/// # #[dacapo_sdk::activities(service = "hotel")]
/// # trait Hotel {
/// #     async fn reserve(&self, ctx: dacapo_sdk::ActivityContext, name: String) -> Result<u32>;
/// #     async fn cancel(&self, ctx: dacapo_sdk::ActivityContext, id: u32) -> Result<()>;
/// # }
/// # #[dacapo_sdk::activities(service = "flight")]
/// # trait Flight {
/// #     async fn book(&self, ctx: dacapo_sdk::ActivityContext, hotel: u32) -> Result<String>;
/// # }
/// async fn trip(ctx: Context) -> Result<String> {
///     let (hotel, flight) = (HotelProxy::new(&ctx), FlightProxy::new(&ctx));
///     let mut saga = Saga::new();
///
///     let room = hotel.reserve("Ritz".to_owned()).await?;
///     saga.add("cancel hotel", move || hotel.cancel(room).retry(RetryPolicy::attempts(5)));
///
///     match flight.book(room).await {
///         Ok(ticket) => Ok(ticket),
///         Err(error) => {
///             let undone = saga.compensate().await;
///             Err(error.with_details(&undone))
///         }
///     }
/// }
/// ```
#[derive(Default)]
pub struct Saga {
    steps: Vec<Step>,
}

struct Step {
    name: String,
    undo: Box<dyn FnOnce() -> LocalBoxFuture<'static, Result<()>>>,
}

/// What became of a saga's compensations, in the order in which they ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SagaOutcome {
    /// Names of the steps that were undone.
    pub undone: Vec<String>,
    /// Steps that could not be undone, and why.
    pub failed: Vec<FailedCompensation>,
}

/// A step that could not be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedCompensation {
    /// The name it was added with.
    pub step: String,
    /// What sort of failure it was.
    pub kind: FailureKind,
    /// The application's name for it.
    pub error_type: String,
    /// For people.
    pub message: String,
}

impl Saga {
    /// Nothing to undo yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// After a step: how to undo it. `undo` is called if it comes to that; how
    /// often it is tried is the affair of the calls that it makes.
    pub fn add<F, T, E>(&mut self, name: impl Into<String>, undo: impl FnOnce() -> F + 'static)
    where
        F: Future<Output = Result<T, E>> + 'static,
        E: Into<Error>,
    {
        self.steps.push(Step {
            name: name.into(),
            undo: Box::new(move || undo().map(|result| result.map(drop).map_err(Into::into)).boxed_local()),
        });
    }

    /// Undoes the steps, the last one first, one after the other. One that fails
    /// does not stop the others.
    pub async fn compensate(self) -> SagaOutcome {
        let mut outcome = SagaOutcome::default();
        for step in self.steps.into_iter().rev() {
            match (step.undo)().await {
                Ok(()) => outcome.undone.push(step.name),
                Err(error) => outcome.failed.push(FailedCompensation {
                    step: step.name,
                    kind: error.kind(),
                    error_type: error.error_type().to_owned(),
                    message: error.message().to_owned(),
                }),
            }
        }
        outcome
    }
}

impl SagaOutcome {
    /// True if nothing that should have been undone is left.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Debug for Saga {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| &step.name)).finish()
    }
}

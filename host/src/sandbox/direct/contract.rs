//! The nouns of the contract in a guest's memory, field by field as in `wit/`.

use std::sync::Arc;

use wasmtime::{Result, bail};

use super::Direct;
use super::memory::{Fields, Layout, Lift, Load, Lower, Store, aligned, cases, content, larger, record};
use crate::sandbox::bindings::orchestration::dacapo::workflow::context::{
    ActivityOptions, EntityId, InstanceInfo, OrchestrationOptions,
};
use crate::sandbox::bindings::orchestration::exports::dacapo::workflow::guest::{
    Completion, Delivery, Description, EntityOffer, Offer, Progress, Request, RequestKind,
};
use crate::sandbox::types::{
    Failure, FailureKind, IdReusePolicy, LogLevel, ParentClosePolicy, Payload, RetryPolicy, Tag,
};

cases!(FailureKind {
    Application,
    TimedOut,
    Cancelled,
    Terminated,
    NotFound,
    TooLarge,
    Unsupported,
    Trapped,
    Exhausted,
    Nondeterministic,
});
cases!(ParentClosePolicy { Terminate, Cancel, Abandon });
cases!(IdReusePolicy { Reject, ReturnExisting, ReplaceFinished, TerminateAndReplace });
cases!(LogLevel { Error, Warn, Info, Debug, Trace });
cases!(RequestKind { Update, EntityOperation });

record!(Payload { content_type: Arc<str>, data: Arc<[u8]> } load store);
record!(Failure {
    kind: FailureKind,
    error_type: String,
    message: String,
    non_retryable: bool,
    details: Option<Payload>,
} load store);
record!(RetryPolicy {
    first_interval: u64,
    coefficient: f64,
    max_interval: u64,
    max_attempts: u32,
    total_timeout: Option<u64>,
    jitter: f64,
    non_retryable: Vec<String>,
} load);
record!(Tag { name: String, value: String } load store);
record!(EntityId { kind: String, key: String } load);
record!(ActivityOptions {
    retry: Option<RetryPolicy>,
    schedule_to_start: Option<u64>,
    start_to_close: Option<u64>,
    schedule_to_close: Option<u64>,
    heartbeat: Option<u64>,
    queue: Option<String>,
    priority: i32,
    fairness_key: Option<String>,
} load);
record!(OrchestrationOptions {
    instance: Option<String>,
    module: Option<String>,
    version: Option<String>,
    retry: Option<RetryPolicy>,
    timeout: Option<u64>,
    parent_close: ParentClosePolicy,
    id_reuse: IdReusePolicy,
    tags: Vec<Tag>,
    start_at: Option<u64>,
} load);
record!(InstanceInfo {
    instance: String,
    execution: u32,
    orchestration: String,
    module_hash: String,
    started_at: u64,
    parent: Option<String>,
    tags: Vec<Tag>,
} store);
record!(Completion { operation: u32, outcome: std::result::Result<Payload, Failure> } store);
record!(Request { id: u32, kind: RequestKind, name: String, input: Payload } store);

record!(Offer {
    name: String,
    description: String,
    input_schema: Option<String>,
    output_schema: Option<String>,
} load);
record!(EntityOffer { kind: String, operations: Vec<Offer> } load);
record!(Description {
    sdk: String,
    orchestrations: Vec<Offer>,
    queries: Vec<Offer>,
    updates: Vec<Offer>,
    entities: Vec<EntityOffer>,
} load);

impl Layout for Delivery {
    const SIZE: usize = aligned(content(0, Self::ALIGN) + larger(Completion::SIZE, Request::SIZE), Self::ALIGN);
    const ALIGN: usize = larger(Completion::ALIGN, Request::ALIGN);
}

impl Store for Delivery {
    fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
        let inside = content(at, Self::ALIGN);
        match self {
            Self::Completed(completion) => {
                0u8.store(into, at)?;
                completion.store(into, inside)
            }
            Self::Requested(request) => {
                1u8.store(into, at)?;
                request.store(into, inside)
            }
            Self::CancelRequested(reason) => {
                2u8.store(into, at)?;
                reason.store(into, inside)
            }
        }
    }
}

impl Layout for Progress {
    const SIZE: usize = aligned(content(0, Self::ALIGN) + larger(Payload::SIZE, Failure::SIZE), Self::ALIGN);
    const ALIGN: usize = larger(Payload::ALIGN, Failure::ALIGN);
}

impl Load for Progress {
    fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
        let inside = content(at, Self::ALIGN);
        Ok(match u8::load(memory, at)? {
            0 => Self::Suspended,
            1 => Self::Completed(Payload::load(memory, inside)?),
            2 => Self::Failed(Failure::load(memory, inside)?),
            3 => Self::ContinueAsNew(Payload::load(memory, inside)?),
            other => bail!("a guest's progress is one of 4 cases, there is no number {other}"),
        })
    }
}

/// The two words of a payload's media type and of its bytes, as arguments.
pub(super) type PayloadWords = (u32, u32, u32, u32);

/// A payload that came as arguments.
pub(super) fn payload(memory: &Lift<'_>, (media, media_len, data, len): PayloadWords) -> Result<Payload> {
    let content_type = super::memory::content_type(memory, media, media_len)?;
    Ok(Payload { content_type, data: super::memory::bytes(memory, data, len)?.into() })
}

/// The arguments of `call-activity`, which are too many for words.
pub(super) struct CallActivity {
    pub(super) name: String,
    pub(super) input: Payload,
    pub(super) options: ActivityOptions,
}

record!(CallActivity { name: String, input: Payload, options: ActivityOptions } load);

/// The arguments of `call-orchestration`, likewise.
pub(super) struct CallOrchestration {
    pub(super) name: String,
    pub(super) input: Payload,
    pub(super) options: OrchestrationOptions,
}

record!(CallOrchestration { name: String, input: Payload, options: OrchestrationOptions } load);

#[cfg(test)]
mod tests {
    use wasmtime::component::ComponentType;

    use super::*;

    /// The component's runtime makes its layouts of the same types.
    fn assert_laid_out<T: Layout + ComponentType>() {
        let laid_out = (T::SIZE, T::ALIGN);
        assert_eq!(laid_out, (T::SIZE32, T::ALIGN32 as usize), "{}", std::any::type_name::<T>());
    }

    #[test]
    fn the_nouns_are_laid_out_as_the_components_runtime_lays_them_out() {
        assert_laid_out::<Payload>();
        assert_laid_out::<Failure>();
        assert_laid_out::<FailureKind>();
        assert_laid_out::<RetryPolicy>();
        assert_laid_out::<Tag>();
        assert_laid_out::<EntityId>();
        assert_laid_out::<ActivityOptions>();
        assert_laid_out::<OrchestrationOptions>();
        assert_laid_out::<InstanceInfo>();
        assert_laid_out::<Completion>();
        assert_laid_out::<Request>();
        assert_laid_out::<Delivery>();
        assert_laid_out::<Progress>();
        assert_laid_out::<Offer>();
        assert_laid_out::<EntityOffer>();
        assert_laid_out::<Description>();
        assert_laid_out::<std::result::Result<Payload, Failure>>();
        assert_laid_out::<Option<u32>>();
    }
}

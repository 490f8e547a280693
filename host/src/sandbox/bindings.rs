//! The contract as wasmtime sees it, and its types as the core's.

#![allow(missing_docs, unreachable_pub, clippy::all)]

use crate::core::calls::{IdReuse, OrchestrationOptions, ParentClose};
use crate::core::event::ActivityOptions;
use crate::core::ids::TimestampMs;
use crate::core::payload::{Failure, FailureKind};
use crate::core::retry::RetryPolicy;
use crate::core::turn::{LogLevel, LogLine};

pub mod orchestration {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "orchestration",
        imports: { default: trappable },
        with: { "dacapo:workflow/types": crate::sandbox::types },
    });
}

pub mod activity {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "activity",
        imports: { default: trappable },
        exports: { default: async },
        with: { "dacapo:workflow/types": crate::sandbox::types },
    });
}

use crate::sandbox::types as wit;
use orchestration::dacapo::workflow::context as wit_context;

macro_rules! kinds {
    ($($kind:ident),*) => {
        impl From<wit::FailureKind> for FailureKind {
            fn from(kind: wit::FailureKind) -> Self {
                match kind { $(wit::FailureKind::$kind => Self::$kind),* }
            }
        }
        impl From<FailureKind> for wit::FailureKind {
            fn from(kind: FailureKind) -> Self {
                match kind { $(FailureKind::$kind => Self::$kind),* }
            }
        }
    };
}
kinds!(
    Application,
    TimedOut,
    Cancelled,
    Terminated,
    NotFound,
    TooLarge,
    Unsupported,
    Trapped,
    Exhausted,
    Nondeterministic
);

impl From<wit::Failure> for Failure {
    fn from(failure: wit::Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            error_type: failure.error_type,
            message: failure.message,
            non_retryable: failure.non_retryable,
            details: failure.details.map(Into::into),
        }
    }
}

impl From<Failure> for wit::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            error_type: failure.error_type,
            message: failure.message,
            non_retryable: failure.non_retryable,
            details: failure.details.map(Into::into),
        }
    }
}

impl From<wit::RetryPolicy> for RetryPolicy {
    fn from(policy: wit::RetryPolicy) -> Self {
        Self {
            first_interval_ms: policy.first_interval,
            coefficient: policy.coefficient,
            max_interval_ms: policy.max_interval,
            max_attempts: policy.max_attempts,
            total_timeout_ms: policy.total_timeout,
            jitter: policy.jitter,
            non_retryable: policy.non_retryable,
        }
    }
}

impl From<wit_context::ActivityOptions> for ActivityOptions {
    fn from(options: wit_context::ActivityOptions) -> Self {
        Self {
            retry: options.retry.map(Into::into),
            schedule_to_start_ms: options.schedule_to_start,
            start_to_close_ms: options.start_to_close,
            schedule_to_close_ms: options.schedule_to_close,
            heartbeat_ms: options.heartbeat,
            queue: options.queue,
            priority: options.priority,
            fairness_key: options.fairness_key,
        }
    }
}

impl From<wit_context::OrchestrationOptions> for OrchestrationOptions {
    fn from(options: wit_context::OrchestrationOptions) -> Self {
        Self {
            module: options.module,
            version: options.version,
            retry: options.retry.map(Into::into),
            timeout_ms: options.timeout,
            parent_close: match options.parent_close {
                wit::ParentClosePolicy::Terminate => ParentClose::Terminate,
                wit::ParentClosePolicy::Cancel => ParentClose::Cancel,
                wit::ParentClosePolicy::Abandon => ParentClose::Abandon,
            },
            reuse: match options.id_reuse {
                wit::IdReusePolicy::Reject => IdReuse::Reject,
                wit::IdReusePolicy::ReturnExisting => IdReuse::ReturnExisting,
                wit::IdReusePolicy::ReplaceFinished => IdReuse::ReplaceFinished,
                wit::IdReusePolicy::TerminateAndReplace => IdReuse::TerminateAndReplace,
            },
            tags: options.tags.into_iter().map(|tag| (tag.name, tag.value)).collect(),
            start_at: options.start_at.map(TimestampMs),
        }
    }
}

impl From<wit::LogLine> for LogLine {
    fn from(line: wit::LogLine) -> Self {
        Self {
            level: match line.level {
                wit::LogLevel::Error => LogLevel::Error,
                wit::LogLevel::Warn => LogLevel::Warn,
                wit::LogLevel::Info => LogLevel::Info,
                wit::LogLevel::Debug => LogLevel::Debug,
                wit::LogLevel::Trace => LogLevel::Trace,
            },
            target: line.target,
            message: line.message,
            fields: line.fields.into_iter().map(|field| (field.name, field.value)).collect(),
        }
    }
}

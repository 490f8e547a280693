//! The nouns of `wit/types.wit` as they cross into a guest and out of it. Written by hand
//! rather than generated for two of them: a payload's bytes and media type are shared
//! with the core's, not copied for each crossing.

#![allow(missing_docs, reason = "see wit/types.wit")]

use std::sync::{Arc, LazyLock};

use wasmtime::component::{ComponentType, HasData, Lift, Linker, Lower};

use crate::core::payload::{ContentType, JSON};

pub type OperationId = u32;
pub type RequestId = u32;
pub type TimestampMs = u64;
pub type DurationMs = u64;

/// What the generated code of a world asks of an interface without functions.
pub trait Host {}

impl<T: Host + ?Sized> Host for &mut T {}

/// As [`Host`].
pub trait HostWithStore<T>: HasData {}

impl<T, D: HasData + ?Sized> HostWithStore<T> for D {}

/// As [`Host`].
///
/// # Errors
/// None: there is nothing to add.
pub fn add_to_linker<T, D>(_linker: &mut Linker<T>, _host: fn(&mut T) -> D::Data<'_>) -> wasmtime::Result<()>
where
    D: HostWithStore<T>,
    for<'a> D::Data<'a>: Host,
    T: 'static,
{
    Ok(())
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Payload {
    #[component(name = "content-type")]
    pub content_type: Arc<str>,
    pub data: Arc<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum FailureKind {
    #[component(name = "application")]
    Application,
    #[component(name = "timed-out")]
    TimedOut,
    #[component(name = "cancelled")]
    Cancelled,
    #[component(name = "terminated")]
    Terminated,
    #[component(name = "not-found")]
    NotFound,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "unsupported")]
    Unsupported,
    #[component(name = "trapped")]
    Trapped,
    #[component(name = "exhausted")]
    Exhausted,
    #[component(name = "nondeterministic")]
    Nondeterministic,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Failure {
    pub kind: FailureKind,
    #[component(name = "error-type")]
    pub error_type: String,
    pub message: String,
    #[component(name = "non-retryable")]
    pub non_retryable: bool,
    pub details: Option<Payload>,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub struct RetryPolicy {
    #[component(name = "first-interval")]
    pub first_interval: u64,
    pub coefficient: f64,
    #[component(name = "max-interval")]
    pub max_interval: u64,
    #[component(name = "max-attempts")]
    pub max_attempts: u32,
    #[component(name = "total-timeout")]
    pub total_timeout: Option<u64>,
    pub jitter: f64,
    #[component(name = "non-retryable")]
    pub non_retryable: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum ParentClosePolicy {
    #[component(name = "terminate")]
    Terminate,
    #[component(name = "cancel")]
    Cancel,
    #[component(name = "abandon")]
    Abandon,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum IdReusePolicy {
    #[component(name = "reject")]
    Reject,
    #[component(name = "return-existing")]
    ReturnExisting,
    #[component(name = "replace-finished")]
    ReplaceFinished,
    #[component(name = "terminate-and-replace")]
    TerminateAndReplace,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Tag {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum LogLevel {
    #[component(name = "error")]
    Error,
    #[component(name = "warn")]
    Warn,
    #[component(name = "info")]
    Info,
    #[component(name = "debug")]
    Debug,
    #[component(name = "trace")]
    Trace,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub struct LogLine {
    pub level: LogLevel,
    pub target: String,
    pub message: String,
    pub fields: Vec<Tag>,
}

/// The usual media type, which is not copied for each payload.
pub(super) static JSON_TEXT: LazyLock<Arc<str>> = LazyLock::new(|| JSON.into());

impl From<Payload> for crate::core::payload::Payload {
    fn from(payload: Payload) -> Self {
        let content_type = match &*payload.content_type {
            JSON => ContentType::Json,
            _ => ContentType::Other(payload.content_type),
        };
        Self { content_type, data: payload.data }
    }
}

impl From<crate::core::payload::Payload> for Payload {
    fn from(payload: crate::core::payload::Payload) -> Self {
        let content_type = match payload.content_type {
            ContentType::Json => JSON_TEXT.clone(),
            ContentType::Other(text) => text,
        };
        Self { content_type, data: payload.data }
    }
}

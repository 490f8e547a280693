//! A call of another orchestration that is being put together.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::FusedFuture;
use serde::de::DeserializeOwned;

use crate::bindings::types as wit;
use crate::error::Result;
use crate::guest::Orchestration;
use crate::imports::OrchestrationOptions;
use crate::operation::{Operation, OrchestrationRequest, Request};
use crate::payload::Payload;
use crate::retry::RetryPolicy;
use crate::time::{Timestamp, whole_ms};

/// An orchestration that can be called with its types: what the `orchestration`
/// attribute defines beside the function, under the function's name.
pub trait Callable: Orchestration {
    /// What it takes; `()` if it takes nothing.
    type Input;
    /// What it returns.
    type Output;
}

/// What happens to a sub-orchestration when its caller's execution ends first (by
/// continue-as-new as well).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParentClose {
    /// It is ended at once.
    #[default]
    Terminate,
    /// It is asked to end.
    Cancel,
    /// It goes on.
    Abandon,
}

/// What a call does if the instance id is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdReuse {
    /// It fails, of type `AlreadyExists`.
    #[default]
    Reject,
    /// It waits for the one that is there, running or not.
    ReturnExisting,
    /// It starts anew if the one that is there has ended, else it fails.
    ReplaceFinished,
    /// It ends the one that is there, and starts anew.
    TerminateAndReplace,
}

/// A call of another orchestration with its options. A future: awaited, it calls
/// and waits for the result; [`start`](Self::start) calls at once and returns the
/// [`Operation`]. Dropped before it is complete, the called one is asked to end.
///
/// Without options: an instance id of its own, the caller's module, one attempt, no
/// timeout; ended with its caller.
///
/// ```no_run
/// # use dacapo_sdk::{Context, ParentClose, Result, RetryPolicy, orchestration};
/// #[orchestration]
/// async fn ship(ctx: Context, parcel: String) -> Result<u32> {
///     # let _ = (ctx, parcel);
///     Ok(1)
/// }
///
/// #[orchestration]
/// async fn order(ctx: Context, parcels: Vec<String>) -> Result<u32> {
///     let first = ctx.call::<ship>(&parcels[0]).await?;
///     let second = ctx.call::<ship>(&parcels[1]).instance("parcel-2").retry(RetryPolicy::attempts(3)).await?;
///     let foreign: u32 = ctx.call_orchestration("ship", &parcels[2]).module("carrier").version("2").await?;
///     ctx.call::<ship>(&parcels[3]).detach();
///     Ok(first + second + foreign)
/// }
/// ```
///
/// # Errors
/// What the called one failed with; of kind [`NotFound`](crate::FailureKind::NotFound)
/// if there is no such orchestration, of type `AlreadyExists` if the id is taken, of
/// kind [`TimedOut`](crate::FailureKind::TimedOut) if it did not end in time.
#[must_use = "an orchestration is not called unless this is awaited, started or detached"]
#[derive(Debug)]
pub struct OrchestrationCall<T>(Operation<T>);

impl<T> OrchestrationCall<T> {
    pub(crate) fn new(name: Cow<'static, str>, input: Result<Payload>) -> Self {
        let options = OrchestrationOptions {
            instance: None,
            module: None,
            version: None,
            retry: None,
            timeout: None,
            parent_close: wit::ParentClosePolicy::Terminate,
            id_reuse: wit::IdReusePolicy::Reject,
            tags: Vec::new(),
            start_at: None,
        };
        let request = Box::new(OrchestrationRequest { input, options });
        Self(Operation::new("orchestration", name, Request::Orchestration(request)))
    }

    /// Calls now rather than at the first poll.
    pub fn start(self) -> Operation<T> {
        self.0.start()
    }

    /// Calls now and does not wait: the called one goes on by itself, also when this
    /// orchestration has ended.
    pub fn detach(self) {
        self.parent_close(ParentClose::Abandon).0.detach();
    }

    /// The id of the called instance. Each further attempt has one of its own:
    /// `id~2`, `id~3`.
    pub fn instance(self, id: impl Into<String>) -> Self {
        let id = id.into();
        self.with(|options| options.instance = Some(id))
    }

    /// The module whose orchestration it is; without it, this one.
    pub fn module(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.with(|options| options.module = Some(name))
    }

    /// The version of that module; without it, its default.
    pub fn version(self, version: impl Into<String>) -> Self {
        let version = version.into();
        self.with(|options| options.version = Some(version))
    }

    /// When and how often one that failed is tried again.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.with(|options| options.retry = Some(policy.into()))
    }

    /// How long all attempts together may take, the waits counted; then the called
    /// one is asked to end, and this fails.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.timeout = Some(whole_ms(timeout)))
    }

    /// What happens to the called one when this execution ends first.
    pub fn parent_close(self, policy: ParentClose) -> Self {
        self.with(|options| {
            options.parent_close = match policy {
                ParentClose::Terminate => wit::ParentClosePolicy::Terminate,
                ParentClose::Cancel => wit::ParentClosePolicy::Cancel,
                ParentClose::Abandon => wit::ParentClosePolicy::Abandon,
            };
        })
    }

    /// What happens if the instance id is taken.
    pub fn reuse(self, policy: IdReuse) -> Self {
        self.with(|options| {
            options.id_reuse = match policy {
                IdReuse::Reject => wit::IdReusePolicy::Reject,
                IdReuse::ReturnExisting => wit::IdReusePolicy::ReturnExisting,
                IdReuse::ReplaceFinished => wit::IdReusePolicy::ReplaceFinished,
                IdReuse::TerminateAndReplace => wit::IdReusePolicy::TerminateAndReplace,
            };
        })
    }

    /// A tag that the called one has from the start.
    pub fn tag(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let tag = wit::Tag { name: name.into(), value: value.into() };
        self.with(|options| options.tags.push(tag))
    }

    /// It begins then, not before.
    pub fn start_at(self, time: Timestamp) -> Self {
        self.with(|options| options.start_at = Some(time.unix_ms()))
    }

    /// # Panics
    /// If the call has been polled: its options are with the host already.
    fn with(mut self, set: impl FnOnce(&mut OrchestrationOptions)) -> Self {
        match self.0.orchestration_options_mut() {
            Some(options) => set(options),
            None => panic!("an option was set on a call that has started: {:?}", self.0),
        }
        self
    }
}

impl<T: DeserializeOwned> Future for OrchestrationCall<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T: DeserializeOwned> FusedFuture for OrchestrationCall<T> {
    fn is_terminated(&self) -> bool {
        self.0.is_terminated()
    }
}

//! A call of an activity that is being put together: what a typed proxy returns.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::FusedFuture;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::imports::ActivityOptions;
use crate::operation::{ActivityRequest, Operation, Request};
use crate::payload::Payload;
use crate::retry::RetryPolicy;
use crate::time::whole_ms;

/// A call of an activity with its options. A future: awaited, it calls and
/// waits; [`start`](Self::start) calls at once and returns the [`Operation`].
///
/// An activity runs at least once; every attempt of one call carries the same
/// idempotency key. Without options: the activity's own retry policy, else a
/// single attempt; no timeout; the default queue.
///
/// ```no_run
/// # use dacapo_sdk::{Context, Result, RetryPolicy};
/// # use std::time::Duration;
/// # async fn f(ctx: Context) -> Result<()> {
/// let confirmation: String = ctx
///     .call_activity("hotel.reserve", &"Ritz")
///     .retry(RetryPolicy::attempts(3))
///     .start_to_close(Duration::from_secs(10))
///     .await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// As of [`Operation`].
#[must_use = "an activity is not called unless this is awaited or started"]
#[derive(Debug)]
pub struct ActivityCall<T>(Operation<T>);

impl<T> ActivityCall<T> {
    pub(crate) fn new(name: Cow<'static, str>, input: Result<Payload>) -> Self {
        let options = ActivityOptions {
            retry: None,
            schedule_to_start: None,
            start_to_close: None,
            schedule_to_close: None,
            heartbeat: None,
            queue: None,
            priority: 0,
            fairness_key: None,
        };
        let request = Box::new(ActivityRequest { input, options });
        Self(Operation::new("activity", name, Request::Activity(request)))
    }

    /// Calls now rather than at the first poll.
    pub fn start(self) -> Operation<T> {
        self.0.start()
    }

    /// When and how often a failed attempt is tried again.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.with(|options| options.retry = Some(policy.into()))
    }

    /// How long it may wait for a worker.
    pub fn schedule_to_start(self, timeout: Duration) -> Self {
        self.with(|options| options.schedule_to_start = Some(whole_ms(timeout)))
    }

    /// How long one attempt may take.
    pub fn start_to_close(self, timeout: Duration) -> Self {
        self.with(|options| options.start_to_close = Some(whole_ms(timeout)))
    }

    /// How long all attempts together may take, the waits counted.
    pub fn schedule_to_close(self, timeout: Duration) -> Self {
        self.with(|options| options.schedule_to_close = Some(whole_ms(timeout)))
    }

    /// How long an attempt may be silent.
    pub fn heartbeat(self, timeout: Duration) -> Self {
        self.with(|options| options.heartbeat = Some(whole_ms(timeout)))
    }

    /// The queue whose workers serve it.
    ///
    /// ```no_run
    /// # async fn f(ctx: dacapo_sdk::Context, film: String) -> dacapo_sdk::Result<()> {
    /// let frame = ctx.call_activity::<String>("renderer.render", &film).queue("render").fairness_key(film).priority(5);
    /// frame.heartbeat(std::time::Duration::from_secs(30)).await?;
    /// # Ok(()) }
    /// ```
    pub fn queue(self, queue: impl Into<String>) -> Self {
        let queue = queue.into();
        self.with(|options| options.queue = Some(queue))
    }

    /// Higher goes first within a queue; 0 is usual.
    pub fn priority(self, priority: i32) -> Self {
        self.with(|options| options.priority = priority)
    }

    /// Calls of different keys share a queue fairly.
    pub fn fairness_key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.with(|options| options.fairness_key = Some(key))
    }

    /// # Panics
    /// If the call has been polled: its options are with the host already.
    fn with(mut self, set: impl FnOnce(&mut ActivityOptions)) -> Self {
        match self.0.options_mut() {
            Some(options) => set(options),
            None => panic!("an option was set on a call that has started: {:?}", self.0),
        }
        self
    }
}

impl<T: DeserializeOwned> Future for ActivityCall<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T: DeserializeOwned> FusedFuture for ActivityCall<T> {
    fn is_terminated(&self) -> bool {
        self.0.is_terminated()
    }
}

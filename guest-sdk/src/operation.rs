//! Operations: futures of what the host completes later. Lazy like any future:
//! the request goes out at the first poll, or at `start`.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use futures::future::FusedFuture;
use serde::de::DeserializeOwned;

use crate::entity::EntityId;
use crate::error::{Error, Result};
use crate::executor;
use crate::imports::{self, ActivityOptions, OrchestrationOptions, WitEntityId};
use crate::intercept::{self, CallKind, Called};
use crate::payload::Payload;
use crate::time::Timestamp;

/// What the host completes later, with a `T`.
///
/// Dropped before it is complete, it is cancelled: a timer is removed, the wait
/// for an event is withdrawn (an event that has come meanwhile goes to the next
/// wait for it), an activity is asked to stop. Results come in the
/// order in which they were recorded, at replay as well.
///
/// # Errors
/// Its output is the failure of what was called, or of type
/// [`INVALID_PAYLOAD`](crate::payload::INVALID_PAYLOAD) if the result is no `T`.
#[must_use = "an operation does nothing unless awaited or started"]
pub struct Operation<T> {
    state: State,
    what: What,
    /// An event is only lent until its wait is polled to its end.
    is_event: bool,
    /// What interceptors are around of.
    call: Option<CallKind>,
    result: PhantomData<fn() -> T>,
}

enum State {
    Lazy(Request),
    Waiting(u32),
    Immediate(Result<()>),
    Ended,
}

/// What is asked of the host, not yet asked.
pub(crate) enum Request {
    /// Boxed: most of an operation's life is `Waiting`.
    Activity(Box<ActivityRequest>),
    Delay {
        ms: i64,
    },
    DelayUntil(Timestamp),
    Event,
    Signal(Box<SignalRequest>),
    Orchestration(Box<OrchestrationRequest>),
    Entity(Box<EntityRequest>),
    Lock(Vec<EntityId>),
}

pub(crate) struct OrchestrationRequest {
    pub(crate) input: Result<Payload>,
    pub(crate) options: OrchestrationOptions,
}

pub(crate) struct EntityRequest {
    pub(crate) entity: EntityId,
    pub(crate) operation: Cow<'static, str>,
    pub(crate) input: Result<Payload>,
    pub(crate) one_way: bool,
}

pub(crate) struct SignalRequest {
    pub(crate) to: String,
    pub(crate) value: Result<Payload>,
}

pub(crate) struct ActivityRequest {
    pub(crate) input: Result<Payload>,
    pub(crate) options: ActivityOptions,
}

/// What an operation is, for messages.
#[derive(Clone)]
pub(crate) struct What {
    pub(crate) noun: &'static str,
    pub(crate) name: Cow<'static, str>,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.noun, self.name)
    }
}

impl<T> Operation<T> {
    pub(crate) fn new(noun: &'static str, name: Cow<'static, str>, request: Request) -> Self {
        let is_event = matches!(request, Request::Event);
        let call = match request {
            Request::Activity(_) => Some(CallKind::Activity),
            Request::Orchestration(_) => Some(CallKind::Orchestration),
            Request::Entity(_) => Some(CallKind::Entity),
            _ => None,
        };
        Self { state: State::Lazy(request), what: What { noun, name }, is_event, call, result: PhantomData }
    }

    /// Asks the host now rather than at the first poll.
    pub fn start(mut self) -> Self {
        self.ask();
        self
    }

    /// The host's number of this operation in this execution; none before it is
    /// asked for and after it has completed.
    pub fn id(&self) -> Option<u32> {
        match self.state {
            State::Waiting(id) => Some(id),
            _ => None,
        }
    }

    /// The options of an activity that has not been asked for yet.
    pub(crate) fn options_mut(&mut self) -> Option<&mut ActivityOptions> {
        match &mut self.state {
            State::Lazy(Request::Activity(request)) => Some(&mut request.options),
            _ => None,
        }
    }

    /// The options of a sub-orchestration that has not been asked for yet.
    pub(crate) fn orchestration_options_mut(&mut self) -> Option<&mut OrchestrationOptions> {
        match &mut self.state {
            State::Lazy(Request::Orchestration(request)) => Some(&mut request.options),
            _ => None,
        }
    }

    /// Asks the host, and lets go of the operation without cancelling it.
    pub(crate) fn detach(mut self) {
        self.ask();
        if let State::Waiting(id) = std::mem::replace(&mut self.state, State::Ended) {
            executor::forget_operation(id);
        }
    }

    pub(crate) fn ask(&mut self) {
        let State::Lazy(_) = &self.state else { return };
        let State::Lazy(request) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let is_one_way = matches!(&request, Request::Entity(request) if request.one_way);
        let asked = self.ask_for(request);
        if is_one_way {
            // Nothing comes of it that could be looked at.
            self.call = None;
        }
        self.state = match asked {
            Ok(Some(id)) => {
                executor::expect_operation(id);
                State::Waiting(id)
            }
            Ok(None) => State::Immediate(Ok(())),
            Err(error) => State::Immediate(Err(error.context(&self.what))),
        };
    }

    /// The operation's number; none if there is nothing to wait for.
    fn ask_for(&self, request: Request) -> Result<Option<u32>> {
        let name = &self.what.name;
        Ok(match request {
            Request::Activity(request) => {
                let input = self.before(request.input?)?.into();
                Some(imports::call_activity(name, &input, &request.options))
            }
            Request::Orchestration(request) => {
                let input = self.before(request.input?)?.into();
                Some(imports::call_orchestration(name, &input, &request.options))
            }
            Request::Signal(request) => Some(imports::signal(&request.to, name, &request.value?.into())),
            Request::Entity(request) => {
                let EntityId { kind, key } = &request.entity;
                let input = self.before(request.input?)?.into();
                Some(imports::call_entity(kind, key, &request.operation, &input, request.one_way))
            }
            Request::Lock(entities) => {
                let named = |EntityId { kind, key }| WitEntityId { kind, key };
                Some(imports::lock_entities(&entities.into_iter().map(named).collect::<Vec<_>>()))
            }
            Request::Event => Some(imports::wait_for_event(name)),
            Request::Delay { ms } => imports::delay(ms),
            Request::DelayUntil(time) => {
                let now = imports::now();
                imports::delay(i64::try_from(time.unix_ms().saturating_sub(now)).unwrap_or(i64::MAX))
            }
        })
    }

    fn called(&self) -> Option<Called<'_>> {
        self.call.map(|kind| Called { kind, name: &self.what.name })
    }

    fn before(&self, input: Payload) -> Result<Payload> {
        match self.called() {
            Some(called) => intercept::before(called, input),
            None => Ok(input),
        }
    }

    fn poll_payload(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Payload>>> {
        self.ask();
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Waiting(id) => {
                let outcome = match executor::poll_operation(id, cx) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => {
                        self.state = State::Waiting(id);
                        return Poll::Pending;
                    }
                };
                if self.is_event {
                    imports::received(id);
                }
                let outcome = outcome.map_err(Error::from_failure);
                let outcome = match self.called() {
                    Some(called) => intercept::after(called, outcome),
                    None => outcome,
                };
                Poll::Ready(outcome.map(Some))
            }
            State::Immediate(result) => Poll::Ready(result.map(|()| None)),
            State::Lazy(_) | State::Ended => panic!("{} polled after its end", self.what),
        }
    }
}

impl<T: DeserializeOwned> Future for Operation<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<T>> {
        let this = self.get_mut();
        let payload = ready!(this.poll_payload(cx))?;
        let payload = payload.unwrap_or_else(|| Payload { content_type: String::new(), data: Vec::new() });
        Poll::Ready(payload.decode_as(format_args!("result of {}", this.what)))
    }
}

impl<T: DeserializeOwned> FusedFuture for Operation<T> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        if let State::Waiting(id) = self.state {
            executor::abandon_operation(id);
        }
    }
}

impl<T> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("what", &self.what.to_string()).field("id", &self.id()).finish()
    }
}

/// A timer; see [`Context::delay`](crate::Context::delay). Dropped before it
/// fires, it is removed.
#[must_use = "a delay does nothing unless awaited or started"]
#[derive(Debug)]
pub struct Delay(Operation<()>);

impl Delay {
    pub(crate) fn new(request: Request) -> Self {
        Self(Operation::new("timer", Cow::Borrowed("delay"), request))
    }

    /// Starts the timer now rather than at the first poll.
    pub fn start(self) -> Self {
        Self(self.0.start())
    }
}

impl Future for Delay {
    type Output = ();

    /// # Panics
    /// If the host fails a timer, which no host does.
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(()) => Poll::Ready(()),
            Err(error) => panic!("timer failed: {error}"),
        }
    }
}

impl FusedFuture for Delay {
    fn is_terminated(&self) -> bool {
        self.0.is_terminated()
    }
}

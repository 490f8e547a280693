//! Calls of entities and locks over several, as an orchestration makes them.

use std::borrow::Cow;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use futures::future::FusedFuture;
use serde::de::DeserializeOwned;

use crate::entity::EntityId;
use crate::error::Result;
use crate::operation::{EntityRequest, Operation, Request};
use crate::payload::Payload;
use crate::{executor, imports};

/// An operation of an entity that is being called: what a typed proxy returns. A
/// future: awaited, it calls and waits; [`signal`](Self::signal) only signals.
///
/// The operation runs exactly once, whatever crashes on either side. Dropped while
/// it runs, the operation runs all the same and its result is let go.
///
/// # Errors
/// The operation's own error; of kind [`NotFound`](crate::FailureKind::NotFound) if
/// no module offers the kind, or the kind has no such operation.
#[must_use = "an entity is not called unless this is awaited, started or signalled"]
#[derive(Debug)]
pub struct EntityCall<T> {
    call: Option<Call>,
    waiting: Option<Operation<T>>,
    result: PhantomData<fn() -> T>,
}

#[derive(Debug)]
struct Call {
    entity: EntityId,
    operation: Cow<'static, str>,
    input: Result<Payload>,
}

impl Call {
    fn operation<T>(self, one_way: bool) -> Operation<T> {
        let name = format!("{}.{}", self.entity.kind, self.operation);
        let Self { entity, operation, input } = self;
        let request = EntityRequest { entity, operation, input, one_way };
        Operation::new("entity operation", Cow::Owned(name), Request::Entity(Box::new(request)))
    }
}

impl<T> EntityCall<T> {
    pub(crate) fn new(entity: EntityId, operation: Cow<'static, str>, input: Result<Payload>) -> Self {
        Self { call: Some(Call { entity, operation, input }), waiting: None, result: PhantomData }
    }

    /// Calls now rather than at the first poll.
    pub fn start(mut self) -> Operation<T> {
        self.waiting().start()
    }

    /// Only asks for the operation: completes as soon as the request is in the
    /// entity's journal. What comes of it is let go.
    pub fn signal(mut self) -> Operation<()> {
        match self.call.take() {
            Some(call) => call.operation(true),
            None => panic!("signal of a call of an entity that has started"),
        }
    }

    fn waiting(&mut self) -> Operation<T> {
        match (self.waiting.take(), self.call.take()) {
            (Some(waiting), _) => waiting,
            (None, Some(call)) => call.operation(false),
            (None, None) => panic!("an entity's operation was polled after its end"),
        }
    }
}

impl<T: DeserializeOwned> Future for EntityCall<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<T>> {
        let mut waiting = self.waiting();
        let poll = Pin::new(&mut waiting).poll(cx);
        if poll.is_pending() {
            self.waiting = Some(waiting);
        }
        poll
    }
}

impl<T: DeserializeOwned> FusedFuture for EntityCall<T> {
    fn is_terminated(&self) -> bool {
        self.waiting.is_none() && self.call.is_none()
    }
}

/// A lock that is being taken; see [`Context::lock`](crate::Context::lock).
#[must_use = "nothing is locked unless this is awaited"]
#[derive(Debug)]
pub struct Locking {
    operation: Operation<()>,
    id: Option<u32>,
}

impl Locking {
    pub(crate) fn new(entities: Vec<EntityId>) -> Self {
        let operation = Operation::new("lock", Cow::Borrowed("entities"), Request::Lock(entities));
        Self { operation, id: None }
    }
}

impl Future for Locking {
    type Output = Result<EntityLock>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<EntityLock>> {
        self.operation.ask();
        if self.id.is_none() {
            self.id = self.operation.id();
        }
        ready!(Pin::new(&mut self.operation).poll(cx))?;
        match self.id {
            Some(id) => Poll::Ready(Ok(EntityLock { id })),
            None => panic!("a lock that no host has heard of"),
        }
    }
}

/// Entities that only this orchestration reaches, until this is dropped or the
/// execution ends, however it ends.
#[must_use = "dropped, it unlocks"]
#[derive(Debug)]
pub struct EntityLock {
    id: u32,
}

impl EntityLock {
    /// Lets others reach the entities again. Dropping does the same.
    pub fn unlock(self) {}
}

impl Drop for EntityLock {
    fn drop(&mut self) {
        // After its outcome an orchestration asks for nothing; its end unlocks.
        if !executor::has_ended() {
            imports::unlock_entities(self.id);
        }
    }
}

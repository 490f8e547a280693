//! Requests that `resume` brought: found a handler, and answered.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::bindings::orchestration::exports::dacapo::workflow::guest::{Request, RequestKind};
use crate::error::{Error, FailureKind, Result};
use crate::imports;
use crate::payload::Payload;

/// Begins to answer a request; it answers with [`respond`], now or later.
pub(crate) type Handler = Rc<dyn Fn(u32, Payload)>;

thread_local! {
    static REQUESTS: Requests = Requests::default();
}

#[derive(Default)]
struct Requests {
    updates: RefCell<BTreeMap<String, Handler>>,
    /// Nobody offers to answer them, as far as is known.
    unanswered: RefCell<Vec<Request>>,
    /// Whether this is an entity, which takes operations.
    is_entity: Cell<bool>,
    operations: RefCell<VecDeque<Request>>,
    operator: RefCell<Option<Waker>>,
}

/// Answers updates of that name from now on.
pub(crate) fn set_update(name: String, handler: Handler) {
    REQUESTS.with(|r| r.updates.borrow_mut().insert(name, handler));
}

/// Takes a request.
pub(crate) fn received(request: Request) {
    if matches!(request.kind, RequestKind::EntityOperation) && REQUESTS.with(|r| r.is_entity.get()) {
        REQUESTS.with(|r| r.operations.borrow_mut().push_back(request));
        if let Some(operator) = REQUESTS.with(|r| r.operator.take()) {
            operator.wake();
        }
        return;
    }
    let handler = REQUESTS.with(|r| r.updates.borrow().get(&request.name).cloned());
    match handler {
        Some(handler) => handler(request.id, request.input.into()),
        None => REQUESTS.with(|r| r.unanswered.borrow_mut().push(request)),
    }
}

/// The next operation of this entity, in the order in which they came.
pub(crate) fn next_operation() -> impl Future<Output = Request> {
    REQUESTS.with(|r| r.is_entity.set(true));
    poll_fn(|cx| {
        REQUESTS.with(|r| match r.operations.borrow_mut().pop_front() {
            Some(request) => Poll::Ready(request),
            None => {
                *r.operator.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    })
}

/// Whether more operations have come.
pub(crate) fn has_operations() -> bool {
    REQUESTS.with(|r| !r.operations.borrow().is_empty())
}

/// Every task waits: those requests for which there is a handler by now get it,
/// all others are told what there is. True if there is more to run.
pub(crate) fn settle() -> bool {
    let mut found = false;
    for request in REQUESTS.with(|r| r.unanswered.take()) {
        let names = REQUESTS.with(|r| {
            let updates = r.updates.borrow();
            if updates.contains_key(&request.name) { None } else { Some(updates.keys().cloned().collect::<Vec<_>>()) }
        });
        match names {
            None => {
                received(request);
                found = true;
            }
            Some(names) => {
                let there_are = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let message = format!("no update {:?}; now there are: {there_are}", request.name);
                respond(request.id, Err(Error::of_kind(FailureKind::NotFound, message).non_retryable()));
            }
        }
    }
    found
}

/// Answers a request.
pub(crate) fn respond(request: u32, answer: Result<Payload>) {
    match answer {
        Ok(output) => imports::respond(request, Ok(&output.into())),
        Err(error) => imports::respond(request, Err(&error.into_failure().into())),
    }
}

//! Requests that `resume` brought: found a handler, and answered.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::bindings::orchestration::exports::dacapo::workflow::guest::Request;
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
}

/// Answers updates of that name from now on.
pub(crate) fn set_update(name: String, handler: Handler) {
    REQUESTS.with(|r| r.updates.borrow_mut().insert(name, handler));
}

/// Takes a request.
pub(crate) fn received(request: Request) {
    let handler = REQUESTS.with(|r| r.updates.borrow().get(&request.name).cloned());
    match handler {
        Some(handler) => handler(request.id, request.input.into()),
        None => REQUESTS.with(|r| r.unanswered.borrow_mut().push(request)),
    }
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

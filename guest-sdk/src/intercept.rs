//! What an orchestration does around everything that it calls: one place for
//! encryption, for tracing, for rules about what may be called.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::Result;
use crate::payload::Payload;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Called<'a> {
    /// An activity, another orchestration or an entity.
    pub kind: CallKind,
    /// `service.method` of an activity, the name of an orchestration, `kind.operation`
    /// of an entity.
    pub name: &'a str,
}

/// The kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallKind {
    /// An activity.
    Activity,
    /// Another orchestration.
    Orchestration,
    /// An operation of an entity.
    Entity,
}

/// Something around every call of an activity, of another orchestration and of an
/// entity. It runs
/// inside the orchestration, at replay too, so it may decide only by what is
/// recorded. One that panics fails the orchestration, as any code of it would.
///
/// ```
/// use dacapo_sdk::{CallInterceptor, CallKind, Called, Error, Payload, Result};
///
/// /// Only the activities that are on the list may be called.
/// struct Allowed(&'static [&'static str]);
///
/// impl CallInterceptor for Allowed {
///     fn before(&self, called: Called<'_>, input: Payload) -> Result<Payload> {
///         if called.kind != CallKind::Activity || self.0.contains(&called.name) {
///             return Ok(input);
///         }
///         Err(Error::new(format!("{} may not be called", called.name)).with_type("NotAllowed"))
///     }
/// }
/// ```
pub trait CallInterceptor {
    /// The input that is sent.
    ///
    /// # Errors
    /// The call fails with that, and the host is not asked.
    fn before(&self, called: Called<'_>, input: Payload) -> Result<Payload> {
        let _ = called;
        Ok(input)
    }

    /// What the call comes to. Not asked of a call that is detached or dropped, nor of
    /// an entity that is only signalled.
    ///
    /// # Errors
    /// The call fails with that.
    fn after(&self, called: Called<'_>, outcome: Result<Payload>) -> Result<Payload> {
        let _ = called;
        outcome
    }
}

thread_local! {
    /// A component instance runs one orchestration, in one thread.
    static AROUND: RefCell<Vec<Rc<dyn CallInterceptor>>> = const { RefCell::new(Vec::new()) };
}

/// From here on `interceptor` is inside of those that were there.
pub(crate) fn add(interceptor: Rc<dyn CallInterceptor>) {
    AROUND.with(|around| around.borrow_mut().push(interceptor));
}

pub(crate) fn before(called: Called<'_>, input: Payload) -> Result<Payload> {
    if is_empty() {
        return Ok(input);
    }
    all().iter().try_fold(input, |input, interceptor| interceptor.before(called, input))
}

pub(crate) fn after(called: Called<'_>, outcome: Result<Payload>) -> Result<Payload> {
    if is_empty() {
        return outcome;
    }
    all().iter().rev().fold(outcome, |outcome, interceptor| interceptor.after(called, outcome))
}

fn is_empty() -> bool {
    AROUND.with(|around| around.borrow().is_empty())
}

/// Not borrowed while they run: one may call another activity.
fn all() -> Vec<Rc<dyn CallInterceptor>> {
    AROUND.with(|around| around.borrow().clone())
}

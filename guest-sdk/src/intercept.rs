//! What an orchestration does around every activity that it calls: one place for
//! encryption, for tracing, for rules about what may be called.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::Result;
use crate::payload::Payload;

/// Something around every call of an activity. It runs inside the orchestration,
/// at replay too, so it may decide only by what is recorded. One that panics fails
/// the orchestration, as any code of it would.
///
/// ```
/// use dacapo_sdk::{CallInterceptor, Error, Payload, Result};
///
/// /// Only what is on the list may be called.
/// struct Allowed(&'static [&'static str]);
///
/// impl CallInterceptor for Allowed {
///     fn before(&self, activity: &str, input: Payload) -> Result<Payload> {
///         if self.0.contains(&activity) {
///             return Ok(input);
///         }
///         Err(Error::new(format!("{activity} may not be called")).with_type("NotAllowed"))
///     }
/// }
/// ```
pub trait CallInterceptor {
    /// The input that is sent.
    ///
    /// # Errors
    /// The call fails with that, and the host is not asked.
    fn before(&self, activity: &str, input: Payload) -> Result<Payload> {
        let _ = activity;
        Ok(input)
    }

    /// What the call comes to.
    ///
    /// # Errors
    /// The call fails with that.
    fn after(&self, activity: &str, outcome: Result<Payload>) -> Result<Payload> {
        let _ = activity;
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

pub(crate) fn before(activity: &str, input: Payload) -> Result<Payload> {
    all().iter().try_fold(input, |input, interceptor| interceptor.before(activity, input))
}

pub(crate) fn after(activity: &str, outcome: Result<Payload>) -> Result<Payload> {
    all().iter().rev().fold(outcome, |outcome, interceptor| interceptor.after(activity, outcome))
}

/// Not borrowed while they run: one may call another activity.
fn all() -> Vec<Rc<dyn CallInterceptor>> {
    AROUND.with(|around| around.borrow().clone())
}

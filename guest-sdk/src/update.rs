//! Updates: handlers that change a running orchestration and answer.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::Result;
use crate::executor;
use crate::payload::Payload;
use crate::requests::{self, respond};

/// The `error_type` of updates that their validator rejected, where its error has
/// none of its own.
pub const REJECTED: &str = "Rejected";

/// An update that is answered from now on; see
/// [`Context::on_update`](crate::Context::on_update).
pub struct Update<I> {
    name: String,
    validator: Validator<I>,
}

type Validator<I> = Rc<RefCell<Option<Box<dyn Fn(&I) -> Result<()>>>>>;

impl<I: DeserializeOwned + 'static> Update<I> {
    pub(crate) fn register<O, F>(name: String, handler: impl Fn(I) -> F + 'static) -> Self
    where
        O: Serialize,
        F: Future<Output = Result<O>> + 'static,
    {
        let validator: Validator<I> = Rc::default();
        let (handler, check) = (Rc::new(handler), Rc::clone(&validator));
        let what: Rc<str> = format!("input of update {name:?}").into();
        let begin = move |request: u32, input: Payload| {
            let (handler, check, what) = (Rc::clone(&handler), Rc::clone(&check), Rc::clone(&what));
            // Checked in the task that goes on with it: what an earlier update of
            // this turn has changed is seen.
            let _task = executor::spawn(async move {
                let answer = match checked(&input, &what, &check) {
                    Ok(input) => handler(input).await.and_then(|output| Payload::json(&output)),
                    Err(error) => Err(error),
                };
                respond(request, answer);
            });
        };
        requests::set_update(name.clone(), Rc::new(begin));
        Self { name, validator }
    }

    /// Looks at the input before the handler does, at the orchestration's state of
    /// that moment. An error rejects the update: the handler does not run. What is
    /// recorded then are two events, `request-received` and `responded` with the
    /// error (of type [`REJECTED`], if it has none of its own), and nothing else: a
    /// validator asks the host for nothing and changes nothing.
    pub fn validate(self, check: impl Fn(&I) -> Result<()> + 'static) -> Self {
        *self.validator.borrow_mut() = Some(Box::new(check));
        self
    }
}

fn checked<I: DeserializeOwned>(input: &Payload, what: &str, check: &Validator<I>) -> Result<I> {
    let input = input.decode_as(what)?;
    if let Some(check) = &*check.borrow() {
        check(&input).map_err(|error| if error.error_type().is_empty() { error.with_type(REJECTED) } else { error })?;
    }
    Ok(input)
}

impl<I> fmt::Debug for Update<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update").field("name", &self.name).finish_non_exhaustive()
    }
}

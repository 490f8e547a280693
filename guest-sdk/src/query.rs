//! Queries: typed questions about the state of an orchestration.

use std::cell::RefCell;
use std::rc::Rc;

use crate::bindings::orchestration::exports::dacapo::workflow::guest::Offer;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::executor;
use crate::payload::Payload;

/// A question, as the `query` attribute defines it on a type with the function's
/// name.
///
/// ```no_run
/// # use dacapo_sdk::{Context, Result, orchestration, query};
/// # use std::{cell::RefCell, rc::Rc};
/// #[derive(Default)]
/// struct Trip {
///     booked: Vec<String>,
/// }
///
/// /// How many are booked.
/// #[query]
/// fn booked(trip: &Trip) -> Result<usize> {
///     Ok(trip.booked.len())
/// }
///
/// #[orchestration(queries = [booked])]
/// async fn trip(ctx: Context) -> Result<()> {
///     let trip = Rc::new(RefCell::new(Trip::default()));
///     ctx.answer::<booked>(&trip);
///     trip.borrow_mut().booked.push("hotel".to_owned());
///     Ok(())
/// }
/// ```
pub trait Query {
    /// Under which it is asked.
    const NAME: &'static str;
    /// The function's doc comment.
    const DESCRIPTION: &'static str;
    /// What it looks at.
    type State;

    /// JSON Schemas of input and output, where they are known.
    fn schemas() -> (Option<String>, Option<String>);

    /// Decodes the input and looks.
    ///
    /// # Errors
    /// The input is not what it takes, or the function's own.
    fn answer(state: &Self::State, input: Payload) -> Result<Payload>;
}

/// One line of an orchestration's list of queries.
#[derive(Clone, Copy, Debug)]
pub struct ExportedQuery {
    name: &'static str,
    description: &'static str,
    schemas: fn() -> (Option<String>, Option<String>),
}

impl ExportedQuery {
    /// The line of `Q`.
    pub const fn of<Q: Query>() -> Self {
        Self { name: Q::NAME, description: Q::DESCRIPTION, schemas: Q::schemas }
    }

    pub(crate) fn offer(&self) -> Offer {
        let (input_schema, output_schema) = (self.schemas)();
        Offer { name: self.name.to_owned(), description: self.description.to_owned(), input_schema, output_schema }
    }
}

impl Context {
    /// Answers the query `Q` about `state` from now on, also when the orchestration
    /// has ended. It reads live state; it cannot ask the host for anything.
    pub fn answer<Q: Query>(&self, state: &Rc<RefCell<Q::State>>)
    where
        Q::State: 'static,
    {
        let state = Rc::clone(state);
        let answer = move |input: Payload| match state.try_borrow() {
            Ok(state) => Q::answer(&state, input),
            Err(_) => Err(Error::new(format!(
                "query {:?} finds its state borrowed: do not hold `borrow_mut` over an await",
                Q::NAME
            ))),
        };
        executor::set_query(Q::NAME.to_owned(), Rc::new(answer));
    }
}

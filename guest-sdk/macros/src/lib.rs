//! The attribute macros of `dacapo-sdk`; documented there by what they make of a
//! function or a trait.

mod activities;
mod entity;
mod orchestration;
mod query;
mod signature;

use proc_macro::TokenStream;

/// Makes an async function an orchestration.
///
/// `async fn name(ctx: Context, input: T) -> Result<U>`, or without an input.
/// `T: Deserialize`, `U: Serialize`; where they implement `JsonSchema` as well, the
/// schemas are shown to callers. The orchestration has the function's name, or
/// `#[orchestration(name = "...")]`; the doc comment is its description.
/// `updates = ["..."]` lists the updates that it answers, for callers to see.
/// `queries = [seats, price]` lists the queries that it answers.
///
/// The function stays as it is and can be called. Beside it stands a type of the
/// same name that implements `dacapo_sdk::Orchestration`.
#[proc_macro_attribute]
pub fn orchestration(arguments: TokenStream, item: TokenStream) -> TokenStream {
    beside(item.clone(), orchestration::expand(arguments.into(), item.into()))
}

/// Makes a function a query: a question about an orchestration's state.
///
/// `fn name(state: &State, input: T) -> Result<U>`, or without an input. It cannot
/// wait and cannot ask the host for anything. The query has the function's name, or
/// `#[query(name = "...")]`; the doc comment is its description. The orchestration
/// lists it, `#[orchestration(queries = [name])]`, and answers it from when it says
/// `ctx.answer::<name>(&state)`.
#[proc_macro_attribute]
pub fn query(arguments: TokenStream, item: TokenStream) -> TokenStream {
    beside(item.clone(), query::expand(arguments.into(), item.into()))
}

/// Makes the methods of a type operations of an entity kind.
///
/// The type is the state: `Clone`, `Default`, `Serialize` and `Deserialize`. Each
/// `pub` method with `&mut self` or `&self` is an operation: it may take `ctx:
/// EntityContext`, then one input, may be `async`, and returns a `Result`. If that is
/// an error, the state is as it was before. From `impl Counter` comes `CounterProxy`,
/// with which an orchestration calls, signals and locks a counter.
///
/// The kind has the type's name in snake case, or `#[entity(kind = "...")]`. After
/// `keep = <n>` operations (500) an entity's history begins anew.
#[proc_macro_attribute]
pub fn entity(arguments: TokenStream, item: TokenStream) -> TokenStream {
    beside(item.clone(), entity::expand(arguments.into(), item.into()))
}

/// Makes a trait a service of activities.
///
/// Each method is `async fn name(&self, ctx: ActivityContext, input: T) -> Result<U>`,
/// or without an input. From `trait Hotel` with `#[activities(service = "hotel")]`
/// come
/// - `HotelProxy`, with which an orchestration calls `hotel.name`;
/// - `HotelActivities(implementation)`, with which they are exported or
///   registered.
///
/// Without `service` the service has the trait's name in snake case. `retry =
/// <expression>` gives a policy for calls that bring none, for the whole service
/// there, for one method as `#[activity(retry = ...)]`; `#[activity(name = "...")]`
/// renames one.
#[proc_macro_attribute]
pub fn activities(arguments: TokenStream, item: TokenStream) -> TokenStream {
    activities::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// What came of it; or what is wrong, and `item` as it was, so that nothing else is
/// complained of.
fn beside(item: TokenStream, expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    match expanded {
        Ok(expanded) => expanded.into(),
        Err(error) => TokenStream::from_iter([error.into_compile_error().into(), item]),
    }
}

/// What was found wrong, each as it is said.
#[cfg(test)]
fn complaints(expanded: syn::Result<proc_macro2::TokenStream>) -> Vec<String> {
    expanded.err().into_iter().flatten().map(|error| error.to_string()).collect()
}

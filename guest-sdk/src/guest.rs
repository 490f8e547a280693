//! What the host asks of a module with orchestrations: the exports of the
//! orchestration world, over the list that `export_orchestrations!` writes.

use futures::future::LocalBoxFuture;

use crate::bindings::orchestration::exports::dacapo::workflow::guest::{Delivery, Description, Offer, Progress};
use crate::bindings::types as wit;
use crate::context::Context;
use crate::entity::ExportedEntity;
use crate::error::{Error, FailureKind, Result};
use crate::payload::Payload;
use crate::query::ExportedQuery;
use crate::{executor, imports, logging, requests};

/// An orchestration, as the `orchestration` attribute defines it on a type with
/// the function's name.
pub trait Orchestration {
    /// Under which it is started.
    const NAME: &'static str;
    /// The function's doc comment.
    const DESCRIPTION: &'static str;
    /// The updates that it answers, as `#[orchestration(updates = [..])]` says.
    const UPDATES: &'static [&'static str] = &[];

    /// The queries that it answers, as far as the attribute lists them.
    const QUERIES: &'static [ExportedQuery] = &[];

    /// JSON Schemas of input and output, where they are known.
    fn schemas() -> (Option<String>, Option<String>);

    /// Decodes the input and runs the function.
    fn run(ctx: Context, input: Payload) -> LocalBoxFuture<'static, Result<Payload>>;
}

/// One line of a module's list of orchestrations.
#[derive(Clone, Copy, Debug)]
pub struct Exported {
    name: &'static str,
    description: &'static str,
    updates: &'static [&'static str],
    queries: &'static [ExportedQuery],
    schemas: fn() -> (Option<String>, Option<String>),
    run: fn(Context, Payload) -> LocalBoxFuture<'static, Result<Payload>>,
}

impl Exported {
    /// The line of `O`.
    pub const fn of<O: Orchestration>() -> Self {
        Self {
            name: O::NAME,
            description: O::DESCRIPTION,
            updates: O::UPDATES,
            queries: O::QUERIES,
            schemas: O::schemas,
            run: O::run,
        }
    }
}

/// Stops the compiler where two orchestrations would be started by one name.
///
/// # Panics
/// That is how it stops.
pub const fn check_names(module: &[Exported]) {
    let mut one = 0;
    while one < module.len() {
        let mut other = one + 1;
        while other < module.len() {
            assert!(
                !is_same(module[one].name.as_bytes(), module[other].name.as_bytes()),
                "two orchestrations of this module have the same name; give one of them another: \
                 #[orchestration(name = \"...\")]"
            );
            other += 1;
        }
        one += 1;
    }
}

pub(crate) const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// The export `describe`.
pub fn describe(module: &[Exported], entities: &[ExportedEntity]) -> Description {
    prepare();
    Description {
        sdk: concat!("rust dacapo-sdk ", env!("CARGO_PKG_VERSION")).to_owned(),
        orchestrations: module.iter().map(offer).collect(),
        queries: queries(module),
        updates: module.iter().flat_map(updates).collect(),
        entities: entities.iter().map(ExportedEntity::offer).collect(),
    }
}

/// The queries of all orchestrations, each name once.
fn queries(module: &[Exported]) -> Vec<Offer> {
    let mut all: Vec<Offer> = Vec::new();
    for query in module.iter().flat_map(|exported| exported.queries).map(ExportedQuery::offer) {
        if all.iter().all(|known| known.name != query.name) {
            all.push(query);
        }
    }
    all
}

fn offer(exported: &Exported) -> Offer {
    let (input_schema, output_schema) = (exported.schemas)();
    Offer { name: exported.name.to_owned(), description: exported.description.to_owned(), input_schema, output_schema }
}

fn updates(exported: &Exported) -> impl Iterator<Item = Offer> {
    exported.updates.iter().map(|name| Offer {
        name: (*name).to_owned(),
        description: format!("An update of {}.", exported.name),
        input_schema: None,
        output_schema: None,
    })
}

/// The export `start`.
pub fn start(module: &[Exported], entities: &[ExportedEntity], name: &str, input: wit::Payload) -> Progress {
    prepare();
    if let Some(serve) = ExportedEntity::find(entities, name) {
        executor::start(serve(Context::new(), input.into()));
        return run();
    }
    let Some(exported) = module.iter().find(|exported| exported.name == name) else {
        let offered: Vec<&str> = module.iter().map(|exported| exported.name).collect();
        let message = format!("no orchestration {name:?} in this module; it offers {}", offered.join(", "));
        return Progress::Failed(failure(Error::of_kind(FailureKind::NotFound, message).non_retryable()));
    };
    executor::start((exported.run)(Context::new(), input.into()));
    run()
}

/// The export `resume`.
pub fn resume(deliveries: Vec<Delivery>) -> Progress {
    for delivery in deliveries {
        match delivery {
            Delivery::Completed(completion) => {
                let outcome = completion.outcome.map(Into::into).map_err(Into::into);
                if !executor::complete_operation(completion.operation, outcome) {
                    tracing::debug!(operation = completion.operation, "a completion that nobody waits for");
                }
            }
            Delivery::CancelRequested(reason) => executor::request_cancellation(reason),
            Delivery::Requested(request) => requests::received(request),
        }
    }
    run()
}

/// The export `query`.
pub fn query(name: &str, input: wit::Payload) -> Result<wit::Payload, wit::Failure> {
    prepare();
    let answer = match executor::query(name) {
        Ok(handler) => handler(input.into()),
        Err(offered) => {
            let message = format!("no query {name:?}; now there are: {}", offered.join(", "));
            Err(Error::of_kind(FailureKind::NotFound, message))
        }
    };
    answer.map(Into::into).map_err(failure)
}

fn prepare() {
    #[cfg(target_family = "wasm")]
    logging::install(imports::log);
    #[cfg(not(target_family = "wasm"))]
    let _ = (logging::install, imports::log);
}

fn run() -> Progress {
    let mut outcome = executor::run();
    // Somebody may have asked for what a task has only now begun to offer.
    while outcome.is_none() && requests::settle() {
        outcome = executor::run();
    }
    match outcome {
        None => Progress::Suspended,
        Some(Ok(output)) => Progress::Completed(output.into()),
        Some(Err(mut error)) => match error.take_next_input() {
            Some(input) => Progress::ContinueAsNew(input.into()),
            None => Progress::Failed(failure(error)),
        },
    }
}

fn failure(error: Error) -> wit::Failure {
    error.into_failure().into()
}

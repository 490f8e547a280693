//! Entities: keyed state whose operations run one at a time.
//!
//! An entity is an instance of its own, with the id `@kind@key`, that this loop
//! runs: take the next operation, run it on a copy of the state, keep the copy if
//! it succeeds, answer. After [`Entity::KEEP`] operations it continues as new with
//! the state as input, so its history stays short. An operation that panics is
//! answered by the host, and this loop begins again without it.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::bindings::orchestration::exports::dacapo::workflow::guest::{EntityOffer, Offer, Request};
use crate::context::Context;
use crate::error::{Error, FailureKind, Result};
use crate::guest::is_same;
use crate::payload::Payload;
use crate::{executor, requests};

/// A kind of entity, as the attribute [`entity`](crate::entity) makes it of an
/// `impl` block.
pub trait Entity: Clone + Default + Serialize + DeserializeOwned + 'static {
    /// The kind's name.
    const KIND: &'static str;
    /// What can be asked of it, by name.
    const OPERATIONS: &'static [&'static str];
    /// Operations after which the history begins anew.
    const KEEP: u32 = 500;

    /// What an orchestration calls it with; the attribute makes it: `CounterProxy` of
    /// `Counter`.
    type Proxy;

    /// The proxy of the entity with that key.
    fn proxy(ctx: &Context, key: String) -> Self::Proxy;

    /// The same, as it is described to people.
    fn operations() -> Vec<EntityOperation>;

    /// Runs an operation; the caller throws the state away if it fails.
    fn run<'a>(
        &'a mut self,
        ctx: EntityContext,
        operation: &'a str,
        input: Payload,
    ) -> LocalBoxFuture<'a, Result<Payload>>;
}

/// An operation as it is described.
#[derive(Clone, Debug)]
pub struct EntityOperation {
    /// Its name.
    pub name: &'static str,
    /// For people.
    pub description: &'static str,
    /// JSON Schema text of its input, if known.
    pub input_schema: Option<String>,
    /// JSON Schema text of its output, if known.
    pub output_schema: Option<String>,
}

/// Names one entity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityId {
    /// Its kind.
    pub kind: String,
    /// Which one of them.
    pub key: String,
}

impl EntityId {
    /// The entity of that kind and key.
    pub fn new(kind: impl Into<String>, key: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: key.into() }
    }
}

/// What an operation of an entity can ask for: what any orchestration can, except
/// to call or lock entities, which could wait for each other for ever. It may
/// signal them ([`EntityCall::signal`](crate::EntityCall::signal)).
#[derive(Clone, Debug)]
pub struct EntityContext {
    ctx: Context,
    key: Rc<str>,
    deleted: Rc<Cell<bool>>,
}

impl EntityContext {
    /// The entity's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The entity is gone when this operation has succeeded; used again, it begins
    /// with its default state.
    pub fn delete(&self) {
        self.deleted.set(true);
    }
}

impl Deref for EntityContext {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.ctx
    }
}

/// The loop of one kind of entity.
type Serve = fn(Context, Payload) -> LocalBoxFuture<'static, Result<Payload>>;

/// One line of a module's list of entities.
#[derive(Clone, Copy, Debug)]
pub struct ExportedEntity {
    kind: &'static str,
    operations: fn() -> Vec<EntityOperation>,
    serve: Serve,
}

impl ExportedEntity {
    /// The line of `E`.
    pub const fn of<E: Entity>() -> Self {
        Self { kind: E::KIND, operations: E::operations, serve: serve::<E> }
    }

    pub(crate) fn offer(&self) -> EntityOffer {
        let offer = |operation: EntityOperation| Offer {
            name: operation.name.to_owned(),
            description: operation.description.to_owned(),
            input_schema: operation.input_schema,
            output_schema: operation.output_schema,
        };
        let operations = (self.operations)().into_iter().map(offer).collect();
        EntityOffer { kind: self.kind.to_owned(), operations }
    }

    /// The loop of the entity kind that an instance runs, if it runs one of these.
    pub(crate) fn find(all: &[Self], orchestration: &str) -> Option<Serve> {
        let kind = orchestration.strip_prefix('@')?;
        all.iter().find(|entity| entity.kind == kind).map(|entity| entity.serve)
    }
}

/// Stops the compiler where two entities would be of one kind.
///
/// # Panics
/// That is how it stops.
pub const fn check_kinds(all: &[ExportedEntity]) {
    let mut one = 0;
    while one < all.len() {
        let mut other = one + 1;
        while other < all.len() {
            assert!(
                !is_same(all[one].kind.as_bytes(), all[other].kind.as_bytes()),
                "two entities of this module are of the same kind; give one of them another: #[entity(kind = \"...\")]"
            );
            other += 1;
        }
        one += 1;
    }
}

/// What one execution leaves to the next.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Saved<E> {
    /// It was deleted; more was asked of it.
    Gone,
    State(E),
}

fn serve<E: Entity>(ctx: Context, input: Payload) -> LocalBoxFuture<'static, Result<Payload>> {
    Box::pin(async move {
        let saved = input.decode_as::<Option<Saved<E>>>(format_args!("state of entity {:?}", E::KIND))?;
        let state = Rc::new(RefCell::new(match saved {
            Some(Saved::State(state)) => Some(state),
            Some(Saved::Gone) | None => None,
        }));
        let seen = Rc::clone(&state);
        executor::set_query("state".to_owned(), Rc::new(move |_| Payload::json(&*seen.borrow())));
        let instance = ctx.info().instance;
        let key: Rc<str> = instance.splitn(3, '@').nth(2).unwrap_or_default().into();
        for _ in 0..E::KEEP.max(1) {
            let request = requests::next_operation().await;
            let id = request.id;
            let answer = operate(&ctx, &key, &state, request).await;
            requests::respond(id, answer);
            if state.borrow().is_none() && !requests::has_operations() {
                return Payload::json(&());
            }
        }
        let left = state.take();
        ctx.continue_as_new(left.map_or(Saved::Gone, Saved::State))
    })
}

/// Runs one operation on a copy of the state, which is kept if it succeeds.
async fn operate<E: Entity>(
    ctx: &Context,
    key: &Rc<str>,
    state: &RefCell<Option<E>>,
    request: Request,
) -> Result<Payload> {
    let mut copy = state.borrow().clone().unwrap_or_default();
    let ctx = EntityContext { ctx: ctx.clone(), key: Rc::clone(key), deleted: Rc::default() };
    let deleted = Rc::clone(&ctx.deleted);
    let answer = if request.name == "delete" && !E::OPERATIONS.contains(&"delete") {
        ctx.delete();
        Payload::json(&())
    } else {
        copy.run(ctx, &request.name, request.input.into()).await
    };
    if answer.is_ok() {
        *state.borrow_mut() = if deleted.get() { None } else { Some(copy) };
    }
    answer
}

/// The failure of an operation that the kind does not have.
pub fn unknown_operation(kind: &str, operation: &str, there_are: &[&str]) -> Error {
    let message = format!("no operation {operation:?} of entity {kind:?}; there are: {}", there_are.join(", "));
    Error::of_kind(FailureKind::NotFound, message).non_retryable()
}

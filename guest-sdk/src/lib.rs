//! Write dacapo orchestrations and activities as plain async Rust.
//!
//! An *orchestration* is an async function that is replayed from its history
//! whenever its host restarts; an *activity* is where it touches the world. Both
//! are compiled to WebAssembly components (`wasm32-wasip2`).
//!
//! ```no_run
//! use dacapo_sdk::{ActivityContext, Context, Result, RetryPolicy, activities, orchestration};
//!
//! #[activities(service = "greeter")]
//! pub trait Greeter {
//!     /// Says hello.
//!     async fn greet(&self, ctx: ActivityContext, name: String) -> Result<String>;
//! }
//!
//! /// Greets everybody, one after the other.
//! #[orchestration]
//! async fn greet_all(ctx: Context, names: Vec<String>) -> Result<Vec<String>> {
//!     let greeter = GreeterProxy::new(&ctx);
//!     let mut greetings = Vec::new();
//!     for name in names {
//!         greetings.push(greeter.greet(name).retry(RetryPolicy::attempts(3)).await?);
//!     }
//!     Ok(greetings)
//! }
//!
//! dacapo_sdk::export_orchestrations!(greet_all);
//! # fn main() {}
//! ```
//!
//! The activities live in a component (or a native host) of their own:
//!
//! ```no_run
//! # use dacapo_sdk::{ActivityContext, Result, activities};
//! # #[activities(service = "greeter")]
//! # pub trait Greeter {
//! #     async fn greet(&self, ctx: ActivityContext, name: String) -> Result<String>;
//! # }
//! struct Polite;
//!
//! impl Greeter for Polite {
//!     async fn greet(&self, _ctx: ActivityContext, name: String) -> Result<String> {
//!         Ok(format!("Good day, {name}"))
//!     }
//! }
//!
//! dacapo_sdk::export_activities!(GreeterActivities(Polite));
//! # fn main() {}
//! ```
//!
//! # What an orchestration may do
//! Anything that ordinary Rust does in one thread: `SystemTime::now`, `HashMap`
//! and random numbers are answered from the record. There is no file, no socket
//! and no blocking wait; such imports are refused when the module is uploaded.
//! Waiting is awaiting: [`Context::delay`], [`Context::wait_for_event`], calls of
//! activities, and any combinator of [`futures`] over them.

mod activity;
mod activity_call;
mod activity_guest;
#[doc(hidden)]
pub mod bindings;
mod context;
mod entity;
mod entity_call;
mod error;
mod executor;
mod guest;
#[cfg(all(target_family = "wasm", feature = "heap"))]
mod heap;
#[cfg(feature = "http")]
pub mod http;
mod imports;
mod intercept;
mod logging;
mod operation;
mod orchestration_call;
pub mod payload;
mod query;
mod requests;
mod retry;
mod saga;
mod schema;
#[cfg(all(test, not(target_family = "wasm")))]
mod tests;
mod time;
mod update;
#[cfg(all(feature = "worker", not(target_family = "wasm")))]
pub mod worker;

pub use activity::{
    Activity, ActivityContext, ActivityHost, ActivityInfo, ActivitySet, BoxFuture, Handler, IntoActivitySet, MaybeSend,
    MaybeSync,
};
pub use activity_call::ActivityCall;
pub use context::{Context, Guid, Info};
pub use dacapo_sdk_macros::{activities, entity, orchestration, query};
pub use entity::{Entity, EntityContext, EntityId, EntityOperation};
pub use entity_call::{EntityCall, EntityLock, Locking};
pub use error::{Error, Failure, FailureKind, Result};
pub use executor::{Cancelled, JoinHandle};
pub use guest::Orchestration;
pub use intercept::{CallInterceptor, CallKind, Called};
pub use operation::{Delay, Operation};
pub use orchestration_call::{Callable, IdReuse, OrchestrationCall, ParentClose};
pub use payload::Payload;
pub use query::Query;
pub use retry::RetryPolicy;
pub use saga::{FailedCompensation, Saga, SagaOutcome};
pub use time::{InvalidTimestamp, Timestamp};
pub use update::{REJECTED, Update};

pub use {futures, schemars, serde, serde_json, tracing};

/// What the macros' code names; no public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::activity::handle;
    pub use crate::activity_guest::{describe as describe_activities, run as run_activity};
    pub use crate::bindings;
    pub use crate::entity::{ExportedEntity, check_kinds, unknown_operation};
    pub use crate::guest::{Exported, check_names, describe, query, resume, start};
    pub use crate::query::ExportedQuery;
    pub use crate::schema::{Probe, WithSchema, WithoutSchema};
    pub use futures::future::LocalBoxFuture;

    use crate::{Error, Payload};

    /// Decodes an orchestration's input.
    pub fn decode<T: serde::de::DeserializeOwned>(what: &str, input: &Payload) -> crate::Result<T> {
        input.decode_as(what)
    }

    /// Encodes an orchestration's output.
    pub fn encode<T: serde::Serialize, E: Into<Error>>(output: Result<T, E>) -> crate::Result<Payload> {
        Payload::json(&output.map_err(Into::into)?)
    }

    /// The value type of a `Result`, however it is spelled.
    pub trait ResultParts {
        type Ok;
    }

    impl<T, E> ResultParts for Result<T, E> {
        type Ok = T;
    }
}

/// Exports orchestrations from this component: once, at the end of `lib.rs`.
///
/// ```no_run
/// # use dacapo_sdk::{Context, Result, orchestration};
/// #[orchestration]
/// async fn nothing(_ctx: Context) -> Result<()> {
///     Ok(())
/// }
///
/// dacapo_sdk::export_orchestrations!(nothing);
/// # fn main() {}
/// ```
///
/// Entities are listed behind them, see [`entity`]:
///
/// ```no_run
/// # use dacapo_sdk::{Context, Result, entity, orchestration};
/// # use dacapo_sdk::serde::{Deserialize, Serialize};
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// # #[serde(crate = "dacapo_sdk::serde")]
/// struct Counter(u64);
///
/// #[entity]
/// impl Counter {
///     pub fn add(&mut self, n: u64) -> Result<u64> {
///         self.0 += n;
///         Ok(self.0)
///     }
/// }
///
/// #[orchestration]
/// async fn count(ctx: Context) -> Result<u64> {
///     ctx.entity::<Counter>("visits").add(1).await
/// }
///
/// dacapo_sdk::export_orchestrations!(count; entities: Counter);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_orchestrations {
    ($($orchestration:path),* $(,)? $(; entities: $($entity:ty),+ $(,)?)?) => {
        const _: () = {
            use $crate::__private::bindings::orchestration::{self as world, exports, dacapo};
            use exports::dacapo::workflow::guest;
            use dacapo::workflow::types;

            const MODULE: &[$crate::__private::Exported] =
                &[$($crate::__private::Exported::of::<$orchestration>()),*];
            const ENTITIES: &[$crate::__private::ExportedEntity] =
                &[$($($crate::__private::ExportedEntity::of::<$entity>()),+)?];

            const _: () = $crate::__private::check_names(MODULE);
            const _: () = $crate::__private::check_kinds(ENTITIES);

            struct Module;

            impl guest::Guest for Module {
                fn describe() -> guest::Description {
                    $crate::__private::describe(MODULE, ENTITIES)
                }

                fn start(orchestration: String, input: types::Payload) -> guest::Progress {
                    $crate::__private::start(MODULE, ENTITIES, &orchestration, input)
                }

                fn resume(deliveries: Vec<guest::Delivery>) -> guest::Progress {
                    $crate::__private::resume(deliveries)
                }

                fn query(
                    name: String,
                    input: types::Payload,
                ) -> Result<types::Payload, types::Failure> {
                    $crate::__private::query(&name, input)
                }
            }

            world::export_orchestration!(Module with_types_in world);
        };
    };
}

/// Exports activities from this component: once, at the end of `lib.rs`.
///
/// The implementations are built at upload as well, to be described; there they
/// have no capability, so read environment and files in the methods.
///
/// ```no_run
/// # use dacapo_sdk::{ActivityContext, Result, activities};
/// #[activities(service = "clock")]
/// trait Clock {
///     async fn strike(&self, ctx: ActivityContext) -> Result<()>;
/// }
///
/// struct Tower;
///
/// impl Clock for Tower {
///     async fn strike(&self, _ctx: ActivityContext) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// dacapo_sdk::export_activities!(ClockActivities(Tower));
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_activities {
    ($($activities:expr),+ $(,)?) => {
        const _: () = {
            use $crate::__private::bindings::activity::{self as world, exports};
            use $crate::__private::bindings::types;
            use exports::dacapo::workflow::activities;

            fn set() -> $crate::ActivitySet {
                $crate::ActivitySet::default()$(.and($activities))+
            }

            struct Module;

            impl activities::Guest for Module {
                fn describe() -> Vec<activities::ActivityOffer> {
                    $crate::__private::describe_activities(&set())
                }

                fn run(name: String, input: types::Payload) -> Result<types::Payload, types::Failure> {
                    $crate::__private::run_activity(&set(), &name, input)
                }
            }

            world::export_activity!(Module with_types_in world);
        };
    };
}

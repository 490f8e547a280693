//! Versions and upgrades: what can be asked of modules, and its routes.
//!
//! | method, path | |
//! |---|---|
//! | `POST modules/default` | `{"module": "name@version"}`: new starts take it |
//! | `POST modules/remove` | `{"module": .., "forget_ended": false}` |
//! | `POST modules/gc` | `{"forget_ended": false, "dry_run": false}` |
//! | `POST modules/check?orchestration=&name=` | a module's bytes, against running instances; nothing is kept |
//! | `POST modules/migrate` | `{"module": .., "orchestration": .., "name": ..}` |

use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Scoped;
use super::api::{Api, Result, blocking, module_json};
use super::{Answer, Body, JsonBody, MODULE_BYTES, Query};
use crate::engine::upgrade::{Scope, candidate, check_running};
use crate::engine::versions::default_among;
use crate::engine::{Clock as _, EngineError, Modules, SystemClock, Upload};
use crate::replay::check::{Checked, report, sandbox_of};
use crate::sandbox::settings::SandboxSettings;
use crate::sandbox::{Sandbox, shared_cache};
use crate::store::{Module, ModuleKind};

/// A module that is meant: `name`, `name@version` or a hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Which.
    pub module: String,
}

/// A module to remove.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveBody {
    /// Which.
    pub module: String,
    /// Although histories that have ended can then not be replayed from here.
    #[serde(default)]
    pub forget_ended: bool,
}

/// Which modules to collect.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectBody {
    /// Those of ended histories as well.
    #[serde(default)]
    pub forget_ended: bool,
    /// Only say which.
    #[serde(default)]
    pub dry_run: bool,
}

/// A module that instances are to go on with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateBody {
    /// Which module.
    pub module: String,
    /// Only instances of this orchestration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestration: Option<String>,
    /// Only instances that run a version of this module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Api {
    /// Makes a version the one that new starts of its name take.
    ///
    /// # Errors
    /// If there is no such module.
    pub fn set_default(&self, named: &Named) -> Result<Value> {
        let now = SystemClock.now();
        Ok(module_json(&self.with_modules(|modules| modules.set_default_in(&self.namespace(), &named.module, now))?))
    }

    /// Keeps a module; new starts take it if running instances could go on with it.
    ///
    /// # Errors
    /// If it is refused.
    pub fn upload_checked(&self, upload: Upload) -> Result<Value> {
        let engine = self.engine()?;
        let (module, checked) = engine.upload_checked(Upload { namespace: self.namespace(), ..upload })?;
        checked_json(engine.modules(), &module, &checked)
    }

    /// Removes a module that nothing needs.
    ///
    /// # Errors
    /// If something needs it: `module-in-use`.
    pub fn remove_module(&self, body: &RemoveBody) -> Result<Value> {
        let removed = match self.engine() {
            Ok(engine) => engine.remove_module_in(&self.namespace(), &body.module, body.forget_ended)?,
            Err(_) => self.with_modules(|modules| {
                let module = modules.find_in(&self.namespace(), &body.module)?;
                modules.remove(&module, body.forget_ended).map(|()| module)
            })?,
        };
        Ok(module_json(&removed))
    }

    /// Removes the modules that nothing needs.
    ///
    /// # Errors
    /// If the store fails.
    pub fn collect_modules(&self, body: CollectBody) -> Result<Value> {
        let CollectBody { forget_ended, dry_run } = body;
        let removed: Vec<Module> = match self.engine() {
            Ok(engine) if !dry_run => engine.collect_modules_in(&self.namespace(), forget_ended)?,
            _ => self.with_modules(|modules| {
                let unused = modules.unused_in(&self.namespace(), forget_ended)?;
                if !dry_run {
                    unused.iter().try_for_each(|module| modules.remove(module, forget_ended))?;
                }
                Ok(unused)
            })?,
        };
        Ok(json!({ "removed": removed.iter().map(module_json).collect::<Vec<_>>(), "dry_run": dry_run }))
    }

    /// Checks a module against running instances; nothing is kept.
    ///
    /// # Errors
    /// If the module is refused.
    pub fn check(&self, bytes: &[u8], scope: &Scope) -> Result<Value> {
        let scope = &Scope { namespace: self.namespace(), ..scope.clone() };
        let checked = match self.engine() {
            Ok(engine) => engine.check(bytes, scope)?,
            Err(_) => check_running(&**self.store(), &candidate(&sandbox_without_engine()?, bytes)?, scope)?,
        };
        Ok(report(&checked))
    }

    /// Moves the running instances that match to a module that is kept.
    ///
    /// # Errors
    /// If there is no such module, or nothing runs here.
    pub fn migrate(&self, body: &MigrateBody) -> Result<Value> {
        let engine = self.engine()?;
        let module = engine.modules().find_in(&self.namespace(), &body.module)?;
        let (orchestration, name) = (body.orchestration.clone(), body.name.clone());
        let scope = Scope { orchestration, name, namespace: self.namespace() };
        Ok(report(&engine.migrate(&module, &scope)?))
    }

    pub(super) fn with_modules<T>(&self, run: impl FnOnce(&Modules) -> Result<T, EngineError>) -> Result<T> {
        match self.engine() {
            Ok(engine) => Ok(run(engine.modules())?),
            Err(_) => {
                let sandbox = std::sync::Arc::new(sandbox_without_engine()?);
                Ok(run(&Modules::new(self.store().clone(), sandbox))?)
            }
        }
    }
}

fn sandbox_without_engine() -> Result<Sandbox, EngineError> {
    sandbox_of(&SandboxSettings::default(), shared_cache()).map_err(EngineError::Sandbox)
}

/// The modules as lists show them: each with whether new starts take it.
pub(super) fn modules_json(modules: &[Module]) -> Vec<Value> {
    let line = |module: &Module| {
        let versions = modules.iter().filter(|other| other.name == module.name);
        let mut line = module_json(module);
        line["default"] = default_among(versions).is_some_and(|default| default.hash == module.hash).into();
        line
    };
    modules.iter().map(line).collect()
}

/// A module that was just kept, with whether new starts take it.
///
/// # Errors
/// If the store fails.
pub fn kept_json(modules: &Modules, module: &Module) -> Result<Value> {
    let mut line = module_json(module);
    if module.kind == ModuleKind::Orchestration {
        line["default"] = modules.default_of(&module.name)?.is_some_and(|default| default.hash == module.hash).into();
    }
    Ok(line)
}

/// [`kept_json`], with what the check found.
///
/// # Errors
/// If the store fails.
pub fn checked_json(modules: &Modules, module: &Module, checked: &[Checked]) -> Result<Value> {
    let mut line = kept_json(modules, module)?;
    line["check"] = report(checked);
    Ok(line)
}

// ---- routes ----

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/modules/default", post(set_default))
        .route("/modules/remove", post(remove))
        .route("/modules/gc", post(collect))
        .route("/modules/check", post(check).layer(DefaultBodyLimit::max(MODULE_BYTES)))
        .route("/modules/migrate", post(migrate))
}

async fn set_default(Scoped(api): Scoped, JsonBody(body): JsonBody<Named>) -> Answer {
    blocking(move || api.set_default(&body)).await.map(Json)
}

async fn remove(Scoped(api): Scoped, JsonBody(body): JsonBody<RemoveBody>) -> Answer {
    blocking(move || api.remove_module(&body)).await.map(Json)
}

async fn collect(Scoped(api): Scoped, JsonBody(body): JsonBody<CollectBody>) -> Answer {
    blocking(move || api.collect_modules(body)).await.map(Json)
}

async fn check(Scoped(api): Scoped, Query(scope): Query<Scope>, Body(bytes): Body) -> Answer {
    blocking(move || api.check(&bytes, &scope)).await.map(Json)
}

async fn migrate(Scoped(api): Scoped, JsonBody(body): JsonBody<MigrateBody>) -> Answer {
    blocking(move || api.migrate(&body)).await.map(Json)
}

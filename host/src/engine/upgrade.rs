//! Upgrades: a new module for instances that run.
//!
//! A module is checked against the histories of running instances (S36), and
//! those that match may be *migrated*: one recorded fact, `module-migrated`, that
//! their worker adds between two turns if the history is still the one that was
//! checked. From there on the instance is pinned to the new module and its guest
//! is re-created by replay with it. Nothing else of it changes: what it waits for,
//! what runs, what came in.

use tokio::sync::oneshot;

use super::Engine;
use super::error::EngineError;
use super::modules::{Modules, Upload};
use super::turns::{Message, Migration};
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash, TimestampMs};
use crate::replay::check::{Candidate, Checked, Verdict, in_parallel, sandbox_of};
use crate::sandbox::Sandbox;
use crate::store::{Module, ModuleKind, Store};

/// How often an instance that goes on while it is checked is checked again.
const TRIES: u32 = 20;

/// Rows read at once.
const PAGE: usize = 1000;

/// Which running instances are checked: those of an orchestration that the new
/// module offers, and
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// only of this orchestration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestration: Option<String>,
    /// only those that run a version of this module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A module of orchestrations that is to be checked.
///
/// # Errors
/// If it is refused, or offers activities.
pub fn candidate(sandbox: &Sandbox, bytes: &[u8]) -> Result<Candidate, EngineError> {
    let found = sandbox.inspect(bytes)?;
    if found.kind != ModuleKind::Orchestration {
        return Err(EngineError::InvalidInput(
            "the module offers activities; a check wants one with orchestrations".to_owned(),
        ));
    }
    let module = sandbox.load(found.hash, &found.component);
    let module = module.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
    Ok(Candidate { module, offers: found.offers })
}

/// Checks `candidate` against every running instance in `scope`; nothing changes.
///
/// # Errors
/// If the store fails; what is wrong with one history is in its line.
pub fn check_running(store: &dyn Store, candidate: &Candidate, scope: &Scope) -> Result<Vec<Checked>, EngineError> {
    let ids = in_scope(store, candidate, scope)?;
    let checked = in_parallel(ids, |id| check_one(store, candidate, &id).map(|found| found.map(|(line, ..)| line)));
    checked.into_iter().filter_map(Result::transpose).collect()
}

/// The running instances in `scope`, by id.
fn in_scope(store: &dyn Store, candidate: &Candidate, scope: &Scope) -> Result<Vec<InstanceId>, EngineError> {
    let versions: Vec<ModuleHash> = match &scope.name {
        Some(name) => store.modules()?.iter().filter(|m| m.name == *name).map(|module| module.hash).collect(),
        None => Vec::new(),
    };
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.unfinished(after.as_ref(), PAGE)?;
        let matches = page.iter().filter(|row| {
            scope.orchestration.as_ref().is_none_or(|name| *name == row.orchestration)
                && match &scope.name {
                    // A version that lacks an orchestration of its name is found out.
                    Some(_) => versions.contains(&row.module),
                    None => candidate.offers(&row.orchestration),
                }
        });
        found.extend(matches.map(|row| row.instance.clone()));
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.instance.clone()),
            _ => return Ok(found),
        }
    }
}

/// One instance as it stands, with the execution and the turn up to which that
/// holds; none if it has ended meanwhile.
fn check_one(
    store: &dyn Store,
    candidate: &Candidate,
    id: &InstanceId,
) -> Result<Option<(Checked, ExecutionNumber, Hash)>, EngineError> {
    match store.summary(id)? {
        Some(summary) if !summary.status.is_final() => {}
        _ => return Ok(None),
    }
    let Some(history) = store.history(id, None)? else { return Ok(None) };
    let checked = match history.decode() {
        Ok(records) => candidate.check(id.as_str(), &records),
        Err(damaged) => Checked {
            name: id.to_string(),
            execution: history.execution,
            orchestration: String::new(),
            matched: 0,
            events: 0,
            verdict: Verdict::CannotRun(damaged.to_string()),
            migrated: None,
        },
    };
    Ok(Some((checked, history.execution, history.head())))
}

/// Makes a kept module the default of its name if every running instance of that
/// name could go on with it; what the check found.
///
/// # Errors
/// If the store fails.
pub fn default_if_same(
    modules: &Modules,
    sandbox: &Sandbox,
    module: Module,
    now: TimestampMs,
) -> Result<(Module, Vec<Checked>), EngineError> {
    if module.kind != ModuleKind::Orchestration {
        return Ok((module, Vec::new()));
    }
    let scope = Scope { name: Some(module.name.clone()), orchestration: None };
    let checked = check_running(&*modules.store, &candidate(sandbox, &modules.bytes(module.hash)?)?, &scope)?;
    if checked.iter().all(Checked::is_same) {
        return Ok((modules.set_default(&module.hash.to_string(), now)?, checked));
    }
    Ok((module, checked))
}

impl Engine {
    /// Checks bytes of a module that is not kept against running instances.
    ///
    /// # Errors
    /// If the module is refused, or the store fails.
    pub fn check(&self, bytes: &[u8], scope: &Scope) -> Result<Vec<Checked>, EngineError> {
        let sandbox = sandbox_of(&self.settings.sandbox, self.settings.cache.clone()).map_err(EngineError::Sandbox)?;
        check_running(&**self.store(), &candidate(&sandbox, bytes)?, scope)
    }

    /// Checks the stored module `to` against every running instance in `scope` and
    /// migrates those that match, each with one recorded fact. Those that differ
    /// are in the answer and left as they are. Blocks until all is durable.
    ///
    /// # Errors
    /// If there is no such module, or the store fails.
    pub fn migrate(&self, to: &Module, scope: &Scope) -> Result<Vec<Checked>, EngineError> {
        let sandbox = sandbox_of(&self.settings.sandbox, self.settings.cache.clone()).map_err(EngineError::Sandbox)?;
        let candidate = candidate(&sandbox, &self.modules().bytes(to.hash)?)?;
        let ids = in_scope(&**self.store(), &candidate, scope)?;
        let lines = in_parallel(ids, |id| self.migrate_one(&candidate, &id));
        lines.into_iter().filter_map(Result::transpose).collect()
    }

    /// Checks and migrates one instance. If it has gone on in between, what it did
    /// since is checked as well: nothing is moved on the strength of an old check.
    fn migrate_one(&self, candidate: &Candidate, id: &InstanceId) -> Result<Option<Checked>, EngineError> {
        let to = candidate.module.hash;
        for _ in 0..TRIES {
            let Some((mut line, execution, head)) = check_one(&**self.store(), candidate, id)? else { return Ok(None) };
            if !line.is_same() || self.store().summary(id)?.is_some_and(|now| now.module == to) {
                return Ok(Some(line));
            }
            let (reply, answer) = oneshot::channel();
            let migration = Box::new(Migration { instance: id.clone(), execution, head, to, reply });
            self.worker_of(id).send(Message::Migrate(migration));
            let migrated = answer.blocking_recv();
            match migrated.unwrap_or_else(|_| Err(EngineError::Stopped(self.stopped.get().cloned()))) {
                Ok(()) => {
                    line.migrated = Some(Ok(()));
                    return Ok(Some(line));
                }
                Err(EngineError::GoneOn { .. }) => {}
                Err(EngineError::Ended { .. }) => return Ok(None),
                Err(EngineError::Stopped(why)) => return Err(EngineError::Stopped(why)),
                Err(error) => {
                    line.migrated = Some(Err(error.to_string()));
                    return Ok(Some(line));
                }
            }
        }
        let line = check_one(&**self.store(), candidate, id)?;
        Ok(line.map(|(mut line, ..)| {
            line.migrated = Some(Err(format!("it took a turn during each of {TRIES} checks; check it again")));
            line
        }))
    }

    /// Keeps a module, and makes it the one that new starts of its name take only
    /// if every running instance of that name could go on with it.
    ///
    /// # Errors
    /// Those of [`Engine::upload`].
    pub fn upload_checked(&self, upload: Upload) -> Result<(Module, Vec<Checked>), EngineError> {
        let module = self.upload(Upload { held_back: true, ..upload })?;
        let sandbox = sandbox_of(&self.settings.sandbox, self.settings.cache.clone()).map_err(EngineError::Sandbox)?;
        default_if_same(self.modules(), &sandbox, module, self.clock.now())
    }

    /// Removes a module that nothing needs. Blocks.
    ///
    /// # Errors
    /// [`EngineError::ModuleInUse`] with who needs it.
    pub fn remove_module(&self, wanted: &str, forget_ended: bool) -> Result<Module, EngineError> {
        let module = self.modules().find(wanted)?;
        self.modules().retire(module.hash);
        let removed = self.all_durable().and_then(|()| self.modules().remove_retired(&module, forget_ended));
        if removed.is_err() {
            self.modules().unretire(module.hash);
        }
        removed.map(|()| module)
    }

    /// Removes every module that nothing needs; those that it removed. Blocks.
    ///
    /// # Errors
    /// If the store fails.
    pub fn collect_modules(&self, forget_ended: bool) -> Result<Vec<Module>, EngineError> {
        let mut removed = Vec::new();
        for module in self.modules().unused(forget_ended)? {
            match self.remove_module(&module.hash.to_string(), forget_ended) {
                Ok(module) => removed.push(module),
                // It has come into use since it was looked at.
                Err(EngineError::ModuleInUse { .. } | EngineError::UnknownModule { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Waits until everything that workers were told before is durable.
    fn all_durable(&self) -> Result<(), EngineError> {
        let told: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                worker.send(Message::Barrier(reply));
                answer
            })
            .collect();
        let stopped = || Err(EngineError::Stopped(self.stopped.get().cloned()));
        told.into_iter().try_for_each(|answer| answer.blocking_recv().unwrap_or_else(|_| stopped()))
    }
}

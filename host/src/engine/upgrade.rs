//! Upgrades: a new module for instances that run.
//!
//! A module is checked against the histories of running instances (S36), and
//! those that match may be *migrated*: one recorded fact in each, `module-migrated`,
//! all of them in one commit. From there on the instance is pinned to the new module
//! and its guest is re-created by replay with it. Nothing else of it changes: what it
//! waits for, what runs, what came in.
//!
//! Most of the checking is done while the instances go on. Then every worker, between
//! two turns, looks at its own: those that took a turn meanwhile are checked again,
//! right there. The fact is added to those that match, and the committer makes the
//! parts of all workers durable together or not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::error::EngineError;
use super::modules::{Modules, Upload};
use super::turns::WorkerLink;
use super::turns::{Fate, Message, Migration, Stood};
use super::{Engine, partition};
use crate::core::entity::orchestration_of;
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash, TimestampMs};
use crate::core::namespace::Namespace;
use crate::replay::check::{Candidate, Checked, Verdict, in_parallel, sandbox_of};
use crate::sandbox::Sandbox;
use crate::store::{Module, ModuleKind, Store};

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
    /// Where they are; whoever asks does not say it.
    #[serde(skip)]
    pub namespace: Namespace,
}

/// What keeps migrations, removals and the engine's end apart.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    one: Mutex<()>,
    all: Mutex<()>,
}

impl Upgrades {
    /// One migration or removal of a module at a time.
    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.one.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while all workers are told one thing: either all of them hear of a
    /// migration before they hear that they are to stop, or none does.
    pub(super) fn telling_all(&self) -> MutexGuard<'_, ()> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    let kinds = found.entities.iter().map(|entity| orchestration_of(&entity.kind));
    let runs = found.offers.iter().map(|offer| offer.name.clone()).chain(kinds).collect();
    Ok(Candidate { module, runs })
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
        Some(name) => store
            .modules()?
            .iter()
            .filter(|m| m.is_in(&scope.namespace) && m.local_name() == name)
            .map(|module| module.hash)
            .collect(),
        None => Vec::new(),
    };
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.unfinished(after.as_ref(), PAGE)?;
        let matches = page.iter().filter(|row| {
            scope.namespace.has(row.instance.as_str())
                && scope.orchestration.as_ref().is_none_or(|name| *name == row.orchestration)
                && match &scope.name {
                    // A version that lacks an orchestration of its name is found out.
                    Some(_) => versions.contains(&row.module),
                    None => candidate.runs(&row.orchestration),
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
        Ok(records) => candidate.check(id.local(), &records),
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
    let namespace = Namespace::of(&module.name);
    let scope = Scope { name: Some(module.local_name().to_owned()), orchestration: None, namespace: namespace.clone() };
    let checked = check_running(&*modules.store, &candidate(sandbox, &modules.bytes(module.hash)?)?, &scope)?;
    if checked.iter().all(Checked::is_same) {
        return Ok((modules.set_default_in(&namespace, &module.hash.to_string(), now)?, checked));
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
    /// migrates those that match, in one commit: all of them, or, if the host dies
    /// before, none. Those that differ are in the answer and left as they are. Blocks
    /// until all is durable.
    ///
    /// # Errors
    /// If there is no such module, or the store fails.
    pub fn migrate(&self, to: &Module, scope: &Scope) -> Result<Vec<Checked>, EngineError> {
        let _one = self.upgrades.one_at_a_time();
        let sandbox = sandbox_of(&self.settings.sandbox, self.settings.cache.clone()).map_err(EngineError::Sandbox)?;
        let candidate = Arc::new(candidate(&sandbox, &self.modules().bytes(to.hash)?)?);
        let store = &**self.store();
        let ids = in_scope(store, &candidate, scope)?;
        let check = |id| Ok::<_, EngineError>((check_one(store, &candidate, &id)?, store.summary(&id)?, id));
        let checked = in_parallel(ids, check);
        let mut lines = BTreeMap::new();
        let mut stood: Vec<Vec<Stood>> = self.workers.iter().map(|_| Vec::new()).collect();
        for checked in checked {
            let (Some((line, execution, head)), now, id) = checked? else { continue };
            let is_there = now.is_some_and(|now| now.module == to.hash);
            if line.is_same() && !is_there {
                let instance = id.clone();
                stood[partition(&id, self.workers.len())].push(Stood { instance, execution, head });
            }
            lines.insert(id, line);
        }
        if stood.iter().any(|of| !of.is_empty()) {
            self.move_all(&candidate, stood, &mut lines)?;
        }
        Ok(lines.into_values().collect())
    }

    /// Has every worker move its part, and notes in `lines` what became of each.
    fn move_all(
        &self,
        to: &Arc<Candidate>,
        stood: Vec<Vec<Stood>>,
        lines: &mut BTreeMap<InstanceId, Checked>,
    ) -> Result<(), EngineError> {
        let parts = stood.len();
        let told: Vec<_> = {
            let _all = self.upgrades.telling_all();
            let tell = |(worker, of): (&WorkerLink, Vec<Stood>)| {
                let (reply, answer) = oneshot::channel();
                worker.send(Message::Migrate(Box::new(Migration { of, to: to.clone(), parts, reply })));
                answer
            };
            self.workers.iter().zip(stood).map(tell).collect()
        };
        for answer in told {
            let stopped = || Err(EngineError::Stopped(self.stopped.get().cloned()));
            for (id, fate) in answer.blocking_recv().unwrap_or_else(|_| stopped())? {
                let Some(line) = lines.get_mut(&id) else { continue };
                match fate {
                    Fate::Moved(again) => {
                        *line = again.map_or_else(|| line.clone(), |again| *again);
                        line.migrated = Some(Ok(()));
                    }
                    Fate::Differs(again) => *line = *again,
                    Fate::Left(why) => line.migrated = Some(Err(why)),
                    Fate::Ended => drop(lines.remove(&id)),
                }
            }
        }
        Ok(())
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
        self.remove_module_in(&Namespace::default(), wanted, forget_ended)
    }

    /// [`Self::remove_module`] in a namespace.
    ///
    /// # Errors
    /// As there.
    pub fn remove_module_in(
        &self,
        namespace: &Namespace,
        wanted: &str,
        forget_ended: bool,
    ) -> Result<Module, EngineError> {
        // No migration brings it into use meanwhile.
        let _one = self.upgrades.one_at_a_time();
        let module = self.modules().find_in(namespace, wanted)?;
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
        self.collect_modules_in(&Namespace::default(), forget_ended)
    }

    /// [`Self::collect_modules`] in a namespace.
    ///
    /// # Errors
    /// As there.
    pub fn collect_modules_in(&self, namespace: &Namespace, forget_ended: bool) -> Result<Vec<Module>, EngineError> {
        let mut removed = Vec::new();
        for module in self.modules().unused_in(namespace, forget_ended)? {
            match self.remove_module_in(namespace, &module.hash.to_string(), forget_ended) {
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

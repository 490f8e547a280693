//! Versions: which module a name stands for, and which modules are still needed.
//!
//! A name has versions, one module each, and a default: the one that new starts
//! take. The default of a name is the module that was made it last
//! ([`Module::default_at`]), so changing it is one row, and removing it leaves the
//! one before.
//!
//! Invariant (S35): a module that an unfinished instance runs is never removed.
//! A removal first *retires* the module, so that no worker begins anything with it
//! any more, then waits until everything that was begun before is durable, and
//! only then looks who uses it. See [`super::Engine::remove_module`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::error::EngineError;
use super::modules::{Modules, called};
use crate::core::ids::{ModuleHash, TimestampMs};
use crate::core::namespace::Namespace;
use crate::store::{Filter, Module, ModuleKind, Store, StoreError};

/// Rows looked at in one read.
const PAGE: usize = 1000;

/// Who needs a module.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Instances that have not ended and run it.
    pub running: u64,
    /// Instances that have ended with it: their histories are replayed with it.
    pub ended: u64,
    /// Activities that it serves.
    pub serves: Vec<String>,
    /// Schedules that name this very version.
    pub schedules: Vec<String>,
    /// New starts of its name take it.
    pub default: bool,
}

impl Usage {
    /// Why the module cannot be removed, if so. `forget_ended`: histories that
    /// have ended do not count, they can then not be replayed from this store.
    pub fn holds(&self, forget_ended: bool) -> Option<String> {
        if self.running > 0 {
            return Some(format!("{} run it; wait for them, or migrate them with `dacapo check`", count(self.running)));
        }
        if !self.serves.is_empty() {
            return Some(format!("it serves {}; upload what serves them instead", self.serves.join(", ")));
        }
        if !self.schedules.is_empty() {
            return Some(format!("the schedule {} starts it; change or delete that first", self.schedules.join(", ")));
        }
        (self.ended > 0 && !forget_ended).then(|| {
            let many = count(self.ended);
            format!("{many} that have ended are replayed with it; --forget-ended removes it all the same")
        })
    }
}

fn count(instances: u64) -> String {
    if instances == 1 { "1 instance".to_owned() } else { format!("{instances} instances") }
}

/// The default among modules of one name; none if there is none.
pub fn default_among<'m>(modules: impl Iterator<Item = &'m Module>) -> Option<&'m Module> {
    modules.filter(|module| module.default_at.is_some()).max_by_key(|module| module.default_at)
}

/// Who needs each module of `store`.
///
/// # Errors
/// If the store fails.
pub fn usage(store: &dyn Store) -> Result<BTreeMap<ModuleHash, Usage>, StoreError> {
    let modules = store.modules()?;
    let mut usage: BTreeMap<ModuleHash, Usage> = modules.iter().map(|module| (module.hash, Usage::default())).collect();
    let mut after = None;
    loop {
        let page = store.list(&Filter::everything(), after.as_ref(), PAGE)?;
        for summary in &page {
            let used = usage.entry(summary.module).or_default();
            *(if summary.status.is_final() { &mut used.ended } else { &mut used.running }) += 1;
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.instance.clone()),
            _ => break,
        }
    }
    for schedule in store.schedules()? {
        let namespace = Namespace::of(&schedule.name);
        let own = modules.iter().filter(|module| module.is_in(&namespace));
        let pinned = schedule.spec.module.as_deref().and_then(|wanted| called(own, wanted));
        if let Some(used) = pinned.and_then(|module| usage.get_mut(&module.hash)) {
            used.schedules.push(schedule.local_name().to_owned());
        }
    }
    let mut served = BTreeSet::new();
    for module in &modules {
        let Some(used) = usage.get_mut(&module.hash) else { continue };
        match module.kind {
            // The last uploaded first: of two that offer a name, the first serves it.
            ModuleKind::Activity => used.serves.extend(
                module
                    .offers
                    .iter()
                    .map(|offer| &offer.name)
                    .filter(|name| served.insert(Namespace::of(&module.name).qualify(name)))
                    .cloned(),
            ),
            ModuleKind::Orchestration => {
                let of_name = modules.iter().filter(|other| is_version_of(other, &module.name));
                used.default = default_among(of_name).is_some_and(|default| default.hash == module.hash);
            }
        }
    }
    Ok(usage)
}

fn is_version_of(module: &Module, name: &str) -> bool {
    module.kind == ModuleKind::Orchestration && module.name == name
}

impl Modules {
    /// The versions of `name`, the last uploaded first.
    ///
    /// # Errors
    /// If there are none, or the store fails.
    pub fn versions(&self, name: &str) -> Result<Vec<Module>, EngineError> {
        let all = self.all()?;
        let found: Vec<Module> = all.iter().filter(|module| is_version_of(module, name)).cloned().collect();
        if found.is_empty() {
            Err(unknown(crate::core::namespace::local(name), &self.of(&Namespace::of(name))?))
        } else {
            Ok(found)
        }
    }

    /// The version of `name` that new starts take, if one was made it.
    ///
    /// # Errors
    /// If there is no such name, or the store fails.
    pub fn default_of(&self, name: &str) -> Result<Option<Module>, EngineError> {
        Ok(default_among(self.versions(name)?.iter()).cloned())
    }

    /// Any module: `name` (its default), `name@version` or a hash.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub fn find(&self, wanted: &str) -> Result<Module, EngineError> {
        self.find_in(&Namespace::default(), wanted)
    }

    /// [`Self::find`] among the modules of a namespace.
    ///
    /// # Errors
    /// As there.
    pub fn find_in(&self, namespace: &Namespace, wanted: &str) -> Result<Module, EngineError> {
        let all = self.of(namespace)?;
        called(all.iter(), wanted).cloned().ok_or_else(|| unknown(wanted, &all))
    }

    /// New starts of its name take `wanted` (`name@version` or a hash) from here
    /// on. Instances that run keep what they run.
    ///
    /// # Errors
    /// If there is no such module of orchestrations, or the store fails.
    pub fn set_default(&self, wanted: &str, now: TimestampMs) -> Result<Module, EngineError> {
        self.set_default_in(&Namespace::default(), wanted, now)
    }

    /// [`Self::set_default`] in a namespace.
    ///
    /// # Errors
    /// As there.
    pub fn set_default_in(&self, namespace: &Namespace, wanted: &str, now: TimestampMs) -> Result<Module, EngineError> {
        let mut module = self.find_in(namespace, wanted)?;
        if module.kind != ModuleKind::Orchestration {
            return Err(EngineError::InvalidInput(format!(
                "{wanted} offers activities, which have no default: the last uploaded serves them"
            )));
        }
        let bytes = self.bytes(module.hash)?;
        module.default_at = Some(self.next_default_at(&module.name, now)?);
        self.put(&module, &bytes)?;
        Ok(module)
    }

    /// A time that is later than every other default's of that name.
    pub(super) fn next_default_at(&self, name: &str, now: TimestampMs) -> Result<TimestampMs, EngineError> {
        let all = self.all()?;
        let last = all.iter().filter(|module| is_version_of(module, name)).filter_map(|module| module.default_at).max();
        Ok(last.map_or(now, |last| now.max(last.plus(1))))
    }

    /// Removes `hash` if nothing needs it. Nothing may begin with it meanwhile.
    ///
    /// # Errors
    /// [`EngineError::ModuleInUse`], or if the store fails.
    pub fn remove(&self, module: &Module, forget_ended: bool) -> Result<(), EngineError> {
        self.remove_if(module, forget_ended, || true)
    }

    /// [`Self::remove`], unless the module was uploaded again since it was retired.
    pub(super) fn remove_retired(&self, module: &Module, forget_ended: bool) -> Result<(), EngineError> {
        self.remove_if(module, forget_ended, || self.is_retired(module.hash))
    }

    fn remove_if(&self, module: &Module, forget_ended: bool, still: impl Fn() -> bool) -> Result<(), EngineError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let name = || module.called();
        if !still() {
            let why = "it was just uploaded again".to_owned();
            return Err(EngineError::ModuleInUse { module: name(), why });
        }
        let used = usage(&*self.store)?.remove(&module.hash).unwrap_or_default();
        if let Some(why) = used.holds(forget_ended) {
            return Err(EngineError::ModuleInUse { module: name(), why });
        }
        self.store.remove_module(&module.hash)?;
        self.forget(module.hash);
        Ok(())
    }

    /// Modules that nothing needs: no instance, no name that new starts take, no
    /// activity.
    ///
    /// # Errors
    /// If the store fails.
    pub fn unused(&self, forget_ended: bool) -> Result<Vec<Module>, EngineError> {
        self.unused_in(&Namespace::default(), forget_ended)
    }

    /// [`Self::unused`] among the modules of a namespace.
    ///
    /// # Errors
    /// As there.
    pub fn unused_in(&self, namespace: &Namespace, forget_ended: bool) -> Result<Vec<Module>, EngineError> {
        let usage = usage(&*self.store)?;
        let is_unused = |module: &&Module| {
            module.is_in(namespace)
                && usage.get(&module.hash).is_some_and(|u| !u.default && u.holds(forget_ended).is_none())
        };
        Ok(self.store.modules()?.iter().filter(is_unused).cloned().collect())
    }

    // ---- removal under way ----

    /// Nothing new is begun with `hash` from here on.
    pub(super) fn retire(&self, hash: ModuleHash) {
        let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        retired.insert(hash);
        self.retiring.store(retired.len(), Ordering::Release);
    }

    /// The removal was given up, or the module was uploaded again. What has been
    /// removed stays retired: a start that found it before may still be on its way.
    pub(super) fn unretire(&self, hash: ModuleHash) {
        let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        retired.remove(&hash);
        self.retiring.store(retired.len(), Ordering::Release);
    }

    /// Whether `hash` is being removed: nothing may begin with it.
    pub(super) fn is_retired(&self, hash: ModuleHash) -> bool {
        self.retiring.load(Ordering::Acquire) > 0
            && self.retired.read().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }
}

fn unknown(wanted: &str, all: &[Module]) -> EngineError {
    EngineError::UnknownModule { module: wanted.to_owned(), exists: all.iter().map(Module::called).collect() }
}

//! Modules: taken at upload, found by name, loaded once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use super::error::EngineError;
use super::versions::default_among;
use crate::core::ids::{Hash, ModuleHash, TimestampMs};
use crate::core::namespace::{self, Namespace};
use crate::sandbox::{OrchestrationModule, Sandbox};
use crate::store::{Grants, Module, ModuleKind, Store};

/// Guests in memory that can be looked into: instances with long histories beyond that go
/// on in ordinary ones, without snapshots.
const MOST_INSPECTED: u32 = 512;

/// The modules of a store, as the engine uses them.
pub struct Modules {
    pub(super) store: Arc<dyn Store>,
    sandbox: Arc<Sandbox>,
    loaded: Mutex<HashMap<ModuleHash, Arc<OrchestrationModule>>>,
    /// Made for the first instance that needs it; none: this machine cannot.
    inspecting: OnceLock<Option<Sandbox>>,
    /// Modules for guests that can be looked into; none: its guests cannot.
    inspected: Mutex<HashMap<ModuleHash, Option<Arc<OrchestrationModule>>>>,
    /// Every module, as the store lists them: only this host writes them.
    listed: RwLock<Option<Arc<Vec<Module>>>>,
    /// Those that are being removed, see [`super::versions`], and how many they are.
    pub(super) retired: RwLock<BTreeSet<ModuleHash>>,
    pub(super) retiring: AtomicUsize,
    /// Held by whoever keeps or removes a module.
    pub(super) changing: Mutex<()>,
}

impl std::fmt::Debug for Modules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Modules")
    }
}

/// A module to take.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    /// The bytes: a component, or a core module with the contract's types.
    pub bytes: Vec<u8>,
    /// Its name.
    pub name: String,
    /// Its version; none: the first digits of its hash.
    pub version: Option<String>,
    /// What it may touch, if it holds activities.
    pub grants: Grants,
    /// New starts of its name do not take it: it is only found by its version.
    pub held_back: bool,
    /// Where its name is known.
    pub namespace: Namespace,
}

impl Modules {
    /// The modules of `store`.
    pub fn new(store: Arc<dyn Store>, sandbox: Arc<Sandbox>) -> Self {
        Self {
            store,
            sandbox,
            loaded: Mutex::default(),
            inspecting: OnceLock::new(),
            inspected: Mutex::default(),
            listed: RwLock::default(),
            retired: RwLock::default(),
            retiring: AtomicUsize::new(0),
            changing: Mutex::default(),
        }
    }

    /// Checks a module and keeps it. New starts of its name take it, unless it is
    /// held back.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the reason; nothing is kept then.
    pub fn upload(&self, upload: Upload, now: TimestampMs) -> Result<Module, EngineError> {
        for (what, text) in [("name", Some(&upload.name)), ("version", upload.version.as_ref())] {
            if text.is_some_and(|text| {
                text.is_empty()
                    || text.len() > 200
                    || text.contains(['@', '/', ' '])
                    || text.chars().any(char::is_control)
            }) {
                return Err(EngineError::InvalidInput(format!(
                    "the module {what} {text:?} is not valid: expected 1 to 200 characters without '@', '/', spaces and control characters"
                )));
            }
        }
        let mut inspected = self.sandbox.inspect(unmarked(&upload.bytes))?;
        let upload = Upload { name: upload.namespace.qualify(&upload.name), ..upload };
        if !upload.namespace.is_default() {
            inspected.component.extend(mark(&upload.namespace));
            inspected.hash = Hash::of(&inspected.component);
        }
        if inspected.kind == ModuleKind::Orchestration && upload.grants != Grants::default() {
            return Err(EngineError::InvalidInput(format!(
                "{} is a module of orchestrations, which are granted nothing; give the grants to its activities",
                namespace::local(&upload.name)
            )));
        }
        let before = self.all()?.iter().find(|module| module.hash == inspected.hash).cloned();
        let before = before.filter(|before| before.name == upload.name);
        let version = upload.version.clone().or_else(|| before.as_ref().map(|before| before.version.clone()));
        self.check_version(&upload, inspected.kind, inspected.hash)?;
        let default_at = match inspected.kind {
            ModuleKind::Orchestration if !upload.held_back => Some(self.next_default_at(&upload.name, now)?),
            _ => before.and_then(|before| before.default_at),
        };
        let module = Module {
            hash: inspected.hash,
            name: upload.name,
            version: version.unwrap_or_else(|| inspected.hash.short()),
            kind: inspected.kind,
            size: inspected.component.len() as u64,
            uploaded_at: now,
            offers: inspected.offers,
            grants: upload.grants,
            default_at,
            updates: inspected.updates,
            queries: inspected.queries,
            entities: inspected.entities,
        };
        self.put(&module, &inspected.component)?;
        Ok(module)
    }

    /// A version that was given names the same bytes for ever.
    fn check_version(&self, upload: &Upload, kind: ModuleKind, hash: ModuleHash) -> Result<(), EngineError> {
        let Some(version) = &upload.version else { return Ok(()) };
        let taken = |module: &&Module| {
            module.kind == kind && module.name == upload.name && module.version == *version && module.hash != hash
        };
        match self.all()?.iter().find(taken) {
            Some(taken) => Err(EngineError::VersionTaken {
                module: format!("{}@{version}", namespace::local(&upload.name)),
                hash: taken.hash,
            }),
            None => Ok(()),
        }
    }

    pub(super) fn put(&self, module: &Module, component: &[u8]) -> Result<(), EngineError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.put_module(module, component)?;
        self.unretire(module.hash);
        *self.listed.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// What was kept of a module that is no longer there.
    pub(super) fn forget(&self, hash: ModuleHash) {
        *self.listed.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.loaded().remove(&hash);
        self.all_inspected().remove(&hash);
        self.sandbox.forget(hash);
    }

    /// The module that offers `orchestration`: the one named (`name` for its
    /// default, `name@version` or a hash), else the only name whose default does.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn resolve(&self, orchestration: &str, module: Option<&str>) -> Result<Module, EngineError> {
        self.resolve_in(&Namespace::default(), orchestration, module)
    }

    /// [`Self::resolve`] among the modules of a namespace, which has no others.
    ///
    /// # Errors
    /// As there.
    pub fn resolve_in(
        &self,
        namespace: &Namespace,
        orchestration: &str,
        module: Option<&str>,
    ) -> Result<Module, EngineError> {
        let all = self.all()?;
        let is_own = |module: &&Module| module.kind == ModuleKind::Orchestration && module.is_in(namespace);
        let orchestrations = all.iter().filter(is_own);
        let candidates: Vec<&Module> = match module {
            Some(wanted) => {
                let found = called(orchestrations.clone(), wanted);
                vec![found.ok_or_else(|| EngineError::UnknownModule {
                    module: wanted.to_owned(),
                    exists: orchestrations.map(Module::called).collect(),
                })?]
            }
            None => defaults(orchestrations),
        };
        let offers = |module: &&&Module| module.offers.iter().any(|offer| offer.name == orchestration);
        match candidates.iter().filter(offers).collect::<Vec<_>>()[..] {
            [only] => Ok((*only).clone()),
            [] => Err(EngineError::UnknownOrchestration {
                name: orchestration.to_owned(),
                exists: candidates.iter().flat_map(|m| m.offers.iter().map(|o| o.name.clone())).collect(),
            }),
            ref several => Err(EngineError::AmbiguousOrchestration {
                name: orchestration.to_owned(),
                modules: several.iter().map(|module| module.local_name().to_owned()).collect(),
            }),
        }
    }

    /// The module of a namespace that offers an entity kind: of each name, its default
    /// counts.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn resolve_entity_in(&self, namespace: &Namespace, kind: &str) -> Result<Module, EngineError> {
        let all = self.all()?;
        let defaults: Vec<&Module> = defaults(all.iter().filter(|module| module.is_in(namespace)));
        let offers = |module: &&&Module| module.entities.iter().any(|entity| entity.kind == kind);
        let why = match defaults.iter().filter(offers).collect::<Vec<_>>()[..] {
            [only] if self.is_retired(only.hash) => {
                format!("the module {} with the entity kind {kind:?} is being removed", only.local_name())
            }
            [only] => return Ok((*only).clone()),
            [] => {
                let kinds: Vec<_> =
                    defaults.iter().flat_map(|module| &module.entities).map(|entity| entity.kind.as_str()).collect();
                let there_are = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
                format!("no module offers the entity kind {kind:?}; there are: {there_are}")
            }
            ref several => {
                let names: Vec<_> = several.iter().map(|module| module.local_name()).collect();
                format!("the modules {} all offer the entity kind {kind:?}; keep one of them", names.join(", "))
            }
        };
        Err(EngineError::UnknownEntityKind(why))
    }

    /// Every module of a namespace, the last uploaded first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn of(&self, namespace: &Namespace) -> Result<Vec<Module>, EngineError> {
        Ok(self.all()?.iter().filter(|module| module.is_in(namespace)).cloned().collect())
    }

    /// Every module of every namespace, the last uploaded first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn all(&self) -> Result<Arc<Vec<Module>>, EngineError> {
        if let Some(listed) = &*self.listed.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(listed.clone());
        }
        // Read under the lock: what is forgotten meanwhile is forgotten after this.
        let mut listed = self.listed.write().unwrap_or_else(PoisonError::into_inner);
        let read = Arc::new(self.store.modules()?);
        *listed = Some(read.clone());
        Ok(read)
    }

    /// A module, ready to run.
    ///
    /// # Errors
    /// If it is not there, or the store fails.
    pub fn load(&self, hash: ModuleHash) -> Result<Arc<OrchestrationModule>, EngineError> {
        if let Some(module) = self.loaded().get(&hash) {
            return Ok(module.clone());
        }
        let bytes = self.bytes(hash)?;
        let module = self.sandbox.load(hash, &bytes).map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
        Ok(self.loaded().entry(hash).or_insert_with(|| Arc::new(module)).clone())
    }

    /// A module, ready to run in guests whose state can be copied out and back. None: its
    /// guests' cannot, or this machine has no room for such.
    pub(super) fn inspected(&self, hash: ModuleHash) -> Option<Arc<OrchestrationModule>> {
        if let Some(known) = self.all_inspected().get(&hash) {
            return known.clone();
        }
        let load = || -> Result<Option<OrchestrationModule>, EngineError> {
            let Some(sandbox) = self.inspecting() else { return Ok(None) };
            let loaded = sandbox.load(hash, &self.bytes(hash)?);
            loaded
                .map(|module| Some(module).filter(|module| module.can_be_copied()))
                .map_err(|error| EngineError::Sandbox(format!("{error:#}")))
        };
        let module = load().unwrap_or_else(|error| {
            tracing::warn!(module = %hash.short(), %error, "there will be no snapshots of its instances");
            None
        });
        self.all_inspected().entry(hash).or_insert_with(|| module.map(Arc::new)).clone()
    }

    /// Whether [`Self::inspected`] has one, and at once.
    pub(super) fn is_inspected(&self, hash: ModuleHash) -> bool {
        matches!(self.all_inspected().get(&hash), Some(Some(_)))
    }

    /// What snapshots here depend on beside their modules.
    pub(super) fn make_of_snapshots(&self) -> Option<Hash> {
        self.inspecting().map(Sandbox::make)
    }

    fn inspecting(&self) -> Option<&Sandbox> {
        let make = || {
            let made = self.sandbox.inspecting_beside(MOST_INSPECTED);
            made.inspect_err(|error| tracing::warn!(%error, "there is no room for guests that can be looked into")).ok()
        };
        self.inspecting.get_or_init(make).as_ref()
    }

    fn all_inspected(&self) -> std::sync::MutexGuard<'_, HashMap<ModuleHash, Option<Arc<OrchestrationModule>>>> {
        self.inspected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A module's bytes.
    ///
    /// # Errors
    /// If it is not there, or the store fails.
    pub fn bytes(&self, hash: Hash) -> Result<Vec<u8>, EngineError> {
        self.store
            .module_bytes(&hash)?
            .ok_or_else(|| EngineError::UnknownModule { module: hash.to_string(), exists: Vec::new() })
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, HashMap<ModuleHash, Arc<OrchestrationModule>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The default of each name.
fn defaults<'m>(modules: impl Iterator<Item = &'m Module>) -> Vec<&'m Module> {
    let mut by_name = BTreeMap::<_, Vec<&Module>>::new();
    modules.for_each(|module| by_name.entry(&module.name).or_default().push(module));
    by_name.into_values().filter_map(|versions| default_among(versions.into_iter())).collect()
}

/// What makes a component of a namespace one of its own, with a hash of its own: a section
/// at its end, which means nothing to anybody. So the same bytes in two namespaces are two
/// modules, with their own names, versions, grants and users, and nobody learns from a
/// hash what others have.
fn mark(namespace: &Namespace) -> Vec<u8> {
    const SECTION: &str = "dacapo-namespace";
    let key = namespace.key();
    // Both lengths are below 128, and so one byte each.
    let head = [0, (1 + SECTION.len() + key.len()) as u8, SECTION.len() as u8];
    [&head, SECTION.as_bytes(), key.as_bytes()].concat()
}

/// A component without such sections at its end. What was downloaded from a namespace is
/// nobody's: brought to another one it is a module of that one, and nobody makes the
/// module of another one by writing its section.
fn unmarked(component: &[u8]) -> &[u8] {
    let shorter = |len: usize| {
        let key = component.len().checked_sub(len).and_then(|at| std::str::from_utf8(&component[at..]).ok())?;
        component.strip_suffix(&*mark(&Namespace::new(key).ok().filter(|namespace| !namespace.is_default())?))
    };
    (1..=namespace::MAX_BYTES).find_map(shorter).map_or(component, unmarked)
}

/// The module of one namespace called `wanted`: `name` for its default (of activities, the last
/// uploaded), `name@version` or a hash.
pub(super) fn called<'m>(modules: impl Iterator<Item = &'m Module> + Clone, wanted: &str) -> Option<&'m Module> {
    if let Some((name, version)) = wanted.split_once('@') {
        return modules.clone().find(|module| module.local_name() == name && module.version == version);
    }
    let named = modules.clone().filter(|module| module.local_name() == wanted);
    let activity =
        || modules.clone().find(|module| module.local_name() == wanted && module.kind == ModuleKind::Activity);
    let hashed = || modules.clone().find(|module| module.hash.to_string() == wanted);
    default_among(named).or_else(activity).or_else(hashed)
}

/// Whether `wanted` is the module's name, name@version or hash.
pub(crate) fn is_called(module: &Module, wanted: &str) -> bool {
    match wanted.split_once('@') {
        Some((name, version)) => module.local_name() == name && module.version == version,
        None => module.local_name() == wanted || module.hash.to_string() == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_one_namespace_is_not_marked_as_its_module_any_more() {
        let mark_of = |name: &str| mark(&Namespace::new(name).unwrap());
        let component = b"\0asm and more".to_vec();
        for marks in [vec![], vec!["acme"], vec!["a"], vec!["acme", "b-2"], vec!["acme", "acme"]] {
            let marked = marks.iter().fold(component.clone(), |bytes, name| [bytes, mark_of(name)].concat());
            assert_eq!(unmarked(&marked), component, "{marks:?}");
            let longer = [&marked[..], b"!"].concat();
            assert_eq!(unmarked(&longer), longer, "only at the end");
        }
        assert!(unmarked(b"").is_empty());
    }
}

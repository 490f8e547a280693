//! Modules: taken at upload, found by name, loaded once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::error::EngineError;
use crate::core::ids::{Hash, ModuleHash, TimestampMs};
use crate::sandbox::{OrchestrationModule, Sandbox};
use crate::store::{Grants, Module, ModuleKind, Store};

/// The modules of a store, as the engine uses them.
pub struct Modules {
    store: Arc<dyn Store>,
    sandbox: Arc<Sandbox>,
    loaded: Mutex<HashMap<ModuleHash, Arc<OrchestrationModule>>>,
    /// Every module, as the store lists them: only this host writes them.
    listed: RwLock<Option<Arc<Vec<Module>>>>,
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
}

impl Modules {
    /// The modules of `store`.
    pub fn new(store: Arc<dyn Store>, sandbox: Arc<Sandbox>) -> Self {
        Self { store, sandbox, loaded: Mutex::default(), listed: RwLock::default() }
    }

    /// Checks a module and keeps it.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the reason; nothing is kept then.
    pub fn upload(&self, upload: Upload, now: TimestampMs) -> Result<Module, EngineError> {
        for (what, text) in [("name", Some(&upload.name)), ("version", upload.version.as_ref())] {
            if text.is_some_and(|text| text.is_empty() || text.len() > 200 || text.contains(['@', '/', ' '])) {
                return Err(EngineError::InvalidInput(format!(
                    "the module {what} {text:?} is not valid: expected 1 to 200 characters without '@', '/' and spaces"
                )));
            }
        }
        let inspected = self.sandbox.inspect(&upload.bytes)?;
        if inspected.kind == ModuleKind::Orchestration && upload.grants != Grants::default() {
            return Err(EngineError::InvalidInput(format!(
                "{} is a module of orchestrations, which are granted nothing; give the grants to its activities",
                upload.name
            )));
        }
        let module = Module {
            hash: inspected.hash,
            name: upload.name,
            version: upload.version.unwrap_or_else(|| inspected.hash.short()),
            kind: inspected.kind,
            size: inspected.component.len() as u64,
            uploaded_at: now,
            offers: inspected.offers,
            grants: upload.grants,
            updates: inspected.updates,
            entities: inspected.entities,
        };
        self.store.put_module(&module, &inspected.component)?;
        *self.listed.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(module)
    }

    /// The module that offers `orchestration`: the one named (`name`,
    /// `name@version` or a hash), else the only name whose newest version does.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn resolve(&self, orchestration: &str, module: Option<&str>) -> Result<Module, EngineError> {
        let all = self.all()?;
        let orchestrations = all.iter().filter(|module| module.kind == ModuleKind::Orchestration);
        let candidates: Vec<&Module> = match module {
            Some(wanted) => {
                let found = orchestrations.clone().find(|module| is_called(module, wanted));
                vec![found.ok_or_else(|| EngineError::UnknownModule {
                    module: wanted.to_owned(),
                    exists: orchestrations.map(|m| format!("{}@{}", m.name, m.version)).collect(),
                })?]
            }
            None => {
                let mut newest = BTreeMap::new();
                for module in orchestrations {
                    newest.entry(&module.name).or_insert(module);
                }
                newest.into_values().collect()
            }
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
                modules: several.iter().map(|module| module.name.clone()).collect(),
            }),
        }
    }

    /// The module that offers an entity kind: of each name, its newest version counts.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn resolve_entity(&self, kind: &str) -> Result<Module, EngineError> {
        let all = self.all()?;
        let mut newest = BTreeMap::new();
        for module in all.iter() {
            newest.entry(&module.name).or_insert(module);
        }
        let offers = |module: &&&Module| module.entities.iter().any(|entity| entity.kind == kind);
        let why = match newest.values().filter(offers).collect::<Vec<_>>()[..] {
            [only] => return Ok((*only).clone()),
            [] => {
                let kinds: Vec<_> =
                    newest.values().flat_map(|module| &module.entities).map(|entity| entity.kind.as_str()).collect();
                let there_are = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
                format!("no module offers the entity kind {kind:?}; there are: {there_are}")
            }
            ref several => {
                let names: Vec<_> = several.iter().map(|module| module.name.as_str()).collect();
                format!("the modules {} all offer the entity kind {kind:?}; keep one of them", names.join(", "))
            }
        };
        Err(EngineError::UnknownEntityKind(why))
    }

    /// Every module, the last uploaded first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn all(&self) -> Result<Arc<Vec<Module>>, EngineError> {
        if let Some(listed) = &*self.listed.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(listed.clone());
        }
        let listed = Arc::new(self.store.modules()?);
        *self.listed.write().unwrap_or_else(PoisonError::into_inner) = Some(listed.clone());
        Ok(listed)
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

fn is_called(module: &Module, wanted: &str) -> bool {
    match wanted.split_once('@') {
        Some((name, version)) => module.name == name && module.version == version,
        None => module.name == wanted || module.hash.to_string() == wanted,
    }
}

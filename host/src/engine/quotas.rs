//! What a namespace may use: how many instances, how fast they start, how much they
//! store, and what its modules may be granted. The default one, which is the
//! operator's, has no bounds unless it is given some; any other may be granted nothing
//! of this host that was not allowed to it.
//!
//! Counted where an instance begins, whoever asked for it: a caller of the API, a
//! schedule, a webhook, or another instance. Instances that have ended count until
//! they are purged, since they are kept. What is stored is counted by the store, and
//! looked at where something more comes in from outside. What runs goes on past it:
//! it was let begin, and a result that is refused would be work done for nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::EngineError;
use super::queues::{Bucket, Rate};
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::namespace::Namespace;
use crate::store::{Filter, Grants, Store, StoreError};

/// Rows looked at in one read, when they are counted.
const PAGE: usize = 1000;

/// Bounds of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamespaceSettings {
    /// Instances that are kept, those that have ended included. None: without a bound.
    pub instances: Option<u64>,
    /// How fast instances begin. None: without a bound.
    pub starts: Option<Rate>,
    /// Bytes of the histories that are kept, payloads included. None: without a bound.
    pub stored_bytes: Option<u64>,
    /// Memory of each of its guests, bytes. None: as everybody's.
    pub guest_memory_bytes: Option<usize>,
    /// Secrets that its modules may be granted.
    pub secrets: Vec<String>,
    /// Folders of this host that its modules may be granted, with all that is in them.
    pub directories: Vec<String>,
    /// Hosts that its modules may be granted; `*` for all.
    pub hosts: Vec<String>,
}

/// What every namespace uses.
#[derive(Default)]
pub(super) struct Quotas {
    settings: BTreeMap<String, NamespaceSettings>,
    used: Mutex<BTreeMap<String, Used>>,
}

#[derive(Default)]
struct Used {
    /// Counted when the first one begins.
    instances: Option<u64>,
    starts: Bucket,
}

impl Quotas {
    /// By the names of namespaces.
    pub(super) fn new(settings: &BTreeMap<String, NamespaceSettings>) -> Arc<Self> {
        Arc::new(Self { settings: settings.clone(), used: Mutex::default() })
    }

    /// An instance is to begin; `is_new`: under an id that nobody has.
    ///
    /// # Errors
    /// [`EngineError::QuotaReached`], and nothing is counted.
    pub(super) fn begin(
        &self,
        store: &dyn Store,
        id: &InstanceId,
        is_new: bool,
        now: TimestampMs,
    ) -> Result<(), EngineError> {
        let Some(settings) = self.of(id) else { return Ok(()) };
        let namespace = id.namespace();
        let reached = |what: String| Err(EngineError::QuotaReached { namespace: namespace.to_string(), what });
        self.check_room(store, id)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = used.entry(namespace.key().to_owned()).or_default();
        if let Some(most) = settings.instances.filter(|_| is_new) {
            let count = match used.instances {
                Some(count) => count,
                None => count(store, &namespace)?,
            };
            used.instances = Some(count);
            if count >= most {
                return reached(format!(
                    "{most} instances, those that have ended included, and has {count}; purge some"
                ));
            }
        }
        if let Some(rate) = settings.starts {
            if used.starts.next_start(rate, now).is_some() {
                return reached(format!("{} starts in {} ms; try again later", rate.tasks, rate.per_ms));
            }
            used.starts.take(rate, now);
        }
        if is_new && let Some(count) = &mut used.instances {
            *count += 1;
        }
        Ok(())
    }

    fn of(&self, id: &InstanceId) -> Option<&NamespaceSettings> {
        if self.settings.is_empty() {
            return None;
        }
        self.settings.get(id.namespace().name())
    }

    /// Whether more may be stored in the namespace of `id`.
    ///
    /// # Errors
    /// [`EngineError::QuotaReached`].
    pub(super) fn check_room(&self, store: &dyn Store, id: &InstanceId) -> Result<(), EngineError> {
        let Some(most) = self.of(id).and_then(|settings| settings.stored_bytes) else { return Ok(()) };
        let namespace = id.namespace();
        let found = store.stored_bytes(&namespace)?;
        if found < most {
            return Ok(());
        }
        let what = format!(
            "{most} bytes of histories and payloads, and has {found}; purge instances that have ended, or have the \
             operator raise namespaces.{namespace}.stored_bytes"
        );
        Err(EngineError::QuotaReached { namespace: namespace.to_string(), what })
    }

    /// An instance was purged.
    pub(super) fn purged(&self, id: &InstanceId) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = used.get_mut(id.space()).and_then(|used| used.instances.as_mut()) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether a module of that namespace may be granted this.
    ///
    /// # Errors
    /// Says what was not allowed, and how it is.
    pub(super) fn check_grants(&self, namespace: &Namespace, grants: &Grants) -> Result<(), EngineError> {
        if namespace.is_default() {
            return Ok(());
        }
        let none = NamespaceSettings::default();
        let allowed = self.settings.get(namespace.name()).unwrap_or(&none);
        let refuse = |what: &str, found: &str, key: &str| {
            Err(EngineError::InvalidInput(format!(
                "modules of the namespace {namespace} may not be granted the {what} {found:?}; the operator allows it \
                 with namespaces.{namespace}.{key}"
            )))
        };
        if let Some(secret) = grants.secrets.values().find(|secret| !allowed.secrets.contains(secret)) {
            return refuse("secret", secret, "secrets");
        }
        let is_within = |found: &str| {
            let path = Path::new(found);
            let goes_up = path.components().any(|part| part == std::path::Component::ParentDir);
            !goes_up && allowed.directories.iter().any(|folder| path.starts_with(folder))
        };
        if let Some(directory) = grants.directories.iter().find(|directory| !is_within(&directory.host)) {
            return refuse("folder", &directory.host, "directories");
        }
        let is_host = |found: &String| allowed.hosts.iter().any(|host| host == "*" || host == found);
        match grants.hosts.iter().find(|host| !is_host(host)) {
            Some(host) => refuse("host", host, "hosts"),
            None => Ok(()),
        }
    }
}

fn count(store: &dyn Store, namespace: &Namespace) -> Result<u64, StoreError> {
    let filter = Filter { namespace: namespace.clone(), ..Filter::default() };
    let (mut count, mut after) = (0, None);
    loop {
        let page = store.list(&filter, after.as_ref(), PAGE)?;
        count += page.len() as u64;
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.instance.clone()),
            _ => return Ok(count),
        }
    }
}

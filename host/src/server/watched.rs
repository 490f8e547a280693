//! A store that tells when an instance has a new turn, so that nobody polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::core::ids::{ExecutionNumber, InstanceId, ModuleHash};
use crate::core::summary::Summary;
use crate::store::schedule::Schedule;
use crate::store::{Batch, Epoch, Filter, History, Module, Store, StoreError};

/// Forgotten waits are swept when there are more than so many.
const SWEEP_ABOVE: usize = 1024;

/// A store, and who waits for its commits.
pub struct Watched {
    inner: Arc<dyn Store>,
    watchers: Mutex<HashMap<InstanceId, watch::Sender<()>>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    /// Watches the commits that go through the returned store.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, watchers: Mutex::default() })
    }

    /// Changes whenever a turn of `instance` has become durable since this call.
    pub fn watch(&self, instance: &InstanceId) -> watch::Receiver<()> {
        let mut watchers = self.watchers();
        if watchers.len() > SWEEP_ABOVE {
            watchers.retain(|_, sender| sender.receiver_count() > 0);
        }
        watchers.entry(instance.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<InstanceId, watch::Sender<()>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, batch: &Batch) {
        let mut watchers = self.watchers();
        if watchers.is_empty() {
            return;
        }
        for turn in &batch.turns {
            if let Some(sender) = watchers.get(&turn.instance)
                && sender.send(()).is_err()
            {
                watchers.remove(&turn.instance);
            }
        }
    }
}

impl Store for Watched {
    fn claim(&self) -> Result<Epoch, StoreError> {
        self.inner.claim()
    }

    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError> {
        self.inner.commit(epoch, batch)?;
        self.tell(batch);
        Ok(())
    }

    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        self.inner.purge(epoch, instances)
    }

    fn summary(&self, instance: &InstanceId) -> Result<Option<Summary>, StoreError> {
        self.inner.summary(instance)
    }

    fn history(
        &self,
        instance: &InstanceId,
        execution: Option<ExecutionNumber>,
    ) -> Result<Option<History>, StoreError> {
        self.inner.history(instance, execution)
    }

    fn unfinished(&self, after: Option<&InstanceId>, limit: usize) -> Result<Vec<Summary>, StoreError> {
        self.inner.unfinished(after, limit)
    }

    fn list(&self, filter: &Filter, after: Option<&InstanceId>, limit: usize) -> Result<Vec<Summary>, StoreError> {
        self.inner.list(filter, after, limit)
    }

    fn put_module(&self, module: &Module, component: &[u8]) -> Result<(), StoreError> {
        self.inner.put_module(module, component)
    }

    fn module(&self, hash: &ModuleHash) -> Result<Option<Module>, StoreError> {
        self.inner.module(hash)
    }

    fn module_bytes(&self, hash: &ModuleHash) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.module_bytes(hash)
    }

    fn modules(&self) -> Result<Vec<Module>, StoreError> {
        self.inner.modules()
    }

    fn put_schedule(&self, epoch: Epoch, name: &str, schedule: Option<&Schedule>) -> Result<(), StoreError> {
        self.inner.put_schedule(epoch, name, schedule)
    }

    fn schedules(&self) -> Result<Vec<Schedule>, StoreError> {
        self.inner.schedules()
    }

    fn remove_module(&self, hash: &ModuleHash) -> Result<bool, StoreError> {
        self.inner.remove_module(hash)
    }

    fn ids(&self, after: Option<&InstanceId>, limit: usize) -> Result<Vec<InstanceId>, StoreError> {
        self.inner.ids(after, limit)
    }
}

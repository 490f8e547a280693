//! Death at a chosen write, for crash tests of the whole program.
//!
//! [`CrashPoint`] wraps a store. It counts commits (writes of schedules too) and, at the one it was told,
//! ends this very process with SIGKILL: right before the commit reaches the store,
//! or right after it is durable and before anything is let out. The environment
//! variable `DACAPO_CRASH` sets it: `before:N`, `after:N`, or `count:FILE`, which
//! dies nowhere and writes the number of commits so far to a file. It is in the
//! product so that the tests run the very program that users run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::schedule::Schedule;
use super::{Batch, Epoch, Filter, History, Module, Store, StoreError};
use crate::core::ids::{ExecutionNumber, InstanceId, ModuleHash};
use crate::core::summary::Summary;

/// Where to die.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Point {
    Before(u64),
    After(u64),
    Count(PathBuf),
}

/// A store that ends the process at a chosen commit. See the module's page.
pub struct CrashPoint {
    inner: Arc<dyn Store>,
    point: Point,
    commits: AtomicU64,
}

impl CrashPoint {
    /// `inner`, or `inner` with the crash point that the environment sets.
    ///
    /// # Errors
    /// Says what is wrong with the variable.
    pub fn from_environment(inner: Arc<dyn Store>) -> Result<Arc<dyn Store>, String> {
        let Ok(text) = std::env::var("DACAPO_CRASH") else { return Ok(inner) };
        let wrong = || format!("DACAPO_CRASH is {text:?}: expected before:N, after:N or count:FILE");
        let (how, what) = text.split_once(':').ok_or_else(wrong)?;
        let point = match (how, what.parse()) {
            ("before", Ok(commit)) => Point::Before(commit),
            ("after", Ok(commit)) => Point::After(commit),
            ("count", _) => Point::Count(what.into()),
            _ => return Err(wrong()),
        };
        Ok(Arc::new(Self { inner, point, commits: AtomicU64::new(0) }))
    }
}

impl CrashPoint {
    /// One write that counts, and dies where it is to die.
    fn write<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let number = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        if self.point == Point::Before(number) {
            die();
        }
        let written = write()?;
        match &self.point {
            Point::After(last) if *last == number => die(),
            Point::Count(file) => {
                std::fs::write(file, number.to_string()).map_err(|e| StoreError::Io(e.to_string()))?;
            }
            _ => {}
        }
        Ok(written)
    }
}

fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    unreachable!("SIGKILL cannot be survived");
}

impl Store for CrashPoint {
    fn claim(&self) -> Result<Epoch, StoreError> {
        self.inner.claim()
    }

    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError> {
        self.write(|| self.inner.commit(epoch, batch))
    }

    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        self.write(|| self.inner.purge(epoch, instances))
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
        self.write(|| self.inner.put_schedule(epoch, name, schedule))
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

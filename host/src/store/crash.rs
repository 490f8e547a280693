//! Death at a chosen write, for crash tests of the whole program.
//!
//! [`CrashPoint`] wraps a store. It counts commits (writes of schedules too) and, at the one it was told,
//! ends this very process with SIGKILL: right before the commit reaches the store,
//! or right after it is durable and before anything is let out. The environment
//! variable `DACAPO_CRASH` sets it: `before:N`, `after:N`, or `count:FILE`, which
//! dies nowhere and writes the number of commits so far to a file. With `write:N` it
//! dies right before the Nth write, sync or change of length of a file (the journal's,
//! or a backup's), wherever in a commit that is; `writes:FILE` counts those. It is in
//! the product so that the tests run the very program that users run.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::schedule::Schedule;
use super::{Batch, Epoch, Store, StoreError};
use crate::core::ids::InstanceId;

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

/// What `DACAPO_CRASH` says.
enum Crash {
    Commits(Point),
    Files(FilePoint),
}

impl Crash {
    fn from_environment() -> Result<Option<Self>, String> {
        let Ok(text) = std::env::var("DACAPO_CRASH") else { return Ok(None) };
        let wrong =
            || format!("DACAPO_CRASH is {text:?}: expected before:N, after:N, count:FILE, write:N or writes:FILE");
        let (how, what) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Some(match (how, what.parse()) {
            ("before", Ok(commit)) => Self::Commits(Point::Before(commit)),
            ("after", Ok(commit)) => Self::Commits(Point::After(commit)),
            ("count", _) => Self::Commits(Point::Count(what.into())),
            ("write", Ok(write)) => Self::Files(FilePoint::Before(write)),
            ("writes", _) => Self::Files(FilePoint::Count(what.into())),
            _ => return Err(wrong()),
        }))
    }
}

impl CrashPoint {
    /// `inner`, or `inner` with the crash point that the environment sets.
    ///
    /// # Errors
    /// Says what is wrong with the variable.
    pub fn from_environment(inner: Arc<dyn Store>) -> Result<Arc<dyn Store>, String> {
        match Crash::from_environment()? {
            Some(Crash::Commits(point)) => Ok(Arc::new(Self { inner, point, commits: AtomicU64::new(0) })),
            Some(Crash::Files(_)) | None => Ok(inner),
        }
    }
}

/// Where among the writes of files to die.
#[derive(Debug)]
enum FilePoint {
    Before(u64),
    Count(PathBuf),
}

/// Counts writes of files, and ends the process before the one it was told.
#[derive(Debug)]
pub struct FileWrites {
    point: FilePoint,
    writes: AtomicU64,
}

impl FileWrites {
    /// What the environment sets; none if it sets nothing, or commits are counted.
    ///
    /// # Errors
    /// Says what is wrong with the variable.
    pub fn from_environment() -> Result<Option<Arc<Self>>, String> {
        match Crash::from_environment()? {
            Some(Crash::Files(point)) => Ok(Some(Arc::new(Self { point, writes: AtomicU64::new(0) }))),
            Some(Crash::Commits(_)) | None => Ok(None),
        }
    }

    /// Before each write.
    ///
    /// # Errors
    /// If the count cannot be written down.
    pub fn count(&self) -> io::Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.point {
            FilePoint::Before(last) if *last == number => die(),
            FilePoint::Before(_) => Ok(()),
            FilePoint::Count(file) => std::fs::write(file, number.to_string()),
        }
    }
}

/// A writer whose writes are counted.
#[derive(Debug)]
pub struct Counted<W> {
    /// What is written to.
    pub inner: W,
    /// Who counts.
    pub writes: Option<Arc<FileWrites>>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.as_ref().map_or(Ok(()), |writes| writes.count())?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
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
    crate::hand_on_to_inner_store!();

    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError> {
        self.write(|| self.inner.commit(epoch, batch))
    }

    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        self.write(|| self.inner.purge(epoch, instances))
    }

    fn put_schedule(&self, epoch: Epoch, name: &str, schedule: Option<&Schedule>) -> Result<(), StoreError> {
        self.write(|| self.inner.put_schedule(epoch, name, schedule))
    }
}

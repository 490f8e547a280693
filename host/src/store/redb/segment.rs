//! A file of the log, on a real disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::store::SYNCS_AT_ONCE;

/// See the module's page.
///
/// Several threads may sync it at once, each by a handle of its own: an error of writing
/// back is told once to each handle that was open then, so that no sync passes because
/// another one was told.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    /// Handles that no sync uses now, each as old as the first write.
    idle: Mutex<Vec<File>>,
    one_is_idle: Condvar,
}

/// Beside those of the committer, one of whoever needs all to be durable.
const HANDLES: usize = SYNCS_AT_ONCE + 1;

impl Segment {
    /// Opens the file at `path`, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(path);
        let idle = (0..HANDLES).map(|_| open()).collect::<io::Result<_>>()?;
        Ok(Self { file: open()?, idle: Mutex::new(idle), one_is_idle: Condvar::new() })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<File>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self) -> File {
        let mut idle = self.idle();
        loop {
            match idle.pop() {
                Some(handle) => return handle,
                None => idle = self.one_is_idle.wait(idle).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl StorageBackend for Segment {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let handle = self.handle();
        let synced = handle.sync_data();
        self.idle().push(handle);
        self.one_is_idle.notify_one();
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

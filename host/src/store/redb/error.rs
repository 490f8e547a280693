//! From redb's errors to the store's.
//!
//! What the checksums of redb find is [`StoreError::Corrupt`]; the rest is the
//! medium's fault. redb may panic on a file that was changed behind its back;
//! [`guarded`] makes that an error too.

use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{DatabaseError, StorageError};

use crate::core::panics::panic_text;
use crate::store::StoreError;

/// Says what was being done when redb failed.
pub(super) trait Doing<T> {
    /// Turns redb's error into the store's.
    fn doing(self, what: &str) -> Result<T, StoreError>;
}

impl<T, E: Into<redb::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, StoreError> {
        self.map_err(|error| match error.into() {
            redb::Error::Corrupted(why) => StoreError::Corrupt { what: "its file".into(), why },
            error @ (redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. }) => {
                StoreError::Corrupt { what: "its file".into(), why: error.to_string() }
            }
            error => StoreError::Io(format!("cannot {what}: {error}")),
        })
    }
}

/// What opening the file at `path` failed with.
pub(super) fn of_open(path: &str, error: DatabaseError) -> StoreError {
    let corrupt = |why: String| StoreError::Corrupt { what: path.to_owned(), why };
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::InUse { path: path.to_owned() }
        }
        DatabaseError::Storage(StorageError::Corrupted(why)) => corrupt(why),
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            corrupt("it is not a journal".to_owned())
        }
        error @ DatabaseError::UpgradeRequired(_) => corrupt(error.to_string()),
        error => StoreError::Io(format!("cannot open {path}: {error}")),
    }
}

/// Runs `work`; a panic in it is a damaged file.
pub(super) fn guarded<T, E: From<StoreError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = format!("reading it failed: {}", panic_text(panic.as_ref()));
        Err(StoreError::Corrupt { what: "its file".into(), why }.into())
    })
}

//! Files: how the tables' one is opened, made and named.

use std::path::{Path, PathBuf};

use redb::Database;
use redb::backends::FileBackend;

use super::Options;
use super::dying::DyingFile;
use super::error::{Doing, guarded, of_open};
use super::log::Place;
use super::meta::create_tables;
use crate::store::StoreError;

pub(super) fn builder(options: &Options) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(options.check_on_open);
    builder
}

pub(super) fn open_file(path: &Path, options: &Options) -> Result<Database, StoreError> {
    let builder = builder(options);
    let opened = match &options.writes {
        None => builder.create(path),
        Some(writes) => {
            let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(|error| StoreError::Io(format!("cannot open {}: {error}", path.display())))?;
            let backend = FileBackend::new(file).map(|inner| DyingFile { inner, writes: writes.clone() });
            backend.and_then(|backend| builder.create_with_backend(backend))
        }
    };
    opened.map_err(|error| of_open(&path.display().to_string(), error))
}

/// The path of a file that belongs to the one at `path`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// A log without its journal is not put beside another one.
pub(super) fn refuse_left_log(path: &Path) -> Result<(), StoreError> {
    if Place::is_left(path) {
        let (journal, log) = (path.display(), Place::Files(path.to_owned()).name());
        return Err(StoreError::Io(format!(
            "{log} hold commits of a journal, and {journal} is not there; put it back, or move them away"
        )));
    }
    Ok(())
}

/// Makes an empty journal that is at `path` whole or not at all, since a half-made
/// one could not be told from a damaged one. Another process may do the same.
pub(super) fn create_file(path: &Path, options: &Options) -> Result<(), StoreError> {
    let draft = &beside(path, &format!(".new-{}", std::process::id()));
    let made = guarded(|| {
        let failed = |error| StoreError::Io(format!("cannot make {}: {error}", path.display()));
        std::fs::File::create(draft).map_err(failed)?;
        let database = open_file(draft, options)?;
        create_tables(&database)?;
        database.close().doing("close the new file")?;
        put_in_place(draft, path)
    });
    let _not_there_if_renamed = std::fs::remove_file(draft);
    made?;
    sync_folder_of(path)
}

/// Gives a finished file its name, unless there is one of that name by now.
pub(super) fn put_in_place(draft: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::Io(format!("cannot make {}: {error}", path.display()));
    match std::fs::hard_link(draft, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        // Not every file system has links.
        Err(_) if !path.exists() => std::fs::rename(draft, path).map_err(failed),
        linked => linked.map_err(failed),
    }
}

/// A new file's name is durable only with its folder.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| StoreError::Io(format!("cannot make {} durable: {error}", folder.display())))
}

//! Opening a data folder: its lock, its store, its server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{CliError, Result};
use crate::engine::{EngineError, EngineSettings};
use crate::sandbox::secrets::Secrets;
use crate::sandbox::settings::SandboxSettings;
use crate::sandbox::{Sandbox, shared_cache};
use crate::store::codec::{Asked, Codec};
use crate::store::crash::{CrashPoint, FileWrites};
use crate::store::redb::{Options, RedbStore};
use crate::store::{Store, StoreError};

/// The store's file in a data folder.
const JOURNAL: &str = "journal.redb";

/// Another command may have the folder for a moment: so many tries, so long apart.
const TRIES: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(50);

/// Opens the store of a data folder; every command comes by here.
///
/// # Errors
/// If it is in use, damaged, or cannot be made.
pub(crate) fn open(data: &Path, options: &Options) -> Result<Arc<dyn Store>, StoreError> {
    let store = RedbStore::open_with(&journal(data), options.clone())?;
    CrashPoint::from_environment(Arc::new(store)).map_err(StoreError::Io)
}

/// How the store of a data folder is opened, as the environment says.
///
/// # Errors
/// If the environment sets keys or a crash point that cannot be used.
pub(crate) fn options(data: &Path) -> Result<Options, StoreError> {
    options_with(&Asked::from_environment()?, data)
}

/// [`options`], with rows written as `asked`.
///
/// # Errors
/// As there.
pub(crate) fn options_with(asked: &Asked, data: &Path) -> Result<Options, StoreError> {
    let codec = Codec::of(asked, data)?;
    let writes = FileWrites::from_environment().map_err(StoreError::Io)?;
    Ok(Options { codec: Arc::new(codec), writes, ..Options::default() })
}

/// The store's file.
pub(crate) fn journal(data: &Path) -> PathBuf {
    data.join(JOURNAL)
}

/// Opens it once whoever has it for a moment is done. `elsewhere` is asked before
/// each try: a server may have come up that has it for longer.
pub(crate) async fn open_in_turn<T>(
    data: &Path,
    options: &Options,
    mut elsewhere: impl FnMut() -> Option<T>,
) -> Result<std::result::Result<Arc<dyn Store>, T>> {
    for attempt in 1.. {
        if let Some(server) = elsewhere() {
            return Ok(Err(server));
        }
        match open(data, options) {
            Ok(store) => return Ok(Ok(store)),
            Err(StoreError::InUse { .. }) if attempt < TRIES => tokio::time::sleep(BETWEEN).await,
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the last try returns")
}

/// The data folder as an absolute path, made if it is not there.
pub(crate) fn make_folder(data: &Path) -> Result<PathBuf> {
    let cannot = |error: std::io::Error| {
        CliError::host(format!("cannot use the data folder {}: {error}; choose another with --data", data.display()))
    };
    std::fs::create_dir_all(data).map_err(cannot)?;
    data.canonicalize().map_err(cannot)
}

/// Whether there is anything to read in a data folder.
pub(crate) fn exists(data: &Path) -> bool {
    journal(data).is_file()
}

/// How engines of this folder work.
pub(crate) fn settings(data: &Path) -> EngineSettings {
    settings_with(data, secrets())
}

/// [`settings`], with these secrets.
pub(crate) fn settings_with(data: &Path, secrets: Secrets) -> EngineSettings {
    let sandbox = SandboxSettings { secrets, ..SandboxSettings::default() };
    EngineSettings { cache: Some(cache(data)), sandbox, ..EngineSettings::default() }
}

/// Where compiled modules are kept.
fn cache(data: &Path) -> PathBuf {
    shared_cache().unwrap_or_else(|| data.join("cache"))
}

/// [`cache`], for what makes no data folder.
pub(crate) fn cache_if_there(data: &Path) -> Option<PathBuf> {
    exists(data).then(|| cache(data)).or_else(shared_cache)
}

/// A sandbox with the settings and the cache of this folder, if it is there.
pub(crate) fn sandbox(data: &Path) -> Result<Sandbox> {
    let sandbox = Sandbox::new(settings(data).sandbox, cache_if_there(data));
    Ok(sandbox.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?)
}

/// The secrets of this host: `DACAPO_SECRET_*`, and the file that
/// `DACAPO_SECRETS_FILE` names.
pub(crate) fn secrets() -> Secrets {
    let file = std::env::var_os("DACAPO_SECRETS_FILE").filter(|path| !path.is_empty());
    Secrets::of_host(file.map(PathBuf::from))
}

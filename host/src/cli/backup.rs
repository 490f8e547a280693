//! `dacapo backup`, `restore` and `compact`: the journal as a whole.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::client::{Access, Client, Remote};
use super::error::{CliError, Result, exit};
use super::output::{err, out};
use super::{Common, output, store};
use crate::replay::verify::{Verified, verify_store};
use crate::store::Store as _;
use crate::store::backup::{self, BackupError, Contents};
use crate::store::crash::{Counted, FileWrites};
use crate::store::redb::RedbStore;

#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The file to write; - is stdout
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// A file that `dacapo backup` wrote; - is stdin
    file: PathBuf,
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Store(error) => error.into(),
            BackupError::Io { .. } => Self::host(error.to_string()),
            BackupError::NotABackup | BackupError::Newer { .. } => Self::input(error.to_string()),
            BackupError::Damaged { .. } => Self::new(exit::FAILED, "damaged", error.to_string()),
        }
    }
}

impl Client {
    fn backup(&self, to: &mut dyn Write) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.store().backup(to).map(drop)?),
            Self::Remote(server) => server.download("backup", to),
        }
    }
}

pub(super) async fn backup(args: &BackupArgs, common: &Common) -> Result<()> {
    let client = Client::open(common, Access::Read).await?;
    if is_pipe(&args.file) {
        return client.backup(&mut io::stdout().lock());
    }
    let name = args.file.display();
    if args.file.exists() {
        let message = format!("there is {name} already; name another file, a backup replaces none");
        return Err(CliError::new(exit::CONFLICT, "already-exists", message));
    }
    let contents = write_file(&client, &args.file)?;
    if common.json {
        output::json(&json!({ "file": args.file, "bytes": contents.bytes, "rows": contents.rows }));
    } else {
        out(format_args!("{} bytes in {name}, read back and whole", contents.bytes));
        err(format_args!("to bring it back: dacapo restore {name} --data NEW-FOLDER"));
    }
    Ok(())
}

/// A file of that name is there when all of it is durable and was read back.
fn write_file(client: &Client, file: &Path) -> Result<Contents> {
    let cannot = |error: io::Error| CliError::host(format!("cannot write {}: {error}", file.display()));
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = || -> Result<Contents> {
        let writes = FileWrites::from_environment().map_err(CliError::host)?;
        let mut to = BufWriter::new(Counted { inner: File::create(&partial).map_err(cannot)?, writes });
        client.backup(&mut to)?;
        let written = to.into_inner().map_err(|error| cannot(error.into_error()))?.inner;
        written.sync_all().map_err(cannot)?;
        let contents = backup::check(&mut BufReader::new(File::open(&partial).map_err(cannot)?))?;
        std::fs::rename(&partial, file).map_err(cannot)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)?;
        Ok(contents)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&partial)))
}

pub(super) fn restore(args: &RestoreArgs, common: &Common) -> Result<()> {
    let data = store::make_folder(&common.data)?;
    if store::exists(&data) {
        let message = format!("{} has a journal already; restore into another folder with --data", data.display());
        return Err(CliError::new(exit::CONFLICT, "already-exists", message));
    }
    let mut from: Box<dyn Read> = if is_pipe(&args.file) { Box::new(io::stdin()) } else { Box::new(open(&args.file)?) };
    let draft = RedbStore::restore(&store::journal(&data), store::options(&data)?, &mut from)?;
    let verified = verify_store(draft.store(), None)?;
    if let Some(finding) = verified.findings.first() {
        let more = verified.findings.len() - 1;
        let message = format!("what was restored is not sound: {}: {} ({more} more)", finding.of, finding.problem);
        return Err(CliError::new(exit::FAILED, "damaged", message));
    }
    draft.keep()?;
    tell_restored(&verified, &data, common);
    Ok(())
}

fn tell_restored(verified: &Verified, data: &Path, common: &Common) {
    if common.json {
        return output::json(&json!(verified));
    }
    let Verified { instances, events, modules, .. } = verified;
    out(format_args!("restored and verified {instances} instances with {events} events, {modules} modules"));
    err(format_args!(
        "make sure that the host it was taken from is stopped, then: dacapo serve --data {}",
        data.display()
    ));
}

/// Makes the file of a data folder as small as it can be.
pub(super) fn compact(common: &Common) -> Result<()> {
    if !store::exists(&common.data) {
        let message = format!("there is no data folder {}; name it with --data", common.data.display());
        return Err(CliError::new(exit::NOT_FOUND, "not-found", message));
    }
    if let Some(server) = Remote::find(&common.data, &common.reach) {
        let message = format!(
            "{} is served by {}; stop that one first: compacting moves the pages that it uses",
            common.data.display(),
            server.address()
        );
        return Err(CliError::new(exit::CONFLICT, "store-in-use", message));
    }
    let journal = store::journal(&common.data);
    let length = || std::fs::metadata(&journal).map(|found| found.len()).unwrap_or_default();
    let before = length();
    let mut store = RedbStore::open_with(&journal, store::options(&common.data)?)?;
    store.compact()?;
    drop(store);
    let after = length();
    if common.json {
        output::json(&json!({ "bytes_before": before, "bytes_after": after }));
    } else {
        out(format_args!("{before} bytes before, {after} bytes now"));
    }
    Ok(())
}

/// Whether a file that is to be verified is a backup.
pub(super) fn is_backup(bytes: &[u8]) -> bool {
    bytes.starts_with(b"dacapo-backup ")
}

fn open(file: &Path) -> Result<impl Read + use<>> {
    let cannot =
        |error| CliError::new(exit::NOT_FOUND, "not-found", format!("cannot read {}: {error}", file.display()));
    Ok(BufReader::new(File::open(file).map_err(cannot)?))
}

fn is_pipe(file: &Path) -> bool {
    file.as_os_str() == "-"
}

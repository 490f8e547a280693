//! Audit records: who changed what, and when.
//!
//! Each change that somebody with a token asks for is a record in `audit.jsonl` in the
//! data folder, a JSON object in a line. It is durable *before* the change begins, so
//! a host that dies in between leaves none out; what became of it is a second line
//! with the same id, written when it was answered. A file of its own, because it has
//! to outlive what it tells of, is read without the store, and is appended to alone.
//! Reports of workers are in histories already, and are not here.
//!
//! It is bounded: when the file has half of what it may, it becomes `audit.jsonl.1`,
//! in place of the one before. Records that come together share a sync.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use axum::extract::Request;
use axum::http::Method;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::access::{Caller, Needs, Scoped, operation_of};
use super::api::{Api, Result, blocking};
use super::openapi::Body;
use super::problem::Problem;
use super::tokens::Scope;
use super::{Answer, Query};
use crate::core::ids::TimestampMs;
use crate::core::namespace::Namespace;
use crate::engine::{Clock as _, SystemClock};

const FILE: &str = "audit.jsonl";
const OLDER: &str = "audit.jsonl.1";
/// Both files together, unless told otherwise: some hundred thousand records.
pub const BYTES: u64 = 64 << 20;
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// What of a request's query and body is noted, so that a record says what was changed;
/// payloads are not, which may be anybody's secrets.
const NOTED: &[&str] = &[
    "action",
    "all",
    "at",
    "check",
    "cron",
    "dry_run",
    "every_ms",
    "execution",
    "filter",
    "force",
    "forget_ended",
    "held_back",
    "id",
    "module",
    "name",
    "older_than_ms",
    "one_way",
    "orchestration",
    "overlap",
    "prefix",
    "reason",
    "reuse",
    "start_at",
    "status",
    "time_zone",
    "version",
];
/// More of a text is cut off.
const NOTED_BYTES: usize = 200;
const PATH_BYTES: usize = 1000;
/// What is read first of a file's end, to find its last record: more than most have.
const TAIL_BYTES: u64 = 64 << 10;

/// What was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    id: u64,
    at: TimestampMs,
    /// The token's id; none: a webhook, which is signed.
    token: Option<String>,
    /// The token's name.
    name: Option<String>,
    namespace: Namespace,
    method: String,
    path: String,
    /// See [`NOTED`].
    #[serde(default)]
    what: BTreeMap<String, Value>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Ended {
    id: u64,
    status: u16,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Asked(Record),
    Ended(Ended),
}

/// Whom to tell that what was written before is durable.
type Synced = oneshot::Sender<io::Result<()>>;

/// The records of a data folder that is served.
#[derive(Debug)]
pub struct Audit {
    folder: PathBuf,
    bytes: u64,
    state: Arc<Mutex<State>>,
    syncs: mpsc::Sender<Synced>,
}

#[derive(Debug)]
struct State {
    file: Arc<File>,
    len: u64,
    next: u64,
    /// The last write failed, and may have left a part of its line.
    is_torn: bool,
}

impl Audit {
    /// Goes on with the records in `folder`, which have at most `bytes`.
    ///
    /// # Errors
    /// If they cannot be read or written to.
    pub fn open(folder: &Path, bytes: u64) -> Result<Self> {
        let cannot = |error: io::Error| trouble(folder, &error);
        let next = last_id(folder).map_err(cannot)? + 1;
        let file = append(folder).map_err(cannot)?;
        let len = file.metadata().map_err(cannot)?.len();
        let state = Arc::new(Mutex::new(State { file: Arc::new(file), len, next, is_torn: false }));
        let (syncs, wanted) = mpsc::channel::<Synced>();
        let syncing = state.clone();
        std::thread::Builder::new()
            .name("dacapo-audit".to_owned())
            .spawn(move || sync_all(&syncing, &wanted))
            .map_err(cannot)?;
        Ok(Self { folder: folder.to_owned(), bytes, state, syncs })
    }

    /// Notes what `request` asks for, if it changes something; durable when this returns
    /// its id. The request is given back.
    ///
    /// # Errors
    /// If its body cannot be read, or the record not be written: then nothing is to be done.
    pub(super) async fn note(&self, caller: &Caller, needs: Needs, request: Request) -> Result<(Request, Option<u64>)> {
        let Some(token) = caller.token().filter(|_| changes(needs, request.method())) else {
            return Ok((request, None));
        };
        let (request, what) = read_what(request).await?;
        let record = Record {
            id: 0,
            at: SystemClock.now(),
            token: Some(token.id.clone()),
            name: Some(token.name.clone()),
            namespace: token.namespace.clone(),
            method: request.method().to_string(),
            path: shortened(request.uri().path(), PATH_BYTES).to_owned(),
            what,
        };
        Ok((request, Some(self.keep(record).await?)))
    }

    /// Notes that a webhook's request is taken, whose signature fits; as [`Self::note`].
    ///
    /// # Errors
    /// As there.
    pub(super) async fn note_webhook(&self, namespace: &Namespace, path: String) -> Result<u64> {
        let (at, namespace) = (SystemClock.now(), namespace.clone());
        let (token, name, what) = (None, None, BTreeMap::new());
        self.keep(Record { id: 0, at, token, name, namespace, method: "POST".to_owned(), path, what }).await
    }

    async fn keep(&self, record: Record) -> Result<u64> {
        let cannot = |error: io::Error| trouble(&self.folder, &error);
        let gone = || io::Error::other("its thread has ended");
        let id = self.write(|id| json!(Record { id, ..record })).map_err(cannot)?;
        let (synced, done) = oneshot::channel();
        self.syncs.send(synced).map_err(|_| cannot(gone()))?;
        done.await.unwrap_or_else(|_| Err(gone())).map_err(cannot)?;
        Ok(id)
    }

    /// Notes what became of it. Should the host die before that is durable, the record
    /// has no status: nobody was answered.
    pub(super) fn end(&self, id: u64, status: u16) {
        if let Err(error) = self.write(|_| json!(Ended { id, status })) {
            tracing::error!(%error, "an audit record is not whole");
        }
    }

    /// Appends a line, of the next id if it is a new record; that id.
    fn write(&self, line: impl FnOnce(u64) -> Value) -> io::Result<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.len > self.bytes / 2 {
            state.file.sync_data()?;
            std::fs::rename(self.folder.join(FILE), self.folder.join(OLDER))?;
            (state.file, state.len) = (Arc::new(append(&self.folder)?), 0);
            File::open(&self.folder)?.sync_all()?;
        }
        let id = state.next;
        let value = line(id);
        // What a write that failed left of its line is a line of its own.
        let line = format!("{}{value}\n", if state.is_torn { "\n" } else { "" });
        state.is_torn = true;
        (&*state.file).write_all(line.as_bytes())?;
        state.is_torn = false;
        state.len += line.len() as u64;
        if value["at"].is_number() {
            state.next += 1;
        }
        Ok(id)
    }
}

fn changes(needs: Needs, method: &Method) -> bool {
    let is_change = matches!(needs, Needs::Token(Scope::Operate | Scope::Deploy) | Needs::Host(Scope::Operate));
    is_change && !method.is_safe()
}

/// What a request says beside its path, see [`NOTED`].
async fn read_what(request: Request) -> Result<(Request, BTreeMap<String, Value>)> {
    let mut what = BTreeMap::new();
    if let Ok(query) = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(request.uri()) {
        what.extend(query.0.iter().filter_map(|(name, value)| noted(name, &json!(value))));
    }
    if !operation_of(&request).is_some_and(|operation| matches!(operation.body, Body::Of(_))) {
        return Ok((request, what));
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, super::BODY_BYTES).await;
    let body = body.map_err(|error| {
        let is_large = error.to_string().contains("length limit");
        Problem::new(if is_large { "too-large" } else { "invalid-input" }, format!("the body cannot be read: {error}"))
    })?;
    if let Ok(Value::Object(members)) = serde_json::from_slice(&body) {
        what.extend(members.iter().filter_map(|(name, value)| noted(name, value)));
    }
    Ok((Request::from_parts(parts, body.into()), what))
}

fn noted(name: &str, value: &Value) -> Option<(String, Value)> {
    if value.is_null() || !NOTED.contains(&name) {
        return None;
    }
    let value = match value {
        Value::String(text) => shortened(text, NOTED_BYTES).into(),
        Value::Array(_) | Value::Object(_) => shortened(&value.to_string(), NOTED_BYTES).into(),
        plain => plain.clone(),
    };
    Some((name.to_owned(), value))
}

fn shortened(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Makes what was written durable, for all who wait at the same time.
fn sync_all(state: &Mutex<State>, wanted: &mpsc::Receiver<Synced>) {
    while let Ok(first) = wanted.recv() {
        let waiting: Vec<Synced> = std::iter::once(first).chain(wanted.try_iter()).collect();
        // A file that was replaced meanwhile was made durable then.
        let file = state.lock().unwrap_or_else(PoisonError::into_inner).file.clone();
        let synced = file.sync_data();
        for waits in waiting {
            let copy = synced.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            let _ = waits.send(copy);
        }
    }
}

fn append(folder: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(FILE))?;
    // A line that was torn by a crash ends here.
    if !ends_in_line(&folder.join(FILE))? {
        (&file).write_all(b"\n")?;
    }
    Ok(file)
}

fn ends_in_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn trouble(folder: &Path, error: &io::Error) -> Problem {
    Problem::new("store-failed", format!("cannot keep an audit record in {}: {error}", folder.display()))
}

/// One of the files with records, if there is one.
fn open_kept(folder: &Path, name: &str) -> io::Result<Option<File>> {
    match File::open(folder.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The id of the last record; 0: there is none. Only the end of a file is read.
fn last_id(folder: &Path) -> io::Result<u64> {
    for name in [FILE, OLDER] {
        let Some(mut file) = open_kept(folder, name)? else { continue };
        let (len, mut tail) = (file.metadata()?.len(), TAIL_BYTES);
        loop {
            file.seek(SeekFrom::Start(len.saturating_sub(tail)))?;
            let mut bytes = Vec::new();
            (&file).take(tail).read_to_end(&mut bytes)?;
            let asked = bytes.rsplit(|byte| *byte == b'\n').find_map(|line| match serde_json::from_slice(line) {
                Ok(Line::Asked(record)) => Some(record.id),
                _ => None,
            });
            match asked {
                Some(id) => return Ok(id),
                None if tail >= len => break,
                // Very many that ended, or a line that was torn.
                None => tail *= 8,
            }
        }
    }
    Ok(0)
}

/// Every record that is kept, by id, with what became of it.
fn read(folder: &Path) -> io::Result<BTreeMap<u64, (Record, Option<u16>)>> {
    let mut found = BTreeMap::new();
    for name in [OLDER, FILE] {
        let Some(file) = open_kept(folder, name)? else { continue };
        for line in BufReader::new(file).split(b'\n') {
            // One that was torn by a crash was answered to nobody.
            match serde_json::from_slice(&line?) {
                Ok(Line::Asked(record)) => drop(found.insert(record.id, (record, None))),
                Ok(Line::Ended(Ended { id, status })) => {
                    if let Some((_, became)) = found.get_mut(&id) {
                        *became = Some(status);
                    }
                }
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// Which records to read.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Older than this one.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl Api {
    /// Audit records, the newest first; of every namespace for those of the default one.
    ///
    /// # Errors
    /// If the limit is none, or they cannot be read.
    pub fn audit(&self, query: AuditQuery) -> Result<Value> {
        let limit = query.limit.unwrap_or(LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::invalid(format!("limit is {limit}: expected 1 to {MAX_LIMIT}; page with before")));
        }
        let folder = self.folder().ok_or_else(|| Problem::new("stopped", "no data folder is served here"))?;
        let namespace = self.namespace();
        let all = read(folder).map_err(|error| trouble(folder, &error))?;
        let older = all.into_values().rev().filter(|(record, _)| query.before.is_none_or(|before| record.id < before));
        let own = older.filter(|(record, _)| namespace.is_default() || record.namespace == namespace);
        let mut page: Vec<_> = own.take(limit + 1).collect();
        let has_more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().filter(|_| has_more).map(|(record, _)| record.id);
        let shown = page.into_iter().map(|(record, status)| {
            let Record { id, at, token, name, namespace, method, path, what } = record;
            json!({
                "id": id, "at": at.to_string(), "token": token, "name": name, "namespace": namespace,
                "method": method, "path": path, "what": what, "status": status,
            })
        });
        Ok(json!({ "records": shown.collect::<Vec<_>>(), "next": next }))
    }
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/audit", get(audit))
}

async fn audit(Scoped(api): Scoped, Query(query): Query<AuditQuery>) -> Answer {
    blocking(move || api.audit(query)).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_bounded_and_go_on_behind_a_torn_line() {
        let folder = std::env::temp_dir().join(format!("dacapo-audit-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let record = |id| Record {
            id,
            at: TimestampMs(1),
            token: Some("t".to_owned()),
            name: None,
            namespace: Namespace::default(),
            method: "POST".to_owned(),
            path: "/x".to_owned(),
            what: BTreeMap::new(),
        };
        let audit = Audit::open(&folder, 4096).unwrap();
        for expected in 1..=100 {
            assert_eq!(audit.write(|id| json!(record(id))).unwrap(), expected);
            audit.end(expected, 202);
        }
        let kept = read(&folder).unwrap();
        assert!(kept.len() < 100 && kept[&100].1 == Some(202), "{}", kept.len());
        let bytes: u64 = [FILE, OLDER].iter().map(|name| folder.join(name).metadata().unwrap().len()).sum();
        assert!(bytes <= 4096 + 512, "{bytes}");
        drop(audit);
        let mut file = OpenOptions::new().append(true).open(folder.join(FILE)).unwrap();
        file.write_all(b"{\"id\":101,\"at\":").unwrap();
        let audit = Audit::open(&folder, 4096).unwrap();
        assert_eq!(audit.write(|id| json!(record(id))).unwrap(), 101);
        assert_eq!(read(&folder).unwrap()[&101].0.path, "/x");
        drop(audit);
        // Died between the renaming and the new file's first record.
        std::fs::rename(folder.join(FILE), folder.join(OLDER)).unwrap();
        let ended = format!("{}\n", json!(Ended { id: 101, status: 202 })).repeat(5000);
        let mut older = OpenOptions::new().append(true).open(folder.join(OLDER)).unwrap();
        older.write_all(ended.as_bytes()).unwrap();
        assert_eq!(Audit::open(&folder, 4096).unwrap().write(|id| json!(record(id))).unwrap(), 102);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

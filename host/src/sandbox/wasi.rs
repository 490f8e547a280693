//! Virtual WASI: what of the ordinary world an orchestration sees.
//!
//! Clocks show the turn's time, randomness follows from the journaled seed,
//! standard output is log lines, the environment and the file system are empty.
//! So `SystemTime::now()`, `HashMap` and `uuid` of ordinary crates are the same
//! at every replay. Everything here is a few lines over the recorder; whatever
//! else of these interfaces a module names is there to link, and traps with its
//! name when it is called. What could wait or reach outside is refused at upload,
//! see [`super::inspect`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::component::{Component, Linker, LinkerInstance, Resource, ResourceType, types::ComponentItem};
use wasmtime::{Result, StoreContextMut};

use super::guest::GuestState;
use crate::core::turn::{LogLevel, LogLine};

/// Handle types. An interface names those of others again, and they must be the
/// same there, so they are defined by name, see [`resource`].
struct OutputStream;
struct InputStream;
struct Terminal;
struct IoError;
struct Pollable;
struct Descriptor;
struct DirectoryEntries;

// The kind of a handle is in its two low bits, see `Handles::give`.
const OTHER: u32 = 0;
pub(super) const STDOUT: u32 = 1;
pub(super) const STDERR: u32 = 2;

/// Longest line that is gathered before it is logged, bytes.
pub(super) const LINE_BYTES: usize = 8 << 10;

/// What a guest wrote to its standard streams and has not ended with a newline.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines([Vec<u8>; 2]);

impl Lines {
    /// Whether every line was ended.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }
}

/// The handles that a guest holds. They are no part of its memory, so a snapshot
/// notes which there were, see [`super::snapshot`].
#[derive(Debug)]
pub(super) struct Handles {
    /// Names this guest among all of this process.
    pub(super) guest: u64,
    pub(super) held: BTreeSet<u32>,
    given: u32,
}

impl Default for Handles {
    fn default() -> Self {
        static GUESTS: AtomicU64 = AtomicU64::new(0);
        Self { guest: GUESTS.fetch_add(1, Ordering::Relaxed), held: BTreeSet::new(), given: 0 }
    }
}

impl Handles {
    /// A new handle of that kind; no two are the same.
    fn give(&mut self, kind: u32) -> u32 {
        self.given = self.given.wrapping_add(1);
        let rep = self.given << 2 | kind;
        self.held.insert(rep);
        rep
    }
}

/// Defines what `component` imports of WASI, under the very version it names.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>, component: &Component) -> Result<()> {
    let engine = linker.engine().clone();
    for (name, item) in component.component_type().imports(&engine) {
        let (Some(interface), ComponentItem::ComponentInstance(instance)) = (interface(name), &item.ty) else {
            continue;
        };
        let mut at = linker.instance(name)?;
        for (export, item) in instance.exports(&engine) {
            if let (ComponentItem::Resource(_), Some(handle)) = (&item.ty, resource(export)) {
                at.resource(export, handle, |mut store, rep| {
                    store.data_mut().handles.held.remove(&rep);
                    Ok(())
                })?;
            }
        }
        define(interface, &mut at)?;
    }
    linker.define_unknown_imports_as_traps(component)
}

fn resource(name: &str) -> Option<ResourceType> {
    Some(match name {
        "output-stream" => ResourceType::host::<OutputStream>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "terminal-input" | "terminal-output" => ResourceType::host::<Terminal>(),
        "error" => ResourceType::host::<IoError>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        "directory-entry-stream" => ResourceType::host::<DirectoryEntries>(),
        _ => return None,
    })
}

/// `clocks/wall-clock` of `wasi:clocks/wall-clock@0.2.6`.
pub(super) fn interface(import: &str) -> Option<&str> {
    let name = import.strip_prefix("wasi:")?;
    Some(name.split_once('@').map_or(name, |(name, _)| name))
}

type Caller<'a> = StoreContextMut<'a, GuestState>;

fn define(interface: &str, at: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    match interface {
        "clocks/wall-clock" => {
            at.func_wrap("now", |store: Caller<'_>, (): ()| {
                let ms = store.data().time_ms();
                Ok((Datetime { seconds: ms / 1000, nanoseconds: (ms % 1000) as u32 * 1_000_000 },))
            })?;
            at.func_wrap("resolution", |_: Caller<'_>, (): ()| Ok((Datetime { seconds: 0, nanoseconds: 1_000_000 },)))
        }
        "clocks/monotonic-clock" => {
            at.func_wrap("now", |store: Caller<'_>, (): ()| Ok((store.data().since_start_ms() * 1_000_000,)))?;
            at.func_wrap("resolution", |_: Caller<'_>, (): ()| Ok((1_000_000u64,)))
        }
        "random/random" => {
            at.func_wrap("get-random-bytes", |store: Caller<'_>, (len,): (u64,)| random_bytes(store, len))?;
            at.func_wrap("get-random-u64", |store: Caller<'_>, (): ()| random_u64(store))
        }
        "random/insecure" => {
            at.func_wrap("get-insecure-random-bytes", |store: Caller<'_>, (len,): (u64,)| random_bytes(store, len))?;
            at.func_wrap("get-insecure-random-u64", |store: Caller<'_>, (): ()| random_u64(store))
        }
        "random/insecure-seed" => at.func_wrap("insecure-seed", |mut store: Caller<'_>, (): ()| {
            let state = store.data_mut();
            Ok(((state.random_u64(), state.random_u64()),))
        }),
        "cli/environment" => {
            at.func_wrap("get-environment", |_: Caller<'_>, (): ()| Ok((Vec::<(String, String)>::new(),)))?;
            at.func_wrap("get-arguments", |_: Caller<'_>, (): ()| Ok((Vec::<String>::new(),)))?;
            at.func_wrap("initial-cwd", |_: Caller<'_>, (): ()| Ok((None::<String>,)))
        }
        "cli/exit" => {
            at.func_wrap("exit", |_: Caller<'_>, (status,): (Result<(), ()>,)| -> Result<()> { exit(status.is_ok()) })
        }
        "cli/stdin" => at.func_wrap("get-stdin", |store: Caller<'_>, (): ()| Ok((given::<InputStream>(store, OTHER),))),
        "cli/stdout" => {
            at.func_wrap("get-stdout", |store: Caller<'_>, (): ()| Ok((given::<OutputStream>(store, STDOUT),)))
        }
        "cli/stderr" => {
            at.func_wrap("get-stderr", |store: Caller<'_>, (): ()| Ok((given::<OutputStream>(store, STDERR),)))
        }
        "cli/terminal-stdin" => at.func_wrap("get-terminal-stdin", no_terminal),
        "cli/terminal-stdout" => at.func_wrap("get-terminal-stdout", no_terminal),
        "cli/terminal-stderr" => at.func_wrap("get-terminal-stderr", no_terminal),
        "io/streams" => define_streams(at),
        // What the C library may wait for is a stream that is always ready.
        "io/poll" => {
            at.func_wrap("[method]pollable.ready", |_: Caller<'_>, (_,): (Resource<Pollable>,)| Ok((true,)))?;
            at.func_wrap("[method]pollable.block", |_: Caller<'_>, (_,): (Resource<Pollable>,)| Ok(()))
        }
        "filesystem/preopens" => {
            at.func_wrap("get-directories", |_: Caller<'_>, (): ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))
        }
        _ => Ok(()),
    }
}

fn define_streams(at: &mut LinkerInstance<'_, GuestState>) -> Result<()> {
    type Written<T> = std::result::Result<T, StreamError>;
    at.func_wrap("[method]output-stream.check-write", |_: Caller<'_>, (_,): (Resource<OutputStream>,)| {
        Ok((Written::Ok(LINE_BYTES as u64),))
    })?;
    for name in ["[method]output-stream.write", "[method]output-stream.blocking-write-and-flush"] {
        at.func_wrap(name, |mut store: Caller<'_>, (stream, bytes): (Resource<OutputStream>, Vec<u8>)| {
            store.data_mut().written(stream.rep() & 3, &bytes);
            Ok((Written::Ok(()),))
        })?;
    }
    at.func_wrap("[method]output-stream.subscribe", |store: Caller<'_>, (_,): (Resource<OutputStream>,)| {
        Ok((given::<Pollable>(store, OTHER),))
    })?;
    for name in ["[method]output-stream.flush", "[method]output-stream.blocking-flush"] {
        at.func_wrap(name, |_: Caller<'_>, (_,): (Resource<OutputStream>,)| Ok((Written::Ok(()),)))?;
    }
    Ok(())
}

/// `datetime` of `wasi:clocks/wall-clock`.
#[derive(wasmtime::component::ComponentType, wasmtime::component::Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// `stream-error` of `wasi:io/streams`. Never given: writing a log cannot fail.
#[derive(wasmtime::component::ComponentType, wasmtime::component::Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "the type must be whole")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    #[allow(dead_code, reason = "the type must be whole")]
    Closed,
}

/// A handle that the guest owns from here on.
fn given<T: 'static>(mut store: Caller<'_>, kind: u32) -> Resource<T> {
    Resource::new_own(store.data_mut().handles.give(kind))
}

fn no_terminal(_: Caller<'_>, (): ()) -> Result<(Option<Resource<Terminal>>,)> {
    Ok((None,))
}

/// What becomes of a guest that ends its process.
pub(super) fn exit(successfully: bool) -> Result<()> {
    let how = if successfully { "0" } else { "1" };
    Err(wasmtime::format_err!("the orchestration called exit({how}); return from it instead"))
}

/// Random bytes are not given in any number.
pub(super) fn refuse_random(len: u64) -> Result<()> {
    const MOST: u64 = 1 << 20;
    if len > MOST {
        wasmtime::bail!("{len} random bytes asked for at once, at most {MOST} are given; ask in parts");
    }
    Ok(())
}

fn random_bytes(mut store: Caller<'_>, len: u64) -> Result<(Vec<u8>,)> {
    refuse_random(len)?;
    let mut bytes = vec![0; len as usize];
    store.data_mut().fill_random(&mut bytes);
    Ok((bytes,))
}

fn random_u64(mut store: Caller<'_>) -> Result<(u64,)> {
    Ok((store.data_mut().random_u64(),))
}

impl GuestState {
    pub(super) fn time_ms(&self) -> u64 {
        self.recorder.as_ref().map_or(0, |recorder| recorder.turn_time().0)
    }

    pub(super) fn since_start_ms(&self) -> u64 {
        self.recorder.as_ref().map_or(0, |recorder| recorder.turn_time().since(recorder.execution.started_at))
    }

    pub(super) fn fill_random(&mut self, bytes: &mut [u8]) {
        // `describe` has no seed: what it says must not depend on one.
        bytes.fill(0);
        if let Some(recorder) = &mut self.recorder {
            recorder.wasi_random(bytes);
        }
    }

    pub(super) fn random_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Standard output and error: each line is one log line.
    pub(super) fn written(&mut self, stream: u32, bytes: &[u8]) {
        let (level, index) = if stream == STDERR { (LogLevel::Warn, 1) } else { (LogLevel::Info, 0) };
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let line = &mut self.lines.0[index];
            line.extend_from_slice(part);
            if !line.ends_with(b"\n") && line.len() < LINE_BYTES {
                continue;
            }
            let message = String::from_utf8_lossy(line).trim_end().to_owned();
            line.clear();
            if let Some(recorder) = &mut self.recorder {
                let target = if index == 1 { "stderr" } else { "stdout" }.to_owned();
                recorder.log(LogLine { level, target, message, fields: Vec::new() });
            }
        }
    }
}

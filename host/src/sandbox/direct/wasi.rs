//! Virtual WASI for a guest that is called directly: the same answers as in
//! [`crate::sandbox::wasi`], by words and addresses. What is not here is there to link, and
//! traps with its name.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Caller, Linker, Result};

use super::handles::Kind;
use super::imports::Asking;
use super::memory::{Fields, Layout, Lower, Store, larger, record};
use super::{Direct, answer, with};
use crate::sandbox::guest::GuestState;
use crate::sandbox::types::Tag;
use crate::sandbox::wasi::{LINE_BYTES, STDERR, STDOUT, exit, refuse_random};

/// `datetime` of `wasi:clocks/wall-clock`.
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

impl Datetime {
    fn of(time: Duration) -> Self {
        Self { seconds: time.as_secs(), nanoseconds: time.subsec_nanos() }
    }
}

record!(Datetime { seconds: u64, nanoseconds: u32 } store);

/// The two words of `wasi:random/insecure-seed`.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    pub(super) low: u64,
    pub(super) high: u64,
}

record!(Seed { low: u64, high: u64 } store);

/// `stream-error` of `wasi:io/streams`. Never given: writing a log cannot fail.
enum StreamError {}

impl Layout for StreamError {
    const SIZE: usize = 8;
    const ALIGN: usize = 4;
}

impl Store for StreamError {
    fn store<S: Direct>(&self, _: &mut Lower<'_, S>, _: usize) -> Result<()> {
        match *self {}
    }
}

impl Layout for () {
    const SIZE: usize = 0;
    const ALIGN: usize = 1;
}

impl Store for () {
    fn store<S: Direct>(&self, _: &mut Lower<'_, S>, _: usize) -> Result<()> {
        Ok(())
    }
}

type Written<T> = std::result::Result<T, StreamError>;

/// What WASI tells and what changes nothing by that.
pub(super) trait Tells: Direct {
    /// The time since 1970.
    fn wall_clock(&self) -> Duration;
    /// How fine that is.
    fn wall_clock_resolution(&self) -> Duration;
    /// Nanoseconds since some moment.
    fn monotonic_clock(&mut self) -> u64;
    /// How fine that is, nanoseconds.
    fn monotonic_clock_resolution(&mut self) -> u64;
    /// # Errors
    /// If these are too many at once.
    fn random(&mut self, len: u64) -> Result<Arc<[u8]>>;
    fn random_word(&mut self) -> u64;
    fn seed(&mut self) -> Seed;
    fn environment(&self) -> Vec<Tag>;
}

impl Tells for GuestState {
    fn wall_clock(&self) -> Duration {
        Duration::from_millis(self.time_ms())
    }

    fn wall_clock_resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn monotonic_clock(&mut self) -> u64 {
        self.since_start_ms() * 1_000_000
    }

    fn monotonic_clock_resolution(&mut self) -> u64 {
        1_000_000
    }

    fn random(&mut self, len: u64) -> Result<Arc<[u8]>> {
        refuse_random(len)?;
        let mut bytes = vec![0; len as usize];
        self.fill_random(&mut bytes);
        Ok(bytes.into())
    }

    fn random_word(&mut self) -> u64 {
        self.random_u64()
    }

    fn seed(&mut self) -> Seed {
        Seed { low: self.random_u64(), high: self.random_u64() }
    }

    fn environment(&self) -> Vec<Tag> {
        Vec::new()
    }
}

/// Defines what of one interface is only told, under the very name that a module uses.
pub(super) fn define_told<S: Tells>(linker: &mut Linker<S>, interface: &str, name: &str) -> Result<()> {
    match interface {
        "clocks/wall-clock" => define_wall_clock(linker, name),
        "clocks/monotonic-clock" => {
            linker.func_wrap(name, "now", |mut asking: Caller<'_, S>| {
                with(&mut asking, |_, state| Ok(state.monotonic_clock()))
            })?;
            linker.func_wrap(name, "resolution", |mut asking: Caller<'_, S>| {
                with(&mut asking, |_, state| Ok(state.monotonic_clock_resolution()))
            })?;
            Ok(())
        }
        "random/random" => define_random(linker, name, "get-random-bytes", "get-random-u64"),
        "random/insecure" => define_random(linker, name, "get-insecure-random-bytes", "get-insecure-random-u64"),
        "random/insecure-seed" => {
            linker.func_wrap(name, "insecure-seed", |mut asking: Caller<'_, S>, at: u32| {
                let seed = with(&mut asking, |_, state| Ok(state.seed()))?;
                answer(&mut asking, &seed, at)
            })?;
            Ok(())
        }
        "cli/environment" => define_environment(linker, name),
        "filesystem/preopens" => define_empty(linker, name, "get-directories"),
        _ => Ok(()),
    }
}

/// Defines one interface under the very name that a module uses.
pub(super) fn define(linker: &mut Linker<GuestState>, interface: &str, name: &str) -> Result<()> {
    match interface {
        "cli/exit" => {
            linker.func_wrap(name, "exit", |status: u32| exit(status == 0))?;
            Ok(())
        }
        "cli/stdin" => define_given(linker, name, "get-stdin", Kind::Stdin),
        "cli/stdout" => define_given(linker, name, "get-stdout", Kind::Stdout),
        "cli/stderr" => define_given(linker, name, "get-stderr", Kind::Stderr),
        "cli/terminal-stdin" => define_none(linker, name, "get-terminal-stdin"),
        "cli/terminal-stdout" => define_none(linker, name, "get-terminal-stdout"),
        "cli/terminal-stderr" => define_none(linker, name, "get-terminal-stderr"),
        "io/streams" => define_streams(linker, name),
        "io/poll" => {
            linker.func_wrap(name, "[method]pollable.ready", |mut asking: Asking<'_>, pollable: u32| {
                held(&mut asking, pollable, "pollable").map(|_| 1u32)
            })?;
            linker.func_wrap(name, "[method]pollable.block", |mut asking: Asking<'_>, pollable: u32| {
                held(&mut asking, pollable, "pollable").map(|_| ())
            })?;
            Ok(())
        }
        _ => define_told(linker, interface, name),
    }
}

/// Defines how a handle of that resource is given back.
pub(super) fn define_drop(linker: &mut Linker<GuestState>, name: &str, function: &str, resource: &str) -> Result<()> {
    let resource = resource.to_owned();
    linker.func_wrap(name, function, move |mut asking: Asking<'_>, handle: u32| {
        with(&mut asking, |_, state| state.direct.handles.give_back(handle, &resource))
    })?;
    Ok(())
}

fn held(asking: &mut Asking<'_>, handle: u32, resource: &str) -> Result<Kind> {
    with(asking, |_, state| state.direct.handles.lent(handle, resource))
}

fn define_wall_clock<S: Tells>(linker: &mut Linker<S>, name: &str) -> Result<()> {
    linker.func_wrap(name, "now", |mut asking: Caller<'_, S>, at: u32| {
        let time = with(&mut asking, |_, state| Ok(state.wall_clock()))?;
        answer(&mut asking, &Datetime::of(time), at)
    })?;
    linker.func_wrap(name, "resolution", |mut asking: Caller<'_, S>, at: u32| {
        let resolution = with(&mut asking, |_, state| Ok(state.wall_clock_resolution()))?;
        answer(&mut asking, &Datetime::of(resolution), at)
    })?;
    Ok(())
}

fn define_random<S: Tells>(linker: &mut Linker<S>, name: &str, bytes: &str, word: &str) -> Result<()> {
    linker.func_wrap(name, bytes, |mut asking: Caller<'_, S>, len: u64, at: u32| {
        let bytes = with(&mut asking, |_, state| state.random(len))?;
        answer(&mut asking, &bytes, at)
    })?;
    linker.func_wrap(name, word, |mut asking: Caller<'_, S>| with(&mut asking, |_, state| Ok(state.random_word())))?;
    Ok(())
}

fn define_environment<S: Tells>(linker: &mut Linker<S>, name: &str) -> Result<()> {
    linker.func_wrap(name, "get-environment", |mut asking: Caller<'_, S>, at: u32| {
        let environment = with(&mut asking, |_, state| Ok(state.environment()))?;
        answer(&mut asking, &environment, at)
    })?;
    define_empty(linker, name, "get-arguments")?;
    linker.func_wrap(name, "initial-cwd", |mut asking: Caller<'_, S>, at: u32| {
        answer(&mut asking, &None::<String>, at)
    })?;
    Ok(())
}

/// Defines what answers with a list that is empty: whatever it is of, its words are the same.
fn define_empty<S: Direct>(linker: &mut Linker<S>, name: &str, function: &str) -> Result<()> {
    linker
        .func_wrap(name, function, |mut asking: Caller<'_, S>, at: u32| answer(&mut asking, &Vec::<Tag>::new(), at))?;
    Ok(())
}

/// Defines what answers that there is no handle.
fn define_none(linker: &mut Linker<GuestState>, name: &str, function: &str) -> Result<()> {
    linker.func_wrap(name, function, |mut asking: Asking<'_>, at: u32| answer(&mut asking, &None::<u32>, at))?;
    Ok(())
}

/// Defines what answers with a new handle.
fn define_given(linker: &mut Linker<GuestState>, name: &str, function: &str, kind: Kind) -> Result<()> {
    linker.func_wrap(name, function, move |mut asking: Asking<'_>| {
        with(&mut asking, |_, state| state.direct.handles.give(kind))
    })?;
    Ok(())
}

fn define_streams(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    linker.func_wrap(name, "[method]output-stream.check-write", |mut asking: Asking<'_>, stream: u32, at: u32| {
        held(&mut asking, stream, "output-stream")?;
        answer(&mut asking, &Written::Ok(LINE_BYTES as u64), at)
    })?;
    for function in ["[method]output-stream.write", "[method]output-stream.blocking-write-and-flush"] {
        linker.func_wrap(name, function, |mut asking: Asking<'_>, stream: u32, bytes: u32, len: u32, at: u32| {
            with(&mut asking, |memory, state| {
                let kind = state.direct.handles.lent(stream, "output-stream")?;
                let bytes = super::memory::bytes(memory, bytes, len)?;
                state.written(if kind == Kind::Stderr { STDERR } else { STDOUT }, bytes);
                Ok(())
            })?;
            answer(&mut asking, &Written::Ok(()), at)
        })?;
    }
    linker.func_wrap(name, "[method]output-stream.subscribe", |mut asking: Asking<'_>, stream: u32| {
        held(&mut asking, stream, "output-stream")?;
        with(&mut asking, |_, state| state.direct.handles.give(Kind::Pollable))
    })?;
    for function in ["[method]output-stream.flush", "[method]output-stream.blocking-flush"] {
        linker.func_wrap(name, function, |mut asking: Asking<'_>, stream: u32, at: u32| {
            held(&mut asking, stream, "output-stream")?;
            answer(&mut asking, &Written::Ok(()), at)
        })?;
    }
    Ok(())
}

//! Virtual WASI for a guest that is called directly: the same answers as in
//! [`crate::sandbox::wasi`], by words and addresses. What is not here is there to link, and
//! traps with its name.

use wasmtime::{Linker, Result};

use super::handles::Kind;
use super::imports::Asking;
use super::memory::{Fields, Layout, Lower, Store, larger, record};
use super::{Direct, answer, with};
use crate::sandbox::guest::GuestState;
use crate::sandbox::types::Tag;
use crate::sandbox::wasi::{LINE_BYTES, STDERR, STDOUT, exit, refuse_random};

/// `datetime` of `wasi:clocks/wall-clock`.
pub(super) struct Datetime {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
}

record!(Datetime { seconds: u64, nanoseconds: u32 } store);

/// The two words of `wasi:random/insecure-seed`.
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

/// Defines one interface under the very name that a module uses.
pub(super) fn define(linker: &mut Linker<GuestState>, interface: &str, name: &str) -> Result<()> {
    match interface {
        "clocks/wall-clock" => define_wall_clock(linker, name),
        "clocks/monotonic-clock" => {
            linker.func_wrap(name, "now", |mut asking: Asking<'_>| {
                with(&mut asking, |_, state| Ok(state.since_start_ms() * 1_000_000))
            })?;
            linker
                .func_wrap(name, "resolution", |mut asking: Asking<'_>| with(&mut asking, |_, _| Ok(1_000_000u64)))?;
            Ok(())
        }
        "random/random" => define_random(linker, name, "get-random-bytes", "get-random-u64"),
        "random/insecure" => define_random(linker, name, "get-insecure-random-bytes", "get-insecure-random-u64"),
        "random/insecure-seed" => {
            linker.func_wrap(name, "insecure-seed", |mut asking: Asking<'_>, at: u32| {
                let seed =
                    with(&mut asking, |_, state| Ok(Seed { low: state.random_u64(), high: state.random_u64() }))?;
                answer(&mut asking, &seed, at)
            })?;
            Ok(())
        }
        "cli/environment" => define_environment(linker, name),
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
        "filesystem/preopens" => define_empty(linker, name, "get-directories"),
        _ => Ok(()),
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

fn define_wall_clock(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    linker.func_wrap(name, "now", |mut asking: Asking<'_>, at: u32| {
        let ms = with(&mut asking, |_, state| Ok(state.time_ms()))?;
        answer(&mut asking, &Datetime { seconds: ms / 1000, nanoseconds: (ms % 1000) as u32 * 1_000_000 }, at)
    })?;
    linker.func_wrap(name, "resolution", |mut asking: Asking<'_>, at: u32| {
        answer(&mut asking, &Datetime { seconds: 0, nanoseconds: 1_000_000 }, at)
    })?;
    Ok(())
}

fn define_random(linker: &mut Linker<GuestState>, name: &str, bytes: &str, word: &str) -> Result<()> {
    linker.func_wrap(name, bytes, |mut asking: Asking<'_>, len: u64, at: u32| {
        refuse_random(len)?;
        let mut bytes = vec![0; len as usize];
        with(&mut asking, |_, state| {
            state.fill_random(&mut bytes);
            Ok(())
        })?;
        answer(&mut asking, &std::sync::Arc::<[u8]>::from(bytes), at)
    })?;
    linker.func_wrap(name, word, |mut asking: Asking<'_>| with(&mut asking, |_, state| Ok(state.random_u64())))?;
    Ok(())
}

fn define_environment(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    define_empty(linker, name, "get-environment")?;
    define_empty(linker, name, "get-arguments")?;
    linker
        .func_wrap(name, "initial-cwd", |mut asking: Asking<'_>, at: u32| answer(&mut asking, &None::<String>, at))?;
    Ok(())
}

/// Defines what answers with a list that is empty: whatever it is of, its words are the same.
fn define_empty(linker: &mut Linker<GuestState>, name: &str, function: &str) -> Result<()> {
    linker.func_wrap(name, function, |mut asking: Asking<'_>, at: u32| answer(&mut asking, &Vec::<Tag>::new(), at))?;
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

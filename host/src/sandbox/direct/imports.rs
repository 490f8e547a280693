//! The `context` imports of a guest that is called directly: each takes its arguments from the
//! guest's memory, calls what the component's import calls, and puts the answer where the guest
//! wants it.

use wasmtime::{Caller, Linker, Result};

use super::contract::{CallActivity, CallOrchestration, PayloadWords, payload};
use super::memory::{Lift, list, load, string};
use super::{Direct, answer, with};
use crate::sandbox::bindings::orchestration::dacapo::workflow::context::{EntityId, Host};
use crate::sandbox::guest::GuestState;
use crate::sandbox::types::{Failure, FailureKind, LogLevel, LogLine, Payload, Tag};

pub(super) type Asking<'a> = Caller<'a, GuestState>;

/// Defines the interface under the very name that a module uses.
pub(super) fn define(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    define_values(linker, name)?;
    define_operations(linker, name)?;
    define_appearances(linker, name)
}

fn define_values(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    linker.func_wrap(name, "info", |mut asking: Asking<'_>, at: u32| {
        let info = with(&mut asking, |_, state| state.info())?;
        answer(&mut asking, &info, at)
    })?;
    linker.func_wrap(name, "now", |mut asking: Asking<'_>| with(&mut asking, |_, state| state.now()))?;
    linker.func_wrap(name, "random", |mut asking: Asking<'_>| with(&mut asking, |_, state| state.random()))?;
    linker.func_wrap(name, "new-guid", |mut asking: Asking<'_>, at: u32| {
        let guid = with(&mut asking, |_, state| state.new_guid())?;
        answer(&mut asking, &guid, at)
    })?;
    linker.func_wrap(
        name,
        "record-value",
        |mut asking: Asking<'_>, what: u32, len: u32, v0: u32, v1: u32, v2: u32, v3: u32, at: u32| {
            let recorded = with(&mut asking, |memory, state| {
                state.record_value(string(memory, what, len)?, payload(memory, (v0, v1, v2, v3))?)
            })?;
            answer(&mut asking, &recorded, at)
        },
    )?;
    linker.func_wrap(name, "patched", |mut asking: Asking<'_>, id: u32, len: u32| {
        with(&mut asking, |memory, state| state.patched(string(memory, id, len)?)).map(u32::from)
    })?;
    Ok(())
}

fn define_operations(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    // More than sixteen words of arguments stand in memory.
    linker.func_wrap(name, "call-activity", |mut asking: Asking<'_>, at: u32| {
        with(&mut asking, |memory, state| {
            let CallActivity { name, input, options } = load(memory, at)?;
            state.call_activity(name, input, options)
        })
    })?;
    linker.func_wrap(name, "call-orchestration", |mut asking: Asking<'_>, at: u32| {
        with(&mut asking, |memory, state| {
            let CallOrchestration { name, input, options } = load(memory, at)?;
            state.call_orchestration(name, input, options)
        })
    })?;
    linker.func_wrap(name, "delay", |mut asking: Asking<'_>, ms: i64, at: u32| {
        let operation = with(&mut asking, |_, state| state.delay(ms))?;
        answer(&mut asking, &operation, at)
    })?;
    linker.func_wrap(name, "wait-for-event", |mut asking: Asking<'_>, event: u32, len: u32| {
        with(&mut asking, |memory, state| state.wait_for_event(string(memory, event, len)?))
    })?;
    linker.func_wrap(name, "received", |mut asking: Asking<'_>, operation: u32| {
        with(&mut asking, |_, state| state.received(operation))
    })?;
    linker.func_wrap(
        name,
        "signal",
        |mut asking: Asking<'_>, to: u32, to_len: u32, event: u32, len: u32, v0: u32, v1: u32, v2: u32, v3: u32| {
            with(&mut asking, |memory, state| {
                let (to, event) = (string(memory, to, to_len)?, string(memory, event, len)?);
                state.signal(to, event, payload(memory, (v0, v1, v2, v3))?)
            })
        },
    )?;
    define_entities(linker, name)?;
    linker.func_wrap(name, "cancel", |mut asking: Asking<'_>, operation: u32| {
        with(&mut asking, |_, state| state.cancel(operation))
    })?;
    Ok(())
}

fn define_entities(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    linker.func_wrap(
        name,
        "call-entity",
        |mut asking: Asking<'_>,
         kind: u32,
         kind_len: u32,
         key: u32,
         key_len: u32,
         what: u32,
         len: u32,
         v0: u32,
         v1: u32,
         v2: u32,
         v3: u32,
         one_way: u32| {
            with(&mut asking, |memory, state| {
                let (kind, key) = (string(memory, kind, kind_len)?, string(memory, key, key_len)?);
                let input = payload(memory, (v0, v1, v2, v3));
                state.call_entity(kind, key, string(memory, what, len)?, input?, one_way != 0)
            })
        },
    )?;
    linker.func_wrap(name, "lock-entities", |mut asking: Asking<'_>, entities: u32, len: u32| {
        with(&mut asking, |memory, state| state.lock_entities(list::<EntityId>(memory, entities, len)?))
    })?;
    linker.func_wrap(name, "unlock-entities", |mut asking: Asking<'_>, lock: u32| {
        with(&mut asking, |_, state| state.unlock_entities(lock))
    })?;
    Ok(())
}

fn define_appearances(linker: &mut Linker<GuestState>, name: &str) -> Result<()> {
    linker.func_wrap(
        name,
        "respond",
        // A result's words are those of its longer case; the other one uses the first of them.
        |mut asking: Asking<'_>,
         request: u32,
         case: u32,
         w0: u32,
         w1: u32,
         w2: u32,
         w3: u32,
         w4: u32,
         w5: u32,
         w6: u32,
         d0: u32,
         d1: u32,
         d2: u32,
         d3: u32| {
            with(&mut asking, |memory, state| {
                let answer = match case {
                    0 => Ok(payload(memory, (w0, w1, w2, w3))?),
                    1 => Err(Failure {
                        kind: FailureKind::numbered(w0)?,
                        error_type: string(memory, w1, w2)?,
                        message: string(memory, w3, w4)?,
                        non_retryable: w5 != 0,
                        details: details(memory, w6, (d0, d1, d2, d3))?,
                    }),
                    other => wasmtime::bail!("a result begins with 0 or 1, not with {other}"),
                };
                state.respond(request, answer)
            })
        },
    )?;
    linker.func_wrap(name, "set-custom-status", |mut asking: Asking<'_>, v0: u32, v1: u32, v2: u32, v3: u32| {
        with(&mut asking, |memory, state| state.set_custom_status(payload(memory, (v0, v1, v2, v3))?))
    })?;
    linker.func_wrap(name, "set-tag", |mut asking: Asking<'_>, tag: u32, tag_len: u32, value: u32, len: u32| {
        with(&mut asking, |memory, state| {
            let (name, value) = (string(memory, tag, tag_len)?, string(memory, value, len)?);
            state.set_tag(Tag { name, value })
        })
    })?;
    define_log(linker, name, |state: &mut GuestState, line| state.log(line))
}

/// Defines `log`, which both contracts have.
pub(super) fn define_log<S: Direct>(
    linker: &mut Linker<S>,
    name: &str,
    log: impl Fn(&mut S, LogLine) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    linker.func_wrap(
        name,
        "log",
        move |mut asking: Caller<'_, S>,
              level: u32,
              target: u32,
              target_len: u32,
              message: u32,
              len: u32,
              fields: u32,
              count: u32| {
            with(&mut asking, |memory, state| {
                let line = LogLine {
                    level: LogLevel::numbered(level)?,
                    target: string(memory, target, target_len)?,
                    message: string(memory, message, len)?,
                    fields: list(memory, fields, count)?,
                };
                log(state, line)
            })
        },
    )?;
    Ok(())
}

fn details(memory: &Lift<'_>, some: u32, words: PayloadWords) -> Result<Option<Payload>> {
    match some {
        0 => Ok(None),
        1 => payload(memory, words).map(Some),
        other => wasmtime::bail!("an option begins with 0 or 1, not with {other}"),
    }
}

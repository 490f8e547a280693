//! `dacapo testkit`: the other end of the SDK's test kit. A test asks on stdin,
//! one JSON a line, and is answered on stdout, one line each. The program ends
//! with its stdin, and so with the test.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{CliError, Result};
use crate::core::execution::End;
use crate::core::ids::OperationId;
use crate::core::payload::{Failure, Outcome, Payload};
use crate::replay::explore::Call;
use crate::replay::kit::{Kit, Next};
use crate::replay::life::{Inbound, Life};
use crate::replay::recording::Recording;
use crate::replay::subject::Subject;
use crate::replay::{Unwatched, replay};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    /// Build what is there, once, first of all.
    Open {
        path: PathBuf,
    },
    /// Build another module, and call it by that name.
    Module {
        name: String,
        path: PathBuf,
    },
    Start {
        id: String,
        orchestration: String,
        input: Value,
    },
    Raise {
        id: String,
        name: String,
        value: Value,
    },
    Cancel {
        id: String,
        reason: String,
    },
    Terminate {
        id: String,
        reason: String,
    },
    /// Somebody asks for something; its number is answered.
    Update {
        id: String,
        name: String,
        input: Value,
    },
    /// What an update was answered with.
    Answer {
        id: String,
        update: u32,
    },
    /// The instance's code is asked for its state.
    Query {
        id: String,
        name: String,
        input: Value,
    },
    Outcome {
        id: String,
        execution: u32,
        operation: OperationId,
        attempt: u32,
        outcome: Result<Value, Failure>,
    },
    Next,
    Advance {
        ms: u64,
    },
    Crash,
    /// Replay everything that ran.
    Check,
    End {
        id: String,
    },
    History {
        id: String,
    },
    /// Everything that was started or called, in order.
    Instances,
    Logs,
    Save {
        id: String,
        path: PathBuf,
    },
    /// Replay a recording with the module under test.
    Replay {
        path: PathBuf,
    },
}

type Answer = Result<Value, String>;

pub(super) fn run() -> Result<()> {
    let mut kit = None;
    let broken = |error: std::io::Error| CliError::host(format!("the test is gone: {error}"));
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(broken)?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => answer(&mut kit, request),
            Err(error) => {
                Err(format!("not a request of the test kit: {error}; use the kit and the command of one version"))
            }
        };
        let answer = answer.map_or_else(|error| json!({ "error": error }), |ok| json!({ "ok": ok }));
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).map_err(broken)?;
    }
    Ok(())
}

fn answer(open: &mut Option<Kit>, request: Request) -> Answer {
    if let Request::Open { path } = request {
        let subject = Subject::open(&path).map_err(text)?;
        let orchestrations: Vec<_> = subject.orchestrations().map(str::to_owned).collect();
        *open = Some(Kit::new(subject));
        return Ok(json!(orchestrations));
    }
    let kit = open.as_mut().ok_or("nothing is open")?;
    let deliver = |kit: &mut Kit, id: &str, inbound| kit.deliver(id, inbound).map(|()| Value::Null).map_err(text);
    match request {
        Request::Module { name, path } => {
            kit.module(&name, Subject::open(&path).map_err(text)?);
            Ok(Value::Null)
        }
        Request::Open { .. } | Request::Start { .. } | Request::Next => go_on(kit, request),
        Request::Raise { id, name, value } => deliver(kit, &id, Inbound::Event(name, payload(&value))),
        Request::Cancel { id, reason } => deliver(kit, &id, Inbound::Cancel(reason)),
        Request::Terminate { id, reason } => deliver(kit, &id, Inbound::Terminate(reason)),
        Request::Update { id, name, input } => kit.update(&id, &name, payload(&input)).map(|n| json!(n)).map_err(text),
        Request::Answer { id, update } => kit.answer(&id, update).map(|answer| json!(answer.map(told))).map_err(text),
        Request::Query { id, name, input } => kit.query(&id, &name, payload(&input)).map(told).map_err(text),
        Request::Outcome { id, execution, operation, attempt, outcome } => {
            if kit.life(&id).map_err(text)?.execution.started.execution != execution {
                return Ok(Value::Null);
            }
            let outcome = outcome.map(|result| payload(&result));
            deliver(kit, &id, Inbound::Outcome(operation, attempt, outcome))
        }
        Request::Advance { ms } => {
            kit.advance(ms);
            Ok(Value::Null)
        }
        Request::Crash => {
            kit.crash();
            Ok(Value::Null)
        }
        Request::Check => kit.check().map(|()| Value::Null).map_err(text),
        Request::End { id } => kit.life(&id).map(end).map_err(text),
        Request::History { id } => {
            let life = kit.life(&id).map_err(text)?;
            Ok(life.events().map(crate::core::event::Event::to_json).collect())
        }
        Request::Instances => Ok(json!(kit.instances().collect::<Vec<_>>())),
        Request::Logs => {
            Ok(kit.logs.iter().map(|(id, line)| json!({ "instance": id, "line": line.to_string() })).collect())
        }
        Request::Save { id, path } => save(kit, &id, &path),
        Request::Replay { path } => replay_file(kit, &path),
    }
}

fn go_on(kit: &mut Kit, request: Request) -> Answer {
    if let Request::Start { id, orchestration, input } = request {
        return kit.start(&id, &orchestration, payload(&input)).map(|()| Value::Null).map_err(text);
    }
    Ok(match kit.go_on().map_err(text)? {
        Next::Task(call) => json!({ "task": task(&call) }),
        Next::Due(ms) => json!({ "due": ms }),
        Next::Idle => Value::Null,
    })
}

fn task(call: &Call) -> Value {
    json!({
        "instance": call.instance,
        "execution": call.execution,
        "operation": call.operation,
        "attempt": call.attempt,
        "name": call.name,
        "input": call.payload.to_json(),
        "idempotency_key": call.idempotency_key(),
    })
}

fn end(life: &Life) -> Value {
    match &life.execution.end {
        None => Value::Null,
        Some(End::Completed(output) | End::ContinuedAsNew(output)) => json!({ "completed": output }),
        Some(End::Failed(failure)) => json!({ "failed": failure }),
        Some(End::Terminated(reason)) => json!({ "terminated": reason }),
    }
}

fn told(outcome: Outcome) -> Value {
    match outcome {
        Ok(output) => json!({ "completed": output }),
        Err(failure) => json!({ "failed": failure }),
    }
}

fn save(kit: &mut Kit, id: &str, path: &Path) -> Answer {
    let recording = kit.life(id).map_err(text)?.recording(None).map_err(text)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    std::fs::write(path, recording.encode()).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Value::Null)
}

fn replay_file(kit: &Kit, path: &Path) -> Answer {
    let at = |error: String| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| at(error.to_string()))?;
    let turns = Recording::decode(&bytes).and_then(|recording| recording.records());
    let replayed = replay(&kit.subject().module, &turns.map_err(|error| at(error.to_string()))?, &mut Unwatched);
    match (replayed.divergence, replayed.error) {
        (Some(divergence), _) => Err(at(divergence.to_string())),
        (None, Some(error)) => Err(at(error)),
        (None, None) => Ok(json!(replayed.events)),
    }
}

fn payload(value: &Value) -> Payload {
    Payload::json(value.to_string())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

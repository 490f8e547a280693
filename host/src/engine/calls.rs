//! Sub-orchestrations, as the workers of caller and called handle them; see
//! [`crate::core::calls`] for what holds.

use super::commit::Reply;
use super::error::EngineError;
use super::mail::{PassedOn, Posted, send};
use super::turns::{Inbound, Message, Worker, WorkerLink, being_removed, fresh_seed};
use crate::core::calls::{Call, Caller, Holder, Leave, Meets, ParentClose, refused};
use crate::core::event::Event;
use crate::core::execution::{End, Execution};
use crate::core::ids::{ExecutionNumber, InstanceId, TimestampMs};
use crate::core::mail::Source;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::summary::{Status, Summary};
use crate::core::turn::Recorder;

/// The instance that has the id of a call.
struct Found {
    execution: ExecutionNumber,
    status: Status,
    orchestration: String,
    caller: Option<Caller>,
    created_at: TimestampMs,
    /// What it ended with, if that is in memory.
    outcome: Option<Outcome>,
}

impl Worker {
    /// Somebody calls an instance. It may be there already: this call is sent again
    /// whenever its caller is recovered. `abandoned`: the caller has ended and wants
    /// to know only that the called one goes on.
    pub(super) fn call(&mut self, call: Box<Call>, abandoned: bool) {
        let id = call.scheduled.called(call.caller.attempt);
        let found = match self.find(&id) {
            Ok(found) => found,
            // Not answered; it is asked again when its caller is recovered.
            Err(error) => return tracing::error!(instance = ?id, %error, "a call is put off"),
        };
        let answer = match found {
            Some(found) if found.caller.as_ref() == Some(&call.caller) => self.outcome_of(&id, found),
            Some(found) => self.call_taken(&id, found, &call),
            None => self.begin_called(&call, None),
        };
        if abandoned {
            let Caller { instance, birth, execution, operation, .. } = call.caller;
            let reply = self.answer(Source { instance, birth, execution, operation }, Ok(Payload::null()));
            self.replies.push(reply);
        } else if let Some(outcome) = answer {
            // Answered when what it rests on is durable.
            self.replies.push(return_to(&self.parts.links, call.caller, outcome));
        }
    }

    fn find(&mut self, id: &InstanceId) -> Result<Option<Found>, EngineError> {
        if let Some(execution) = self.live_execution(id) {
            return Ok(Some(Found {
                execution: execution.started.execution,
                status: execution.status(),
                orchestration: execution.started.orchestration.clone(),
                caller: execution.started.caller.clone(),
                created_at: execution.started.created_at,
                outcome: outcome(execution),
            }));
        }
        Ok(self.store().summary(id)?.map(|summary| Found {
            execution: summary.execution,
            status: summary.status,
            orchestration: summary.orchestration,
            caller: summary.caller,
            created_at: summary.created_at,
            outcome: None,
        }))
    }

    /// What it ended with, if it has. If not, it tells by itself when it does.
    fn outcome_of(&self, id: &InstanceId, found: Found) -> Option<Outcome> {
        if !found.status.is_final() {
            return None;
        }
        found.outcome.or_else(|| super::view::outcome(self.store(), id).ok().flatten())
    }

    /// The id is taken by an instance that is not the answer to this call.
    fn call_taken(&mut self, id: &InstanceId, found: Found, call: &Call) -> Option<Outcome> {
        let Found { execution, status, created_at, .. } = found;
        match call.meets(Holder { orchestration: &found.orchestration, status, created_at }) {
            Meets::Fails(failure) => Some(Err(failure)),
            Meets::Joins => {
                if !status.is_final() {
                    self.joined.entry(id.clone()).or_default().push(call.caller.clone());
                }
                self.outcome_of(id, found)
            }
            Meets::Replaces => match self.make_way(id, status) {
                Ok(passed_on) => self.begin_called(call, Some((execution + 1, passed_on))),
                Err(error) => Some(Err(not_begun(&error))),
            },
        }
    }

    /// Begins the called instance, under an id that is free or was made so, or says why it cannot be.
    fn begin_called(&mut self, call: &Call, next_life: Option<(ExecutionNumber, PassedOn)>) -> Option<Outcome> {
        let (scheduled, options) = (&call.scheduled, &call.scheduled.options);
        let id = scheduled.called(call.caller.attempt);
        let module = match (&options.module, &options.version) {
            (None, _) => call.module.to_string(),
            (Some(name), None) => name.clone(),
            (Some(name), Some(version)) => format!("{name}@{version}"),
        };
        let module = match self.modules().resolve_in(&id.namespace(), &scheduled.name, Some(&module)) {
            Ok(module) if self.modules().is_retired(module.hash) => {
                return Some(Err(not_begun(&being_removed(module.hash))));
            }
            Ok(module) => module,
            Err(error) => return Some(Err(not_begun(&error))),
        };
        if let Err(error) = self.admit(&id, next_life.is_none()) {
            return Some(Err(not_begun(&error)));
        }
        let mut started = call.started(module.hash, fresh_seed(), self.now());
        if let Some((execution, passed_on)) = next_life {
            started.execution = execution;
            passed_on.to(&mut started);
        }
        self.begin(Box::new(started), Vec::new());
        None
    }

    /// The instance has ended: whoever called one that was there already is told.
    pub(super) fn tell_joined(&mut self, id: &InstanceId, outcome: &Outcome) {
        for caller in self.joined.remove(id).unwrap_or_default() {
            return_to(&self.parts.links, caller, outcome.clone())(Ok(()));
        }
    }

    /// Whether the caller of an instance that is taken over has left it meanwhile:
    /// the message may have been lost with the host that sent it.
    pub(super) fn left_by_caller(&mut self, summary: &Summary) -> Option<Posted> {
        let caller = summary.caller.as_ref().filter(|_| !summary.status.is_final())?;
        let now = self.store().summary(&caller.instance).ok()?.filter(|now| now.birth == caller.birth);
        let still = now.as_ref().filter(|now| now.execution == caller.execution && !now.status.is_final());
        let ended = match still {
            Some(now) if now.waits.contains_key(&caller.operation) => return None,
            Some(_) => false,
            None => now.is_none() || !self.had_let_go(caller),
        };
        let what = if ended { caller.parent_close } else { ParentClose::Cancel };
        leave_message(summary.instance.clone(), caller.clone(), what, ended)
    }

    /// Whether a caller that has ended had let go of that call before: only its history
    /// tells, which is read once for all that it called.
    fn had_let_go(&mut self, caller: &Caller) -> bool {
        if caller.parent_close == ParentClose::Cancel {
            return false;
        }
        let execution = (caller.instance.clone(), caller.execution);
        if !self.let_go_of.contains_key(&execution) {
            let history = self.store().history(&caller.instance, Some(caller.execution));
            let turns = history.and_then(|history| history.map(|turns| turns.decode()).transpose());
            let turns = turns.unwrap_or_else(|error| {
                tracing::error!(instance = %caller.instance, %error, "what it had let go of is not known");
                None
            });
            let let_go = |event: &Event| match event {
                // One that still runs has not failed: it was given up.
                Event::OperationCancelled { operation } | Event::OrchestrationFailed { operation, .. } => {
                    Some(*operation)
                }
                _ => None,
            };
            let calls = turns.iter().flatten().flat_map(|turn| &turn.events).filter_map(let_go).collect();
            self.let_go_of.insert(execution.clone(), calls);
        }
        self.let_go_of[&execution].contains(&caller.operation)
    }
}

/// The message to a called instance that its caller goes without it.
pub(super) fn left(execution: &Execution, leave: &Leave) -> Option<Posted> {
    let caller = execution.as_caller(leave.operation, leave.attempt, leave.parent_close);
    leave_message(leave.called.clone(), caller, leave.what(), leave.ended)
}

fn leave_message(called: InstanceId, caller: Caller, what: ParentClose, ended: bool) -> Option<Posted> {
    if what == ParentClose::Abandon {
        return None;
    }
    let reason = caller.leave_reason(ended);
    Some((called.clone(), Message::Deliver(called, Inbound::CallerLeft { caller: Box::new(caller), what, reason })))
}

/// The message to the caller of an instance that has ended.
pub(super) fn returned(execution: &Execution) -> Option<Posted> {
    let caller = execution.started.caller.clone()?;
    let outcome = outcome(execution)?;
    Some((caller.instance.clone(), return_message(caller, outcome)))
}

/// Records what a sub-orchestration ended with, if its caller waits for it.
pub(super) fn take_outcome(recorder: &mut Recorder, caller: &Caller, outcome: Outcome) {
    if let Some(event) = recorder.execution.call_outcome(caller, outcome, recorder.turn_time()) {
        recorder.deliver(event);
    }
}

/// Records that the caller has left, if it is this instance's.
pub(super) fn take_leave(recorder: &mut Recorder, caller: &Caller, what: ParentClose, reason: String) {
    if let Some(event) = recorder.execution.leave_of_caller(caller, what, reason) {
        recorder.deliver(event);
    }
}

fn outcome(execution: &Execution) -> Option<Outcome> {
    match execution.end.as_ref()? {
        End::Completed(output) => Some(Ok(output.clone())),
        End::Failed(failure) => Some(Err(failure.clone())),
        End::Terminated(reason) => Some(Err(Failure::fatal(FailureKind::Terminated, reason.clone()))),
        End::ContinuedAsNew(_) => None,
    }
}

fn return_message(caller: Caller, outcome: Outcome) -> Message {
    Message::Deliver(caller.instance.clone(), Inbound::Returned { caller: Box::new(caller), outcome })
}

fn return_to(links: &[WorkerLink], caller: Caller, outcome: Outcome) -> Reply {
    let links = links.to_vec();
    Box::new(move |durable| {
        if durable.is_ok() {
            send(&links, (caller.instance.clone(), return_message(caller, outcome)));
        }
    })
}

fn not_begun(error: &EngineError) -> Failure {
    let (error_type, kind) = match error {
        EngineError::AlreadyExists { .. } => ("AlreadyExists", FailureKind::Application),
        EngineError::UnknownOrchestration { .. } => ("UnknownOrchestration", FailureKind::NotFound),
        EngineError::UnknownModule { .. } => ("UnknownModule", FailureKind::NotFound),
        EngineError::QuotaReached { .. } => ("QuotaReached", FailureKind::Application),
        _ => ("NotStarted", FailureKind::Application),
    };
    refused(error_type, kind, error.to_string())
}

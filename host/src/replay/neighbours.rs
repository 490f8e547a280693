//! Lives that have to do with each other: signals and sub-orchestrations without a
//! host.
//!
//! Nothing is on its way between two lives but what their histories say is: a letter
//! that its receiver has not taken, an answer that its sender does not know, a call
//! that nobody has begun, an end of which the caller was not told. It is what a host
//! finds that takes all of them over, so a crash between any two of these steps is
//! behind every one of them. What is decided and recorded is the core's
//! ([`calls`](crate::core::calls), [`mail`](crate::core::mail)), as in the engine.
//!
//! A call of a module that is not at hand is [`NotServed`]; of a module there is one
//! version.

use super::life::{Inbound, Life};
use super::subject::Subjects;
use crate::core::calls::{Call, Holder, Meets, ParentClose};
use crate::core::entity::is_entity;
use crate::core::event::Event;
use crate::core::execution::Pending;
use crate::core::ids::{InstanceId, OperationId, TimestampMs};
use crate::core::mail::{Content, MailKey, Source, not_taken};
use crate::core::payload::{FailureKind, Outcome, Payload};

/// Lives at one moment.
#[derive(Debug)]
pub struct Neighbours<'a> {
    lives: Vec<&'a Life>,
    now: TimestampMs,
}

/// What one of them can be told of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The other one, or the id at which nobody is.
    pub of: InstanceId,
    /// What there is.
    pub what: What,
}

/// See [`News`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The other one has sent this.
    Letter(MailKey),
    /// A letter to the other one has its answer.
    Answer(MailKey),
    /// The other one was called, and has ended.
    Outcome(OperationId),
    /// The other one called, and goes without.
    Left,
}

/// What cannot be served without a host.
#[derive(Debug, thiserror::Error)]
pub enum NotServed {
    /// A call of what is not under test.
    #[error("{caller} calls the orchestration {name:?}{of}, which is not here; {known}")]
    Call {
        /// Who calls.
        caller: InstanceId,
        /// What.
        name: String,
        /// Of which module.
        of: String,
        /// What there is.
        known: String,
    },
    /// Something is asked of an entity.
    #[error("{caller} asks something of {entity}; entities are served by a host only, run it with `dacapo run`")]
    Entity {
        /// Who asks.
        caller: InstanceId,
        /// The entity.
        entity: InstanceId,
    },
}

impl<'a> Neighbours<'a> {
    /// The lives as they are at `now`.
    pub fn at(now: TimestampMs, lives: impl IntoIterator<Item = &'a Life>) -> Self {
        Self { lives: lives.into_iter().collect(), now }
    }

    fn find(&self, id: &InstanceId) -> Option<&'a Life> {
        self.lives.iter().find(|life| life.id() == id).copied()
    }

    // ---- what is to be told ----

    /// What there is for a life, in streams: within one, each comes after the one
    /// before it.
    pub fn news(&self, life: &Life) -> Vec<Vec<News>> {
        if life.execution.end.is_some() {
            return Vec::new();
        }
        let mut streams: Vec<Vec<News>> = self.lives.iter().map(|sender| letters(sender, life)).collect();
        for (key, letter) in life.execution.outbox.letters() {
            if self.answer(life, key).is_some() {
                // A receiver answers in the order in which it takes them.
                let answer = News { of: letter.to.clone(), what: What::Answer(key) };
                match streams.iter_mut().find(|stream| {
                    stream.first().is_some_and(|n| n.of == letter.to && matches!(n.what, What::Answer(_)))
                }) {
                    Some(stream) => stream.push(answer),
                    None => streams.push(vec![answer]),
                }
            }
        }
        for operation in calls(life) {
            if let Some((call, Some(_))) = self.outcome(life, operation) {
                let of = call.scheduled.called(call.caller.attempt);
                streams.push(vec![News { of, what: What::Outcome(operation) }]);
            }
        }
        if let (Some(caller), Some(_)) = (&life.execution.started.caller, self.left(life)) {
            streams.push(vec![News { of: caller.instance.clone(), what: What::Left }]);
        }
        streams.retain(|stream| !stream.is_empty());
        streams
    }

    /// The news as they come in for the life. None: they are none any more.
    pub fn inbound(&self, life: &Life, news: &News) -> Option<Inbound> {
        match news.what {
            What::Letter(key) => {
                let sender = &self.find(&news.of)?.execution;
                let (_, envelope) = sender.outbox.envelope(&news.of, sender.started.birth, key)?;
                Some(Inbound::Letter(Box::new(envelope)))
            }
            What::Answer(key) => Some(Inbound::Answered(key, self.answer(life, key)?)),
            What::Outcome(operation) => {
                let (call, outcome) = self.outcome(life, operation)?;
                Some(Inbound::Returned(Box::new(call.caller), outcome?))
            }
            What::Left => {
                let (what, ended) = self.left(life)?;
                let caller = life.execution.started.caller.clone()?;
                let reason = caller.leave_reason(ended);
                Some(Inbound::Left(Box::new(caller), what, reason))
            }
        }
    }

    /// The answer to a letter of `life`, once there is one.
    fn answer(&self, life: &Life, key: MailKey) -> Option<Outcome> {
        let letter = life.execution.outbox.get(key)?;
        let receiver = self.find(&letter.to);
        match (&letter.content, receiver) {
            (Content::Call(_), receiver) => receiver.map(|_| Ok(Payload::null())),
            (_, Some(receiver)) if receiver.execution.seen.has(&source(life, key)) => Some(Ok(Payload::null())),
            (_, Some(receiver)) => {
                let status = receiver.execution.status();
                status.is_final().then(|| Err(not_taken(&letter.to, Some(status))))
            }
            // What it asked to begin before comes there first.
            (_, None) if self.begins(life, key, &letter.to) => None,
            (_, None) => Some(Err(not_taken(&letter.to, None))),
        }
    }

    fn begins(&self, life: &Life, before: MailKey, id: &InstanceId) -> bool {
        let execution = life.execution.started.execution;
        calls(life)
            .filter(|operation| (execution, *operation) < before)
            .filter_map(|operation| life.execution.call_at(operation, self.now))
            .any(|call| call.scheduled.called(call.caller.attempt) == *id)
    }

    /// A call of `life` that is under way; what came of it, once that is known.
    fn outcome(&self, life: &Life, operation: OperationId) -> Option<(Call, Option<Outcome>)> {
        let call = life.execution.call_at(operation, self.now)?;
        let found = self.find(&call.scheduled.called(call.caller.attempt));
        let outcome = found.and_then(|found| match (found.answer_to(&call.caller), self.meets(&call, found)) {
            (Some(outcome), _) => outcome,
            (None, Meets::Joins) => found.outcome(),
            (None, Meets::Fails(failure)) => Some(Err(failure)),
            (None, Meets::Replaces) => None,
        });
        Some((call, outcome))
    }

    fn meets(&self, call: &Call, found: &Life) -> Meets {
        let started = &found.execution.started;
        let (orchestration, created_at) = (started.orchestration.as_str(), started.created_at);
        call.meets(Holder { orchestration, status: found.execution.status(), created_at })
    }

    /// What it means for `life` that its caller goes without it, and whether that
    /// has ended. None: it does not, or `life` knows.
    fn left(&self, life: &Life) -> Option<(ParentClose, bool)> {
        let caller = life.execution.started.caller.as_ref()?;
        let other = self.find(&caller.instance).filter(|other| {
            let started = &other.execution.started;
            (started.birth, started.execution) == (caller.birth, caller.execution)
        });
        let (what, ended) = match other {
            Some(other) if other.execution.pending.contains_key(&caller.operation) => return None,
            Some(other) if other.execution.end.is_none() || let_go(other, caller.operation) => {
                (ParentClose::Cancel, false)
            }
            _ => (caller.parent_close, true),
        };
        let is_news = match what {
            ParentClose::Abandon => false,
            ParentClose::Cancel => !life.execution.caller_left,
            ParentClose::Terminate => true,
        };
        is_news.then_some((what, ended))
    }

    /// Whether all that they ask of each other can be served.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), NotServed> {
        for life in &self.lives {
            let mut letters = life.execution.outbox.letters();
            if let Some((_, letter)) = letters.find(|(_, letter)| is_entity(&letter.to)) {
                return Err(NotServed::Entity { caller: life.id().clone(), entity: letter.to.clone() });
            }
        }
        Ok(())
    }

    // ---- what is to begin ----

    /// Calls whose instance is to begin.
    pub fn to_begin(&self) -> Vec<Call> {
        let asked = |life: &&'a Life| -> Vec<Call> {
            let calls = calls(life).filter_map(|operation| life.execution.call_at(operation, self.now));
            // Of a caller that has ended, what is to go on.
            let abandoned = life.execution.outbox.letters().filter_map(|(_, letter)| match &letter.content {
                Content::Call(call) => Some((**call).clone()),
                _ => None,
            });
            calls.chain(abandoned).collect()
        };
        let wanted = |call: &Call| match self.find(&call.scheduled.called(call.caller.attempt)) {
            None => true,
            Some(found) => found.answer_to(&call.caller).is_none() && self.meets(call, found) == Meets::Replaces,
        };
        self.lives.iter().flat_map(asked).filter(wanted).collect()
    }

    /// The instance of a call, begun.
    ///
    /// # Errors
    /// If none of the modules at hand has its orchestration.
    pub fn begin(&self, call: &Call, subjects: &Subjects) -> Result<Life, NotServed> {
        let name = &call.scheduled.name;
        let module = call.scheduled.options.module.as_deref();
        let subject = match module {
            None => Some(subjects.of(call.module)),
            Some(module) => subjects.named(module),
        };
        let Some(subject) = subject.filter(|subject| subject.check(name).is_ok()) else {
            let known = match subject {
                Some(subject) => format!("it has {}", subject.orchestrations().collect::<Vec<_>>().join(", ")),
                None => format!("the modules here are {}", subjects.names().collect::<Vec<_>>().join(", ")),
            };
            let of = module.map(|module| format!(" of the module {module:?}")).unwrap_or_default();
            return Err(NotServed::Call { caller: call.caller.instance.clone(), name: name.clone(), of, known });
        };
        let before = self.find(&call.scheduled.called(call.caller.attempt)).cloned();
        Ok(Life::called(call, subject.module.hash, self.now, before))
    }
}

/// Signals of `sender` that `receiver` has not taken, in their order.
fn letters(sender: &Life, receiver: &Life) -> Vec<News> {
    let new = |key: MailKey| !receiver.execution.seen.has(&source(sender, key));
    let letters = sender.execution.outbox.letters().filter(|(key, letter)| {
        letter.to == *receiver.id() && matches!(letter.content, Content::Signal { .. }) && new(*key)
    });
    letters.map(|(key, _)| News { of: sender.id().clone(), what: What::Letter(key) }).collect()
}

/// Whether a caller let the call go before it ended.
fn let_go(caller: &Life, call: OperationId) -> bool {
    caller.events().any(|event| match event {
        Event::OperationCancelled { operation } => *operation == call,
        Event::OrchestrationFailed { operation, failure, .. } => {
            *operation == call && failure.kind == FailureKind::TimedOut
        }
        _ => false,
    })
}

fn source(sender: &Life, (execution, operation): MailKey) -> Source {
    let started = &sender.execution.started;
    Source { instance: started.instance.clone(), birth: started.birth, execution, operation }
}

fn calls(life: &Life) -> impl Iterator<Item = OperationId> {
    let pending = life.execution.pending.iter();
    pending.filter(|(_, pending)| matches!(pending, Pending::Orchestration { .. })).map(|(operation, _)| *operation)
}

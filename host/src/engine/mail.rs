//! Mail between instances, as the worker of either side handles it; see
//! [`crate::core::mail`] for what holds.
//!
//! A letter leaves with the durable turn that asked for it, or when its sender is
//! recovered. It is answered when the turn that took it is durable, so the sender
//! never records more than its receiver has. Whatever goes between instances waits
//! until every instance of its worker was recovered (`turns/recovery.rs`): an
//! instance is not touched before its own recovery, so nothing is sent twice by one
//! host.

use super::commit::Reply;
use super::error::EngineError;
use super::partition;
use super::turns::{Inbound, Message, NotNow, Worker, WorkerLink};
use crate::core::event::Started;
use crate::core::execution::Execution;
use crate::core::ids::InstanceId;
use crate::core::mail::{Content, Envelope, Letter, MailKey, Post, Seen, Source, not_taken};
use crate::core::payload::Outcome;
use crate::core::turn::Recorder;

/// What goes to another instance.
pub(super) type Posted = (InstanceId, Message);

/// Sends it to the worker of whom it is for.
pub(super) fn send(workers: &[WorkerLink], (to, message): Posted) {
    workers[partition(&to, workers.len())].send(message);
}

/// Posts as messages. Letters that were answered meanwhile are none.
pub(super) fn posted(execution: &Execution, posts: Vec<Post>) -> Vec<Posted> {
    let started = &execution.started;
    let message = |post| match post {
        Post::Letter(key) => match execution.outbox.envelope(&started.instance, started.birth, key)? {
            (to, Envelope { content: Content::Call(call), .. }) => Some((to, Message::Call(call, true))),
            (to, envelope) => Some((to.clone(), Message::Deliver(to, Inbound::Letter(Box::new(envelope))))),
        },
        Post::Call(operation) => {
            let call = execution.call(operation)?;
            Some((call.scheduled.called(call.caller.attempt), Message::Call(Box::new(call), false)))
        }
        Post::Leave(leave) => super::calls::left(execution, &leave),
        Post::Return => super::calls::returned(execution),
        Post::Answer(answer) => {
            let (to, outcome) = *answer;
            let answered = Inbound::Answered { birth: to.birth, key: to.key(), outcome };
            Some((to.instance.clone(), Message::Deliver(to.instance, answered)))
        }
    };
    posts.into_iter().filter_map(message).collect()
}

/// What the next life of an id gets of the mail of the one before: letters that have
/// no answer, and which ones it took.
pub(super) struct PassedOn {
    birth: u64,
    outbox: Vec<(MailKey, Letter)>,
    seen: Seen,
}

impl PassedOn {
    /// Of one without mail.
    pub(super) fn none(birth: u64) -> Self {
        Self { birth, outbox: Vec::new(), seen: Seen::default() }
    }

    pub(super) fn by(execution: &Execution) -> Self {
        let outbox = execution.outbox.letters().map(|(key, letter)| (key, letter.clone())).collect();
        Self { birth: execution.started.birth, outbox, seen: execution.seen.clone() }
    }

    pub(super) fn to(self, started: &mut Started) {
        (started.birth, started.outbox, started.seen) = (self.birth, self.outbox, self.seen);
    }
}

impl Worker {
    /// Takes mail out of what came in; the rest is given back. `replies` are
    /// answered when this turn is durable.
    pub(super) fn take_mail(
        &mut self,
        recorder: &mut Recorder,
        inbound: Inbound,
        replies: &mut Vec<Reply>,
    ) -> Option<Inbound> {
        match inbound {
            Inbound::Letter(envelope) => self.take_letter(recorder, *envelope, replies),
            Inbound::Answered { birth, key, outcome } => {
                let execution = &recorder.execution;
                if let Some(event) = execution.mail_answer(key, outcome).filter(|_| execution.started.birth == birth) {
                    recorder.deliver(event);
                }
            }
            Inbound::Returned { caller, outcome } => super::calls::take_outcome(recorder, &caller, outcome),
            Inbound::CallerLeft { caller, what, reason } => super::calls::take_leave(recorder, &caller, what, reason),
            other => return Some(other),
        }
        None
    }

    fn take_letter(&mut self, recorder: &mut Recorder, envelope: Envelope, replies: &mut Vec<Reply>) {
        let Envelope { source, floor, content } = envelope;
        let execution = &recorder.execution;
        if execution.seen.has(&source) {
            // Answered when what took it is durable, which it may not be yet.
            if let Some(answer) = execution.answer_again(&source, &content) {
                self.replies.push(self.answer(source, answer));
            }
        } else if execution.end.is_some() && self.is_made_again(execution, &content) {
            // When its end is durable it is made again.
            let (id, own) = (execution.started.instance.clone(), self.parts.links[self.parts.number].clone());
            let envelope = Box::new(Envelope { source, floor, content });
            self.replies.push(Box::new(move |durable| {
                if durable.is_ok() {
                    own.send(Message::Deliver(id, Inbound::Letter(envelope)));
                }
            }));
        } else if execution.end.is_some() {
            let gone = match content {
                Content::Signal { .. } | Content::Call(_) => {
                    not_taken(&execution.started.instance, Some(execution.status()))
                }
                _ => execution.entity_has_ended(),
            };
            self.replies.push(self.answer(source, Err(gone)));
        } else {
            let is_answered = content.is_answered_when_taken();
            if let Some(event) = execution.mail(source.clone(), floor, content) {
                recorder.deliver(event);
            }
            if is_answered {
                replies.push(self.answer(source, Ok(crate::core::payload::Payload::null())));
            }
        }
    }

    /// Something that came for an instance which cannot take it.
    pub(super) fn refuse(&self, id: &InstanceId, reason: NotNow, inbound: Inbound) {
        match (inbound, reason) {
            (Inbound::Letter(envelope), NotNow::Gone(_)) => {
                self.answer(envelope.source, Err(not_taken(id, None)))(Ok(()));
            }
            // Its caller has ended too, or is another one by now.
            (Inbound::Returned { .. } | Inbound::CallerLeft { .. }, _) => {}
            // Not answered: it is in its sender's journal, and comes again when that
            // is recovered.
            (Inbound::Letter(envelope), reason) => {
                let why = reason.text();
                tracing::warn!(instance = ?id, from = ?envelope.source.instance, why, "mail is put off");
            }
            (inbound, reason) => {
                let error = super::turns::not_delivered(id, reason, &inbound);
                inbound.refuse(error);
            }
        }
    }

    pub(super) fn answer(&self, to: Source, outcome: Outcome) -> Reply {
        let links = self.parts.links.clone();
        Box::new(move |durable: Result<(), EngineError>| {
            if durable.is_ok() {
                let answered = Inbound::Answered { birth: to.birth, key: to.key(), outcome };
                send(&links, (to.instance.clone(), Message::Deliver(to.instance, answered)));
            }
        })
    }

    /// Whether a letter that was taken could come again: its sender's journal
    /// holds it without an answer.
    pub(super) fn may_come_again(&self, letter: &Source) -> bool {
        match self.store().summary(&letter.instance) {
            Ok(Some(sender)) => sender.may_send_again(letter),
            Ok(None) => false,
            Err(_) => true,
        }
    }
}

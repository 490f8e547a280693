//! Requests from outside: recorded once, and answered when the answer is durable.
//!
//! A request is a delivery like any other; what is kept here beside the history
//! is only who waits for its answer, in memory. A caller who lost the connection
//! asks again with the same key and is told what the history says.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::error::EngineError;
use super::turns::{Inbound, Message, NotNow, Worker, bare_recorder};
use crate::core::event::Event;
use crate::core::ids::InstanceId;
use crate::core::payload::{FailureKind, Outcome, Payload};
use crate::core::request::{Known, Request, RequestId, RequestKind, Source};
use crate::core::summary::Status;
use crate::core::turn::Recorder;

/// Who waits for an answer from outside.
pub(super) type Waiting = oneshot::Sender<Result<Outcome, EngineError>>;

/// A request on its way to an instance.
pub(super) struct Asked {
    pub(super) kind: RequestKind,
    pub(super) name: String,
    pub(super) input: Payload,
    pub(super) source: Source,
    pub(super) one_way: bool,
    pub(super) reply: Option<Waiting>,
}

impl Asked {
    pub(super) fn what(&self) -> String {
        match self.kind {
            RequestKind::Update => format!("the update {:?}", self.name),
            RequestKind::EntityOperation => format!("the operation {:?}", self.name),
        }
    }

    pub(super) fn refuse(self, error: EngineError) {
        if let Some(reply) = self.reply {
            let _ = reply.send(Err(error));
        }
    }
}

/// Who waits outside, by instance and request.
#[derive(Default)]
pub(super) struct Callers(BTreeMap<(InstanceId, RequestId), Caller>);

struct Caller {
    what: String,
    waiting: Vec<Waiting>,
}

impl Callers {
    fn add(&mut self, id: &InstanceId, request: RequestId, what: String, reply: Waiting) {
        let caller = self.0.entry((id.clone(), request)).or_insert(Caller { what, waiting: Vec::new() });
        // Whoever asked and went away since is not kept.
        caller.waiting.retain(|waiting| !waiting.is_closed());
        caller.waiting.push(reply);
    }

    /// The answer is durable.
    pub(super) fn answer(&mut self, id: &InstanceId, request: RequestId, answer: &Outcome) {
        for waiting in self.0.remove(&(id.clone(), request)).into_iter().flat_map(|caller| caller.waiting) {
            let _ = waiting.send(Ok(answer.clone()));
        }
    }

    /// The instance has ended, and that is durable: there will be no answer.
    pub(super) fn ended(&mut self, id: &InstanceId, outcome: &Outcome) {
        let status = match outcome {
            Ok(_) => Status::Completed,
            Err(failure) if failure.kind == FailureKind::Terminated => Status::Terminated,
            Err(_) => Status::Failed,
        };
        self.give_up(id, |what| EngineError::Unanswered { id: id.clone(), status, what });
    }

    /// The instance cannot be run here.
    pub(super) fn blocked(&mut self, id: &InstanceId, why: &str) {
        self.give_up(id, |_| EngineError::Blocked { id: id.clone(), why: why.to_owned() });
    }

    fn give_up(&mut self, id: &InstanceId, error: impl Fn(String) -> EngineError) {
        for caller in self.take(id) {
            for waiting in caller.waiting {
                let _ = waiting.send(Err(error(caller.what.clone())));
            }
        }
    }

    fn take(&mut self, id: &InstanceId) -> Vec<Caller> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let of = self.0.range((id.clone(), 0)..=(id.clone(), RequestId::MAX));
        let keys: Vec<_> = of.map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| self.0.remove(key)).collect()
    }
}

impl Worker {
    /// Records a request that is new; one that is known gets the answer that it
    /// got, or waits for it.
    pub(super) fn record_request(&mut self, id: &InstanceId, recorder: &mut Recorder, asked: Asked) {
        let what = asked.what();
        let Asked { kind, name, input, source, one_way, reply } = asked;
        let request = match recorder.execution.requests.known(&source) {
            Some(Known::Answered(answer)) => {
                let answer = if one_way { Ok(Payload::null()) } else { answer.clone() };
                // That answer may be of a turn that is not durable yet.
                if let Some(reply) = reply {
                    self.replies.push(Box::new(move |durable| drop(reply.send(durable.map(|()| answer)))));
                }
                return;
            }
            Some(Known::Open(request)) => *request,
            None => {
                let request = recorder.execution.requests.next_id();
                let received = Request { id: request, kind, name, input, source, one_way };
                recorder.deliver(Event::RequestReceived(received.into()));
                request
            }
        };
        match (reply, self.blocked.get(id)) {
            (None, _) => {}
            (Some(reply), _) if one_way => {
                self.replies.push(Box::new(move |durable| drop(reply.send(durable.map(|()| Ok(Payload::null()))))));
            }
            (Some(reply), None) => self.callers.add(id, request, what, reply),
            // It is recorded, and answered once a host can run the instance again.
            (Some(reply), Some(why)) => {
                let _ = reply.send(Err(EngineError::Blocked { id: id.clone(), why: why.clone() }));
            }
        }
    }

    /// The id gets its next life, which counts its requests anew: whoever waits for
    /// an answer of the life before is told when its end is durable.
    pub(super) fn leave_callers(&mut self, id: &InstanceId, status: Status) {
        let status = if status.is_final() { status } else { Status::Terminated };
        for Caller { what, waiting } in self.callers.take(id) {
            let id = id.clone();
            self.replies.push(Box::new(move |durable| {
                for waiting in waiting {
                    let unanswered = EngineError::Unanswered { id: id.clone(), status, what: what.clone() };
                    let _ = waiting.send(Err(match &durable {
                        Ok(()) => unanswered,
                        Err(error) => EngineError::Stopped(Some(error.to_string())),
                    }));
                }
            }));
        }
    }

    /// A request that finds the instance ended in a turn that is not durable yet:
    /// when it is, the history tells whether the request was answered.
    pub(super) fn deliver_again_later(&mut self, id: &InstanceId, inbound: Inbound) -> Option<Inbound> {
        let Inbound::Request(asked) = inbound else { return Some(inbound) };
        let (id, link) = (id.clone(), self.parts.links[self.parts.number].clone());
        self.replies.push(Box::new(move |durable| match durable {
            Ok(()) => link.send(Message::Deliver(id, Inbound::Request(asked))),
            Err(error) => asked.refuse(error),
        }));
        None
    }

    /// A request to an instance that is not live and cannot be loaded: if it has
    /// ended, it may have answered this very request before. Gives back what is
    /// not answered here.
    pub(super) fn deliver_to_ended(
        &mut self,
        id: &InstanceId,
        reason: NotNow,
        inbound: Inbound,
    ) -> Option<(NotNow, Inbound)> {
        let (NotNow::Gone(Some(summary)), Inbound::Request(asked)) = (&reason, &inbound) else {
            return Some((reason, inbound));
        };
        let status = summary.status;
        let known = match self.known_of_ended(id, &asked.source) {
            Ok(Some(known)) => known,
            Ok(None) => return Some((reason, inbound)),
            Err(error) => return Some((NotNow::Store(error), inbound)),
        };
        let Inbound::Request(asked) = inbound else { return None };
        let what = asked.what();
        if let Some(reply) = asked.reply {
            let _ = reply.send(match known {
                Known::Answered(answer) => Ok(answer),
                Known::Open(_) => Err(EngineError::Unanswered { id: id.clone(), status, what }),
            });
        }
        None
    }

    fn known_of_ended(&self, id: &InstanceId, source: &Source) -> Result<Option<Known>, EngineError> {
        let Some(history) = self.parts.store.history(id, None)? else { return Ok(None) };
        let recorder = bare_recorder(&history.decode()?, self.parts.settings.limits)
            .map_err(|why| EngineError::Blocked { id: id.clone(), why })?;
        Ok(recorder.execution.requests.known(source).cloned())
    }
}

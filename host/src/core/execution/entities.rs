//! The part of an execution that calls, locks and is an entity.

use std::sync::Arc;

use super::{Delivery, End, Execution, Pending};
use crate::core::entity::{Passed, is_entity};
use crate::core::event::Event;
use crate::core::ids::{InstanceId, OperationId};
use crate::core::mail::{Content, Letter, MailKey, Post, Source};
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::request::Source as Asker;
use crate::core::request::{Known, Request, RequestId, RequestKind, Requests};

impl Execution {
    /// Takes an event about entities or requests into the state.
    pub(super) fn apply_entity(&mut self, event: &Event) {
        match event {
            Event::RequestsCarried(carried) => {
                let (requests, updates) = Requests::of(carried);
                self.requests = requests;
                self.ready.extend(updates.into_iter().map(Delivery::Requested));
            }
            Event::GateCarried(gate) => {
                self.requests.gate = (**gate).clone();
                self.pass_gate();
            }
            Event::RequestReceived(request) => self.received_request(request),
            Event::OperationReceived { request, .. } => self.received_request(request),
            Event::Responded { request, answer } => self.responded(*request, answer),
            Event::OperationAborted { request, failure } => {
                let is_it = |delivery: &Delivery| matches!(delivery, Delivery::Requested(of) if of.id == *request);
                self.ready.retain(|delivery| !is_it(delivery));
                self.responded(*request, &Err(failure.clone()));
            }
            Event::LockRequested { holder, unlock, .. } => {
                let freed = Source { execution: unlock.0, operation: unlock.1, ..holder.clone() };
                if self.seen.has(&freed) {
                    self.post_answer(holder.clone(), Ok(Payload::null()));
                } else {
                    self.requests.gate.lock(holder.clone());
                    self.pass_gate();
                }
            }
            Event::LockReleased { source, lock, .. } => {
                if let Some(never_granted) = self.requests.gate.unlock(source, *lock) {
                    self.post_answer(never_granted, Ok(Payload::null()));
                }
                self.pass_gate();
            }
            Event::EntityCalled(call) => {
                let pending = Pending::Entity { to: call.to.clone(), name: call.name.clone() };
                self.open(call.operation, pending);
                let content = Content::EntityOperation {
                    name: call.name.clone(),
                    input: call.input.clone(),
                    one_way: call.one_way,
                };
                self.send(call.operation, Letter { to: call.to.clone(), content });
            }
            Event::EntityAnswered { letter, answer } => self.entity_answered(*letter, answer),
            Event::LockAsked { operation, entities } => self.ask_locks(*operation, entities),
            Event::LockFreed { lock } => self.end_lock(*lock),
            _ => {}
        }
    }

    /// What a letter that was taken before is answered with now, if it has an answer.
    pub fn answer_again(&self, source: &Source, content: &Content) -> Option<Outcome> {
        match content {
            Content::EntityOperation { one_way: false, .. } => {
                match self.requests.known(&Asker::Instance(source.clone())) {
                    Some(Known::Answered(answer)) => Some(answer.clone()),
                    Some(Known::Open(_)) if self.end.is_some() => Some(Err(self.entity_has_ended())),
                    Some(Known::Open(_)) | None => None,
                }
            }
            Content::EntityLock { .. } if self.end.is_some() => Some(Err(self.entity_has_ended())),
            Content::EntityLock { .. } if self.requests.gate.has_waiting(source) => None,
            _ => Some(Ok(Payload::null())),
        }
    }

    /// Whether this is an entity of which something is asked.
    pub fn is_busy_entity(&self) -> bool {
        is_entity(&self.started.instance) && !self.requests.is_idle()
    }

    /// Whether this execution holds or takes a lock.
    pub fn has_locks(&self) -> bool {
        !self.locks.is_empty()
    }

    /// Whether that entity is among those which it holds or takes.
    pub fn locks(&self, entity: &InstanceId) -> bool {
        self.locks.values().any(|entities| entities.contains(entity))
    }

    /// Whether a lock is held or being taken under that operation.
    pub fn has_lock(&self, lock: OperationId) -> bool {
        self.locks.contains_key(&lock)
    }

    /// Letters that wait in the outbox and are not sent yet: entities are locked one
    /// after the other, and unlocked when the lock ends.
    pub(super) fn is_held_back(&self, key: MailKey) -> bool {
        if key.0 != self.started.execution {
            return false;
        }
        let Some((&lock, entities)) = self.locks.range(..=key.1).next_back() else { return false };
        let count = entities.len() as OperationId;
        key.1 < lock + 2 * count && Some(key.1) != self.lock_under_way(lock, count)
    }

    /// The execution ends: what it locked is free. What was asked of it goes on in
    /// the next execution, or is told that there is none.
    pub(super) fn end_entities(&mut self, goes_on: bool) {
        for lock in self.locks.keys().copied().collect::<Vec<_>>() {
            self.end_lock(lock);
        }
        if !goes_on {
            self.refuse_callers();
        }
    }

    /// Tells whoever waits that this entity has ended without an answer.
    fn refuse_callers(&mut self) {
        let waiting: Vec<Source> = self
            .requests
            .unanswered()
            .filter(|request| !request.one_way)
            .filter_map(|request| request.sender().cloned())
            .chain(self.requests.gate.locks())
            .collect();
        for source in waiting {
            let failure = self.entity_has_ended();
            self.post_answer(source, Err(failure));
        }
    }

    /// What is asked of an entity that has failed or was terminated comes to this.
    pub fn entity_has_ended(&self) -> Failure {
        let why = match &self.end {
            Some(End::Failed(failure)) => format!(": {failure}"),
            Some(End::Terminated(reason)) if !reason.is_empty() => format!(": terminated, {reason}"),
            _ => String::new(),
        };
        let message = format!("the entity {} has ended{why}; it begins anew once it is purged", self.started.instance);
        Failure { error_type: "EntityEnded".to_owned(), ..Failure::fatal(FailureKind::Application, message) }
    }

    fn received_request(&mut self, request: &Arc<Request>) {
        self.requests.receive(request);
        match request.kind {
            RequestKind::Update => self.ready.push(Delivery::Requested(request.clone())),
            RequestKind::EntityOperation => self.pass_gate(),
        }
    }

    fn responded(&mut self, request: RequestId, answer: &Outcome) {
        let Some(asked) = self.requests.answer(request, answer) else { return };
        if let Some(sender) = asked.sender().filter(|_| !asked.one_way) {
            self.post_answer(sender.clone(), answer.clone());
        }
        self.pass_gate();
    }

    /// Lets through the gate what may pass now.
    pub(super) fn pass_gate(&mut self) {
        while let Some(passed) = self.requests.gate.pass() {
            match passed {
                Passed::Operation(id) => {
                    if let Some(request) = self.requests.get(id) {
                        self.ready.push(Delivery::Requested(request.clone()));
                    }
                }
                Passed::Lock(source) => self.post_answer(source, Ok(Payload::null())),
            }
        }
    }

    fn post_answer(&mut self, to: Source, answer: Outcome) {
        self.posts.push(Post::Answer(Box::new((to, answer))));
    }

    // ---- locks, on their holder's side ----

    /// A lock over `n` entities takes `2 n` numbers: a letter to lock each one, in
    /// the order given, and a letter to free each one. All are in the outbox from
    /// the start, so that no later letter is ever below the floor.
    fn ask_locks(&mut self, lock: OperationId, entities: &[InstanceId]) {
        let entities: Arc<[InstanceId]> = entities.into();
        self.open(lock, Pending::Lock { entities: entities.clone() });
        let (execution, count) = (self.started.execution, entities.len() as OperationId);
        self.next_operation = lock + 2 * count;
        for (number, entity) in (0..).zip(&*entities) {
            let (lock, unlock) = ((execution, lock + number), (execution, lock + count + number));
            self.outbox.put(lock, Letter { to: entity.clone(), content: Content::EntityLock { unlock } });
            self.outbox.put(unlock, Letter { to: entity.clone(), content: Content::EntityUnlock { lock } });
        }
        self.locks.insert(lock, entities);
        self.posts.push(Post::Letter((execution, lock)));
    }

    fn entity_answered(&mut self, letter: MailKey, answer: &Outcome) {
        self.outbox.answered(letter);
        if letter.0 != self.started.execution {
            return;
        }
        let lock = self.locks.range(..=letter.1).next_back().map(|(&lock, of)| (lock, of.len() as OperationId));
        match lock {
            Some((lock, count)) if letter.1 < lock + count => match answer {
                Ok(_) => match self.lock_under_way(lock, count) {
                    Some(next) => self.posts.push(Post::Letter((letter.0, next))),
                    None => self.complete(lock, Ok(Payload::null())),
                },
                Err(failure) => {
                    self.end_lock(lock);
                    self.complete(lock, Err(failure.clone()));
                }
            },
            _ => self.complete(letter.1, answer.clone()),
        }
    }

    /// The first letter of a lock that is not answered.
    fn lock_under_way(&self, lock: OperationId, count: OperationId) -> Option<OperationId> {
        (lock..lock + count).find(|&letter| self.outbox.get((self.started.execution, letter)).is_some())
    }

    /// All letters of a lock that were held back are sent: those that ask, so that
    /// the ones that free find what they free.
    pub(super) fn end_lock(&mut self, lock: OperationId) {
        let Some(entities) = self.locks.remove(&lock) else { return };
        let (execution, count) = (self.started.execution, entities.len() as OperationId);
        let under_way = self.lock_under_way(lock, count);
        let letters = (lock..lock + 2 * count).map(|letter| (execution, letter));
        let unsent = letters.filter(|key| self.outbox.get(*key).is_some() && Some(key.1) != under_way);
        self.posts.extend(unsent.map(Post::Letter).collect::<Vec<_>>());
    }
}

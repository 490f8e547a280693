//! The recorder's part that answers requests and calls entities.

use super::{Recorder, Stop, fingerprint, too_large};
use crate::core::entity::{entity_instance, is_entity};
use crate::core::event::{EntityCalled, Event};
use crate::core::ids::{InstanceId, OperationId};
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::request::RequestId;

impl Recorder {
    /// The guest answers a request. An answer over the limit is replaced by a
    /// failure that says so.
    ///
    /// # Errors
    /// If no such request waits for an answer: the guest broke the contract.
    pub fn respond(&mut self, request: RequestId, answer: Outcome) -> Result<(), Stop> {
        let Some(asked) = self.execution.requests.get(request) else {
            let message = format!("respond: no request {request} waits for an answer");
            return Err(Stop::Failed(Failure::fatal(FailureKind::Trapped, message)));
        };
        let what = format!("the answer to {}", asked.name);
        let answer = match answer {
            Ok(output) => match too_large(&what, output.len(), self.limits.payload_bytes) {
                Some(failure) => Err(failure),
                None => Ok(output),
            },
            Err(failure) => Err(self.fitting(failure)),
        };
        self.answer(Event::Responded { request, answer }, same_answer).map(drop)
    }

    /// An operation of an entity is to be run.
    ///
    /// # Errors
    /// As for every import.
    pub fn call_entity(
        &mut self,
        kind: &str,
        key: &str,
        name: String,
        input: Payload,
        one_way: bool,
    ) -> Result<OperationId, Stop> {
        let entity = self.askable(kind, key, &name, &input, one_way);
        match (entity.clone(), self.refused(entity.err())) {
            (Ok(to), None) => {
                let operation = self.execution.next_operation();
                self.operation(Event::EntityCalled(Box::new(EntityCalled { operation, to, name, input, one_way })))
            }
            (Err(failure), None) | (_, Some(failure)) => {
                let how = if one_way { "signal" } else { "call" };
                self.refuse(format!("{how} {name} of {kind:?} {key:?}, {}", fingerprint(&input)), failure)
            }
        }
    }

    /// The guest wants entities alone. They are locked in the order of their ids,
    /// whatever the order given, so that no two lockers wait for each other.
    ///
    /// # Errors
    /// As for every import.
    pub fn lock_entities(&mut self, entities: &[(String, String)]) -> Result<OperationId, Stop> {
        let lockable = self.lockable(entities);
        match (lockable.clone(), self.refused(lockable.err())) {
            (Ok(entities), None) => {
                let operation = self.execution.next_operation();
                self.operation(Event::LockAsked { operation, entities })
            }
            (Err(failure), None) | (_, Some(failure)) => self.refuse(format!("lock {entities:?}"), failure),
        }
    }

    /// The guest frees what it locked; nothing, if it holds no such lock.
    ///
    /// # Errors
    /// As for every import.
    pub fn unlock_entities(&mut self, lock: OperationId) -> Result<(), Stop> {
        if self.execution.has_lock(lock) {
            self.answer(Event::LockFreed { lock }, |recorded, asked| recorded == asked)?;
        }
        Ok(())
    }

    fn askable(
        &self,
        kind: &str,
        key: &str,
        name: &str,
        input: &Payload,
        one_way: bool,
    ) -> Result<InstanceId, Failure> {
        if let Some(failure) = too_large(format_args!("the input of {name}"), input.len(), self.limits.payload_bytes) {
            return Err(failure);
        }
        let entity = self.entity_of(kind, key)?;
        let waits = |why: String| Err(Failure::fatal(FailureKind::Unsupported, why));
        if !one_way && is_entity(&self.execution.started.instance) {
            return waits(format!("an entity may only signal {entity}: two that call each other would wait for ever"));
        }
        if !one_way && self.execution.has_locks() && !self.execution.locks(&entity) {
            return waits(format!("{entity} is not among the locked ones; lock it with them, or unlock them first"));
        }
        Ok(entity)
    }

    /// An entity of the guest's own namespace: it has no name for others.
    fn entity_of(&self, kind: &str, key: &str) -> Result<InstanceId, Failure> {
        let namespace = self.execution.started.instance.namespace();
        entity_instance(&namespace, kind, key).map_err(|fault| Failure::fatal(FailureKind::NotFound, fault))
    }

    fn lockable(&self, entities: &[(String, String)]) -> Result<Vec<InstanceId>, Failure> {
        let refuse = |why: &str| Err(Failure::fatal(FailureKind::Unsupported, why));
        if is_entity(&self.execution.started.instance) {
            return refuse("an entity may not lock others; an orchestration may");
        }
        if self.execution.has_locks() {
            return refuse("entities are locked already; lock all of them at once, or unlock them first");
        }
        let ids: Result<Vec<_>, _> = entities.iter().map(|(kind, key)| self.entity_of(kind, key)).collect();
        let mut ids = ids?;
        ids.sort();
        ids.dedup();
        if ids.is_empty() || ids.len() > MOST_LOCKED {
            return refuse(&format!(
                "a lock is over at least one entity and at most {MOST_LOCKED}, found {}",
                ids.len()
            ));
        }
        Ok(ids)
    }
}

/// Entities of one lock. Each takes letters of its own, one after the other.
const MOST_LOCKED: usize = 100;

/// Another host may have another limit: then what was recorded counts.
fn same_answer(recorded: &Event, asked: &Event) -> bool {
    match (recorded, asked) {
        (Event::Responded { request: a, answer: recorded }, Event::Responded { request: b, answer: asked }) => {
            let too_large = |answer: &Outcome| matches!(answer, Err(failure) if failure.kind == FailureKind::TooLarge);
            a == b && (recorded == asked || too_large(recorded) || too_large(asked))
        }
        _ => false,
    }
}

//! Entities: made when something is first asked of them, called from outside.
//!
//! An entity is an instance of the module that offers its kind (the default of its
//! name when the entity is made). One that was deleted is made again, as its next
//! execution, so that no request and no letter is ever taken twice. One that failed
//! or was terminated is not: it answers nothing until it is purged.

use tokio::sync::oneshot;

use super::requests::Asked;
use super::turns::{Inbound, Message, Worker, bare_recorder, fresh_seed};
use super::{Engine, EngineError};
use crate::core::entity::{entity_instance, is_entity, kind_of, orchestration_of};
use crate::core::event::{Event, Started};
use crate::core::execution::{End, Execution};
use crate::core::ids::{Hash, InstanceId, TimestampMs};
use crate::core::mail::Content;
use crate::core::namespace::Namespace;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::request::{RequestKind, Source};
use crate::core::summary::Status;
use crate::core::turn::Recorder;

/// An operation of an entity, asked for from outside.
#[derive(Clone, Debug)]
pub struct EntityOperation<'a> {
    /// Whose entity it is.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: &'a str,
    /// Which one of its kind.
    pub key: &'a str,
    /// What it is to do.
    pub operation: &'a str,
    /// With what.
    pub input: Payload,
    /// The caller's name for this request: the same again is the same request, with
    /// the same answer.
    pub request: &'a str,
}

impl Engine {
    /// Runs an operation of an entity, which is made if it does not exist. Its
    /// answer is durable when this returns.
    ///
    /// # Errors
    /// If no module of the namespace offers the kind, the entity has failed, or the
    /// input is too large. What the operation fails with is in the outcome.
    pub async fn call_entity(&self, operation: EntityOperation<'_>) -> Result<Outcome, EngineError> {
        self.ask_entity(operation, false).await
    }

    /// As [`Engine::call_entity`], and returns as soon as the request is durable.
    ///
    /// # Errors
    /// As there.
    pub async fn signal_entity(&self, operation: EntityOperation<'_>) -> Result<(), EngineError> {
        self.ask_entity(operation, true).await.map(drop)
    }

    async fn ask_entity(&self, operation: EntityOperation<'_>, one_way: bool) -> Result<Outcome, EngineError> {
        let EntityOperation { namespace, kind, key, operation, input, request } = operation;
        let id = entity_instance(&namespace, kind, key).map_err(EngineError::InvalidInput)?;
        self.check_request("operation", operation, request, &input)?;
        self.check_room(&id)?;
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            kind: RequestKind::EntityOperation,
            name: operation.to_owned(),
            input,
            source: Source::Outside(request.to_owned()),
            one_way,
            reply: Some(reply),
        };
        self.worker_of(&id).send(Message::Deliver(id.clone(), Inbound::Request(Box::new(asked))));
        self.answer(answer).await
    }
}

impl Content {
    /// Whether an entity is made for it.
    fn makes_entity(&self) -> bool {
        matches!(self, Self::EntityOperation { .. } | Self::EntityLock { .. })
    }
}

impl Inbound {
    fn makes_entity(&self) -> bool {
        match self {
            Self::Letter(envelope) => envelope.content.makes_entity(),
            Self::Request(asked) => asked.kind == RequestKind::EntityOperation,
            _ => false,
        }
    }

    fn was_taken(&self, by: &Execution) -> bool {
        match self {
            Self::Letter(envelope) => by.seen.has(&envelope.source),
            Self::Request(asked) => by.requests.known(&asked.source).is_some(),
            _ => false,
        }
    }
}

impl Worker {
    /// Makes the entity that something came in for, if there is none. What cannot
    /// be taken is answered; what is left is given back.
    pub(super) fn make_entity(&mut self, id: &InstanceId, inbound: Inbound) -> Option<Inbound> {
        if !inbound.makes_entity() {
            return Some(inbound);
        }
        let Err(error) = self.make_if_gone(id, &inbound) else { return Some(inbound) };
        match (inbound, error) {
            (Inbound::Letter(envelope), EngineError::UnknownEntityKind(why)) => {
                self.answer(envelope.source, Err(Failure::fatal(FailureKind::NotFound, why)))(Ok(()));
            }
            // Not answered: it comes again when its sender is recovered.
            (Inbound::Letter(_), error) => tracing::error!(instance = ?id, %error, "mail is put off"),
            (inbound, error) => inbound.refuse(error),
        }
        None
    }

    fn make_if_gone(&mut self, id: &InstanceId, inbound: &Inbound) -> Result<(), EngineError> {
        let Some(kind) = kind_of(id) else { return Ok(()) };
        match self.end_of_live(id) {
            None => {}
            Some(Some((End::Completed(_), true))) => self.drop_slot(id),
            // It runs. Or its end is not durable: what came comes again when it is.
            Some(_) => return Ok(()),
        }
        let row = self.store().summary(id)?;
        if row.as_ref().is_some_and(|row| row.status != Status::Completed) {
            return Ok(());
        }
        let (mut started, carried) = match row {
            None => (fresh(id, kind), Vec::new()),
            Some(_) => {
                let deleted = self.deleted(id)?;
                if inbound.was_taken(&deleted.execution) {
                    // It comes again, for its answer.
                    return Ok(());
                }
                self.next_life(&deleted, Payload::null())
            }
        };
        let module = self.modules().resolve_entity_in(&id.namespace(), kind)?;
        started.module = module.hash;
        started.created_at = self.now();
        self.begin_with(started, carried, Vec::new());
        Ok(())
    }

    /// What is left of an entity that was deleted.
    fn deleted(&self, id: &InstanceId) -> Result<Recorder, EngineError> {
        let unknown = || EngineError::UnknownInstance { id: id.clone() };
        let history = self.store().history(id, None)?.ok_or_else(unknown)?;
        bare_recorder(&history.decode()?, self.parts.settings.limits)
            .map_err(|why| EngineError::Blocked { id: id.clone(), why })
    }

    /// What the execution after this one begins with. What it remembers of letters
    /// goes along as far as they can come again.
    pub(super) fn next_life(&self, ended: &Recorder, input: Payload) -> (Box<Started>, Vec<Event>) {
        let mut started = ended.next_execution(input, fresh_seed());
        started.seen.retain(|letter| self.may_come_again(letter));
        (started, ended.execution.requests.carried_on(|letter| self.may_come_again(letter)))
    }

    /// Whether a letter that finds an entity ended is taken by its next execution.
    pub(super) fn is_made_again(&self, ended: &Execution, content: &Content) -> bool {
        let is_entity = is_entity(&ended.started.instance);
        is_entity && content.makes_entity() && matches!(ended.end, Some(End::Completed(_)))
    }
}

fn fresh(id: &InstanceId, kind: &str) -> Box<Started> {
    let (module, at) = (Hash::ZERO, TimestampMs::default());
    Box::new(Started::first(id.clone(), orchestration_of(kind), module, Payload::null(), fresh_seed(), at))
}

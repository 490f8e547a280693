//! Entities: made when something is first asked of them, called from outside.
//!
//! An entity is an instance of the module that offers its kind (its newest version
//! when the entity is made). One that was deleted or terminated is made again, as
//! its next execution, so that no request and no letter is ever taken twice.

use tokio::sync::oneshot;

use super::requests::Asked;
use super::turns::{Inbound, Message, Worker, bare_recorder, fresh_seed};
use super::{Engine, EngineError};
use crate::core::entity::{entity_instance, kind_of};
use crate::core::event::{self, Started};
use crate::core::execution::{End, Execution};
use crate::core::ids::InstanceId;
use crate::core::mail::{Content, Seen, birth};
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::request::{Carried, RequestKind, Source};
use crate::core::retry;
use crate::core::summary::Status;

impl Engine {
    /// Runs an operation of an entity, which is made if it does not exist. Its
    /// answer is durable when this returns. `request` is the caller's name for this
    /// call: the same again is the same call, with the same answer.
    ///
    /// # Errors
    /// If no module offers the kind, the entity has failed, or the input is too
    /// large. What the operation fails with is in the outcome.
    pub async fn call_entity(
        &self,
        kind: &str,
        key: &str,
        operation: &str,
        input: Payload,
        request: &str,
    ) -> Result<Outcome, EngineError> {
        self.ask_entity(kind, key, operation, input, request, false).await
    }

    /// As [`Engine::call_entity`], and returns as soon as the request is durable.
    ///
    /// # Errors
    /// As of [`Engine::call_entity`].
    pub async fn signal_entity(
        &self,
        kind: &str,
        key: &str,
        operation: &str,
        input: Payload,
        request: &str,
    ) -> Result<(), EngineError> {
        self.ask_entity(kind, key, operation, input, request, true).await.map(drop)
    }

    async fn ask_entity(
        &self,
        kind: &str,
        key: &str,
        operation: &str,
        input: Payload,
        request: &str,
        one_way: bool,
    ) -> Result<Outcome, EngineError> {
        let id = entity_instance(kind, key)?;
        self.check_request("operation", operation, request, &input)?;
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
}

impl Worker {
    /// Makes the entity that something came in for, if there is none. What cannot
    /// be taken is answered; what is left is given back.
    pub(super) fn make_entity(&mut self, id: &InstanceId, inbound: Inbound) -> Option<Inbound> {
        if !inbound.makes_entity() {
            return Some(inbound);
        }
        let Err(error) = self.make_if_gone(id) else { return Some(inbound) };
        match inbound {
            Inbound::Letter(envelope) => {
                let failure = Failure::fatal(FailureKind::NotFound, error.to_string());
                self.answer(envelope.source, Err(failure))(Ok(()));
            }
            inbound => inbound.refuse(error),
        }
        None
    }

    fn make_if_gone(&mut self, id: &InstanceId) -> Result<(), EngineError> {
        let Some(kind) = kind_of(id) else { return Ok(()) };
        if let Some(end) = self.end_of_live(id) {
            match end {
                // Its end is not durable yet: it comes again when that is so.
                Some((End::Completed(_) | End::Terminated(_), true)) => self.drop_slot(id),
                _ => return Ok(()),
            }
        }
        let module = match self.store().summary(id)?.map(|summary| summary.status) {
            None | Some(Status::Completed | Status::Terminated) => self.parts.modules.resolve_entity(kind)?,
            Some(_) => return Ok(()),
        };
        let mut started = match self.store().history(id, None)? {
            None => fresh(id, kind),
            Some(history) => {
                let recorder = bare_recorder(&history.decode()?, self.parts.settings.limits)
                    .map_err(|why| EngineError::Blocked { id: id.clone(), why })?;
                let again = recorder.next_execution(Payload::null(), fresh_seed());
                let Carried { count, answered, .. } = again.requests.clone();
                // Whoever waited for it has been told that it ended.
                Box::new(Started { requests: Carried { count, answered, ..Carried::default() }, ..*again })
            }
        };
        started.module = module.hash;
        started.created_at = self.parts.clock.now();
        self.forget_old_mail(&mut started);
        self.begin(started, Vec::new());
        Ok(())
    }

    /// Whether a letter that finds an entity ended is taken by its next execution.
    pub(super) fn is_made_again(&self, ended: &Execution, content: &Content) -> bool {
        content.makes_entity() && matches!(ended.end, Some(End::Completed(_) | End::Terminated(_)))
    }

    /// What an execution remembers of letters goes along as far as they can come
    /// again.
    pub(super) fn forget_old_mail(&self, started: &mut Started) {
        started.seen.retain(|sender, birth, key| self.may_come_again(sender, birth, key));
        started.requests.answered.retain(|answered| match &answered.source {
            Source::Instance(letter) => self.may_come_again(&letter.instance, letter.birth, letter.key()),
            Source::Outside(_) => true,
        });
    }
}

fn fresh(id: &InstanceId, kind: &str) -> Box<Started> {
    let seed = fresh_seed();
    Box::new(Started {
        format: event::FORMAT,
        instance: id.clone(),
        execution: 1,
        orchestration: format!("@{kind}"),
        module: crate::core::ids::Hash::ZERO,
        input: Payload::null(),
        birth: birth(&seed),
        seed,
        created_at: Default::default(),
        retry_algorithm: retry::ALGORITHM,
        parent: None,
        tags: Vec::new(),
        buffered: Vec::new(),
        outbox: Vec::new(),
        seen: Seen::default(),
        requests: Carried::default(),
    })
}

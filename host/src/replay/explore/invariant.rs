//! Assertions: what they see, and how a panic becomes a finding.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use serde::de::DeserializeOwned;

use super::world::Turned;
use super::{Explorer, Model, State};
use crate::core::execution::End;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};

/// A world, as an assertion sees it.
#[derive(Debug)]
pub struct World<'a, M> {
    /// The model of the world outside.
    pub model: &'a M,
    lives: &'a [Rc<Turned>],
}

impl<M> World<'_, M> {
    /// How an instance ended, if it has.
    ///
    /// # Panics
    /// If there is no such instance.
    pub fn end(&self, instance: &str) -> Option<Outcome> {
        self.life(instance).end()
    }

    /// The output of an instance that has completed.
    ///
    /// # Panics
    /// If there is no such instance, or its output is no `T`.
    pub fn output<T: DeserializeOwned>(&self, instance: &str) -> Option<T> {
        let output = self.end(instance)?.ok()?;
        Some(
            serde_json::from_slice(&output.data)
                .unwrap_or_else(|error| panic!("{instance} returned {output}: {error}")),
        )
    }

    /// The instances that have ended, in the order in which they were given.
    pub fn ends(&self) -> impl Iterator<Item = (&str, Outcome)> {
        self.lives.iter().filter_map(|life| Some((life.life.id().as_str(), life.end()?)))
    }

    /// What an instance wants people to see.
    ///
    /// # Panics
    /// If there is no such instance.
    pub fn custom_status(&self, instance: &str) -> Option<&Payload> {
        self.life(instance).life.execution.custom_status.as_ref()
    }

    fn life(&self, instance: &str) -> &Turned {
        let found = self.lives.iter().find(|life| life.life.id().as_str() == instance);
        found.unwrap_or_else(|| panic!("there is no instance {instance:?} in this exploration"))
    }
}

impl Turned {
    /// How it ended, as whoever waits for it is told.
    pub(super) fn end(&self) -> Option<Outcome> {
        match self.life.execution.end.as_ref()? {
            End::Completed(output) | End::ContinuedAsNew(output) => Some(Ok(output.clone())),
            End::Failed(failure) => Some(Err(failure.clone())),
            End::Terminated(reason) => Some(Err(Failure::fatal(FailureKind::Terminated, reason.clone()))),
        }
    }
}

/// What is wrong with a world, if anything is.
pub(super) fn fault_of_world<M: Model>(explorer: &Explorer<M>, state: &State<M>) -> Option<String> {
    let world = World { model: &*state.model, lives: &state.lives };
    let ended = state.has_ended();
    let due = explorer.always.iter().chain(explorer.at_end.iter().filter(|_| ended));
    due.into_iter().find_map(|check| caught(|| check(&world)).err())
}

/// What is wrong with a history, if anything is.
pub(super) fn fault_of_history<M: Model>(explorer: &Explorer<M>, turned: &Turned) -> Option<String> {
    if explorer.history.is_empty() {
        return None;
    }
    let events: Vec<_> = turned.life.events().collect();
    explorer.history.iter().find_map(|check| caught(|| check(turned.life.id().as_str(), &events)).err())
}

/// What `code` returns, or what it panicked with.
pub(super) fn caught<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
    })
}

//! Assertions: what they see, and how a panic becomes a finding.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use serde::de::DeserializeOwned;

use super::turns::{Turned, Turns};
use super::world::State;
use super::{Explorer, Model};
use crate::core::panics::panic_text;
use crate::core::payload::{Outcome, Payload};
use crate::core::request::{Known, Source};
use crate::replay::life::Inbound;

/// A world, as an assertion sees it.
pub struct World<'a, M> {
    /// The model of the world outside.
    pub model: &'a M,
    state: &'a State<M>,
    explorer: &'a Explorer<M>,
}

impl<M: fmt::Debug> fmt::Debug for World<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("model", self.model).finish_non_exhaustive()
    }
}

impl<M> World<'_, M> {
    /// How an instance ended, if it has; also one that another one called, once it
    /// has begun.
    ///
    /// # Panics
    /// If there is no such instance.
    pub fn end(&self, instance: &str) -> Option<Outcome> {
        self.life(instance).life.outcome()
    }

    /// The output of an instance that has completed.
    ///
    /// # Panics
    /// If there is no such instance, or its output is no `T`.
    pub fn output<T: DeserializeOwned>(&self, instance: &str) -> Option<T> {
        let output = self.end(instance)?.ok()?;
        Some(decode(&format!("what {instance} returned"), &output))
    }

    /// The given instances that have ended, in the order in which they were given.
    pub fn ends(&self) -> impl Iterator<Item = (&str, Outcome)> {
        let given = self.state.lives.values().take(self.explorer.instances.len());
        given.filter_map(|turned| Some((turned.life.id().as_str(), turned.life.outcome()?)))
    }

    /// The instances that others have called, in the order in which the exploration
    /// met them.
    pub fn called(&self) -> impl Iterator<Item = &str> {
        self.state.lives.values().skip(self.explorer.instances.len()).map(|turned| turned.life.id().as_str())
    }

    /// The updates of an instance with their answers, in the order in which they
    /// were given. None: it has not come, or waits for its answer, or the instance
    /// ended without one.
    ///
    /// # Panics
    /// If there is no such instance.
    pub fn updates(&self, instance: &str) -> Vec<(&str, Option<Outcome>)> {
        let requests = &self.life(instance).life.execution.requests;
        let of = self.explorer.inputs.iter().filter(|(of, _)| of == instance);
        let updates = of.filter_map(|(_, input)| match input {
            Inbound::Update(key, name, _) => Some((key, name.as_str())),
            _ => None,
        });
        let answer = |key: &String| match requests.known(&Source::Outside(key.clone())) {
            Some(Known::Answered(answer)) => Some(answer.clone()),
            _ => None,
        };
        updates.map(|(key, name)| (name, answer(key))).collect()
    }

    /// What an instance wants people to see.
    ///
    /// # Panics
    /// If there is no such instance.
    pub fn custom_status(&self, instance: &str) -> Option<&Payload> {
        self.life(instance).life.execution.custom_status.as_ref()
    }

    fn life(&self, instance: &str) -> &Turned {
        let found = self.find(instance);
        found.unwrap_or_else(|| panic!("there is no instance {instance:?} in this world"))
    }

    fn find(&self, instance: &str) -> Option<&Rc<Turned>> {
        self.state.lives.values().find(|life| life.life.id().as_str() == instance)
    }
}

/// What is wrong with a world, if anything is.
pub(super) fn fault_of_world<M: Model>(explorer: &Explorer<M>, state: &State<M>, turns: &Turns) -> Option<String> {
    let world = World { model: &*state.model, state, explorer };
    let ended = state.has_ended();
    let due = explorer.always.iter().chain(explorer.at_end.iter().filter(|_| ended));
    let broken = due.into_iter().find_map(|check| caught(|| check(&world)).err());
    broken.or_else(|| {
        explorer.queries.iter().find_map(|query| {
            let turned = world.find(&query.instance).filter(|turned| turned.life.execution.begun)?;
            let answer = turns.query(turned, &query.name, &query.input, explorer);
            caught(|| (query.check)(&world, answer)).err()
        })
    })
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
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| panic_text(panic.as_ref()).to_owned())
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, payload: &Payload) -> T {
    serde_json::from_slice(&payload.data).unwrap_or_else(|error| panic!("{what} is {payload}: {error}"))
}

//! Where guests run: each turn of one history with the same news once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde::Serialize;

use super::invariant::fault_of_history;
use super::world::Number;
use super::{Explorer, Model, Reductions};
use crate::core::execution::Execution;
use crate::core::ids::{Hash, InstanceId, TimestampMs};
use crate::core::payload::{Outcome, Payload};
use crate::replay::life::{Inbound, Life};

/// An instance after one of its turns.
#[derive(Debug)]
pub(super) struct Turned {
    pub(super) life: Life,
    /// By which it is recognised.
    pub(super) key: Hash,
}

impl Turned {
    pub(super) fn new<M>(life: Life, explorer: &Explorer<M>) -> Self {
        let mut key = life.execution.head;
        // A query sees all of its state, also when it has ended.
        if let (Some(end), true) = (life.outcome(), explorer.queries.is_empty()) {
            // Nothing of it can matter any more but what others see of it.
            let Execution { custom_status, tags, outbox, seen, requests, started, .. } = &life.execution;
            let letters: Vec<_> = outbox.letters().collect();
            let known = (letters, seen, &started.caller, requests.carried_on(|_| true));
            key = hash(&(life.id(), end, custom_status, tags, known));
        }
        Self { life, key }
    }
}

/// Runs guests. A turn depends on the history before it and on what it is told.
pub(super) struct Turns {
    remembered: HashMap<Hash, Rc<Turned>>,
    asked: RefCell<HashMap<Hash, Outcome>>,
    ids: Vec<InstanceId>,
    reductions: Reductions,
    /// Turns that guests ran.
    pub(super) run: u64,
    /// Turns that were known.
    pub(super) known: u64,
}

impl Turns {
    pub(super) fn new(reductions: Reductions) -> Self {
        let (remembered, asked) = (HashMap::new(), RefCell::default());
        Self { remembered, asked, ids: Vec::new(), reductions, run: 0, known: 0 }
    }

    /// The number that an id has in every world of this exploration.
    pub(super) fn number_of(&mut self, id: &InstanceId) -> Number {
        self.ids.iter().position(|known| known == id).unwrap_or_else(|| {
            self.ids.push(id.clone());
            self.ids.len() - 1
        })
    }

    pub(super) fn run<M: Model>(
        &mut self,
        before: &Turned,
        at: TimestampMs,
        inbound: Vec<Inbound>,
        explorer: &Explorer<M>,
    ) -> Result<Rc<Turned>, String> {
        let key = hash(&(before.life.execution.head, at, &inbound));
        if let Some(turned) = self.remembered.get(&key) {
            self.known += 1;
            return Ok(turned.clone());
        }
        self.run += 1;
        let mut life = before.life.clone();
        let mut guest =
            life.guest(&explorer.subjects.of(life.execution.module).module).map_err(|error| error.to_string())?;
        let default_retry = |name: &str| explorer.default_retry.get(name).cloned();
        life.carry_on(&mut guest, at, inbound, &default_retry);
        let turned = Rc::new(Turned::new(life, explorer));
        if let Some(fault) = fault_of_history(explorer, &turned) {
            return Err(fault);
        }
        if self.reductions.remember_turns {
            self.remembered.insert(key, turned.clone());
        }
        Ok(turned)
    }

    /// What the instance's code says of its state.
    pub(super) fn query<M: Model>(
        &self,
        turned: &Turned,
        name: &str,
        input: &Payload,
        explorer: &Explorer<M>,
    ) -> Outcome {
        let key = hash(&(turned.life.execution.head, name, input));
        let ask = || {
            let module = &explorer.subjects.of(turned.life.execution.module).module;
            let asked = turned.life.query(module, name, input.clone());
            asked.unwrap_or_else(|error| panic!("{} does not replay: {error}", turned.life.id())).0
        };
        self.asked.borrow_mut().entry(key).or_insert_with(ask).clone()
    }
}

/// The hash of what postcard writes of `value`.
pub(super) fn hash(value: &impl Serialize) -> Hash {
    Hash::of(&postcard::to_stdvec(value).expect("no part of it is one that postcard cannot write"))
}

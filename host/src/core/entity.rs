//! Entities as the host knows them: what they are called, and the gate before
//! each one's guest.
//!
//! An entity is an instance with the id `@kind@key`. What is asked of it reaches
//! its guest through the [`Gate`], in the order in which it came; while a lock is
//! held, only the holder's operations pass. A lock is taken by a letter and freed
//! by another (see [`super::mail`]). Both are in the holder's outbox from the moment
//! it asks, the second held back until the holder frees the lock or its execution
//! ends, however it ends; so it is freed whatever dies meanwhile.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::InstanceId;
use super::mail::{MailKey, Source};
use super::namespace::Namespace;
use super::request::RequestId;

/// The id of an entity in a namespace.
///
/// # Errors
/// Says what is wrong with kind or key.
pub fn entity_instance(namespace: &Namespace, kind: &str, key: &str) -> Result<InstanceId, String> {
    if let Some(fault) = fault_of_kind(kind) {
        return Err(fault);
    }
    if key.is_empty() {
        return Err(format!("the key of an entity {kind:?} is empty, expected at least 1 byte"));
    }
    InstanceId::within(namespace, &format!("@{kind}@{key}")).map_err(|invalid| invalid.to_string())
}

/// What the entities of a kind run: no orchestration can have that name.
pub fn orchestration_of(kind: &str) -> String {
    format!("@{kind}")
}

/// Why a text is no entity kind, if it is none.
pub fn fault_of_kind(kind: &str) -> Option<String> {
    let plain = !kind.is_empty() && kind.len() <= 100 && !kind.chars().any(|c| c.is_control() || c == '@');
    (!plain).then(|| format!("the entity kind {kind:?} is not 1 to 100 plain characters without '@'"))
}

/// Whether an id is one of an entity, or looks like it: others may not begin so.
pub fn is_entity(id: &InstanceId) -> bool {
    id.local().starts_with('@')
}

/// The kind in an entity's id.
pub fn kind_of(id: &InstanceId) -> Option<&str> {
    id.local().strip_prefix('@')?.split_once('@').map(|(kind, _)| kind)
}

/// Who waits before a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Waiting {
    /// An operation, and which instance's it is.
    Operation(RequestId, Option<Source>),
    /// Somebody who wants the entity alone.
    Lock(Source),
}

/// The order in which an entity is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    holder: Option<Source>,
    queue: VecDeque<Waiting>,
    /// Handed to the guest and not answered, in that order.
    running: Vec<RequestId>,
}

/// What passes a gate.
#[derive(Debug, PartialEq)]
pub(super) enum Passed {
    /// An operation is handed to the guest.
    Operation(RequestId),
    /// The lock is granted.
    Lock(Source),
}

impl Gate {
    /// Whether nobody waits, holds or runs.
    pub fn is_idle(&self) -> bool {
        self.holder.is_none() && self.queue.is_empty() && self.running.is_empty()
    }

    /// The operation that the guest is at: it runs one after the other.
    pub fn at(&self) -> Option<RequestId> {
        self.running.first().copied()
    }

    /// Who has the entity alone.
    pub fn holder(&self) -> Option<&Source> {
        self.holder.as_ref()
    }

    /// Whether that lock was asked for and is not granted.
    pub fn has_waiting(&self, lock: &Source) -> bool {
        self.queue.iter().any(|waiting| matches!(waiting, Waiting::Lock(holder) if holder == lock))
    }

    /// Locks that wait or are held.
    pub(super) fn locks(&self) -> impl Iterator<Item = Source> {
        let waiting = self.queue.iter().filter_map(|waiting| match waiting {
            Waiting::Lock(of) => Some(of.clone()),
            Waiting::Operation(..) => None,
        });
        waiting.chain(self.holder.clone())
    }

    pub(super) fn ask(&mut self, request: RequestId, source: Option<Source>) {
        self.queue.push_back(Waiting::Operation(request, source));
    }

    pub(super) fn lock(&mut self, holder: Source) {
        self.queue.push_back(Waiting::Lock(holder));
    }

    /// Frees a lock. The lock, if it was not even granted.
    pub(super) fn unlock(&mut self, by: &Source, lock: MailKey) -> Option<Source> {
        let is_it = |of: &Source| of.instance == by.instance && of.birth == by.birth && of.key() == lock;
        if self.holder.as_ref().is_some_and(is_it) {
            self.holder = None;
            return None;
        }
        let at = self.queue.iter().position(|waiting| matches!(waiting, Waiting::Lock(of) if is_it(of)))?;
        match self.queue.remove(at) {
            Some(Waiting::Lock(of)) => Some(of),
            _ => None,
        }
    }

    pub(super) fn answered(&mut self, request: RequestId) {
        self.running.retain(|running| *running != request);
    }

    /// The next one that may pass; it has passed then.
    pub(super) fn pass(&mut self) -> Option<Passed> {
        let Some(holder) = &self.holder else {
            return match self.queue.front()? {
                // Whoever locks finds no operation in the middle.
                Waiting::Lock(_) if !self.running.is_empty() => None,
                _ => match self.queue.pop_front()? {
                    Waiting::Lock(source) => {
                        self.holder = Some(source.clone());
                        Some(Passed::Lock(source))
                    }
                    Waiting::Operation(request, _) => Some(self.run(request)),
                },
            };
        };
        let is_of_holder = |waiting: &Waiting| match waiting {
            Waiting::Operation(_, Some(of)) => {
                of.instance == holder.instance && of.birth == holder.birth && of.execution == holder.execution
            }
            _ => false,
        };
        let at = self.queue.iter().position(is_of_holder)?;
        match self.queue.remove(at)? {
            Waiting::Operation(request, _) => Some(self.run(request)),
            Waiting::Lock(_) => None,
        }
    }

    /// What the next execution gets: what ran there is asked for again, first.
    pub(super) fn carried(&self, source_of: impl Fn(RequestId) -> Option<Source>) -> Self {
        let again = self.running.iter().map(|&request| Waiting::Operation(request, source_of(request)));
        Self {
            holder: self.holder.clone(),
            queue: again.chain(self.queue.iter().cloned()).collect(),
            running: Vec::new(),
        }
    }

    fn run(&mut self, request: RequestId) -> Passed {
        self.running.push(request);
        Passed::Operation(request)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some(holder) => write!(f, "held by {}", holder.instance)?,
            None => f.write_str("free")?,
        }
        write!(f, ", {} waiting", self.queue.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(instance: &str, operation: u32) -> Source {
        Source { instance: InstanceId::new(instance).unwrap(), birth: 1, execution: 1, operation }
    }

    fn passed(gate: &mut Gate) -> Vec<Passed> {
        std::iter::from_fn(|| gate.pass()).collect()
    }

    #[test]
    fn entities_have_ids_of_their_own() {
        let default = Namespace::default();
        let id = entity_instance(&default, "account", "a@b").unwrap();
        assert_eq!(id.as_str(), "@account@a@b");
        assert_eq!(kind_of(&id), Some("account"));
        assert!(entity_instance(&default, "a@b", "c").is_err());
        assert!(entity_instance(&default, "", "c").is_err());
        assert!(!is_entity(&InstanceId::new("account").unwrap()));
    }

    #[test]
    fn without_a_lock_everything_passes_in_its_order() {
        let mut gate = Gate::default();
        gate.ask(1, None);
        gate.ask(2, Some(by("a", 1)));
        assert_eq!(passed(&mut gate), [Passed::Operation(1), Passed::Operation(2)]);
        gate.answered(2);
        gate.answered(1);
        assert!(gate.is_idle());
    }

    #[test]
    fn a_lock_waits_for_what_runs_and_then_only_its_holder_passes() {
        let mut gate = Gate::default();
        gate.ask(1, None);
        gate.lock(by("a", 1));
        gate.ask(2, None);
        assert_eq!(passed(&mut gate), [Passed::Operation(1)]);
        gate.answered(1);
        assert_eq!(passed(&mut gate), [Passed::Lock(by("a", 1))]);
        gate.ask(3, Some(by("b", 5)));
        gate.ask(4, Some(by("a", 2)));
        assert_eq!(passed(&mut gate), [Passed::Operation(4)]);
        assert_eq!(gate.unlock(&by("a", 9), (1, 1)), None);
        assert_eq!(passed(&mut gate), [Passed::Operation(2), Passed::Operation(3)]);
    }

    #[test]
    fn a_lock_that_was_not_granted_is_taken_out_of_the_queue() {
        let mut gate = Gate::default();
        gate.lock(by("a", 1));
        gate.lock(by("b", 1));
        assert_eq!(passed(&mut gate), [Passed::Lock(by("a", 1))]);
        assert_eq!(gate.unlock(&by("b", 2), (1, 1)), Some(by("b", 1)));
        assert_eq!(gate.unlock(&by("b", 3), (1, 1)), None, "again");
        assert_eq!(gate.holder(), Some(&by("a", 1)));
        gate.unlock(&by("a", 2), (1, 1));
        assert!(gate.is_idle());
    }

    #[test]
    fn what_ran_is_asked_for_again_in_the_next_execution() {
        let mut gate = Gate::default();
        gate.ask(1, None);
        passed(&mut gate);
        gate.lock(by("a", 1));
        gate.ask(2, None);
        let mut next = gate.carried(|_| None);
        assert_eq!(passed(&mut next), [Passed::Operation(1)]);
        next.answered(1);
        assert_eq!(passed(&mut next), [Passed::Lock(by("a", 1))]);
    }
}

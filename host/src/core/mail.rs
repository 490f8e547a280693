//! What instances send to each other, each letter taken exactly once.
//!
//! A letter is *recorded* by its sender, sent after that commit, *taken* by its
//! receiver in a turn of its own history, and *answered* to the sender, which
//! records the answer. No letter is stored beside histories: one that has no
//! answer yet is in the sender's [`Outbox`], and is sent again whenever a host
//! takes the sender over. What makes that harmless is the receiver's [`Seen`]:
//! a letter is named by its [`Source`], and one that was taken is not taken again.
//!
//! # Bounds
//! A letter carries its sender's lowest unanswered key, its *floor*: the sender
//! never sends anything below it again, so a receiver forgets the keys below and
//! keeps the floor. What an execution has seen is therefore never more than the
//! letters in its own history and those that its predecessor passed on. At
//! continue-as-new only those are passed on that their senders' journals still
//! hold as unanswered ([`Seen::retain`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::calls::{Call, Leave};
use super::event::Event;
use super::ids::{ExecutionNumber, Hash, InstanceId, OperationId};
use super::payload::{Failure, FailureKind, Outcome, Payload};
use super::summary::Status;
use super::turn::TurnRecord;

/// Names a letter among all that one instance ever sends: the execution and the
/// operation that asked for it.
pub type MailKey = (ExecutionNumber, OperationId);

/// Who sent a letter, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The sender.
    pub instance: InstanceId,
    /// Which of the instances that ever had this id, see [`birth`].
    pub birth: u64,
    /// The execution that asked.
    pub execution: ExecutionNumber,
    /// Its operation.
    pub operation: OperationId,
}

impl Source {
    fn of(sender: &InstanceId, birth: u64, (execution, operation): MailKey) -> Self {
        Self { instance: sender.clone(), birth, execution, operation }
    }

    /// Its name among the letters of its sender.
    pub fn key(&self) -> MailKey {
        (self.execution, self.operation)
    }
}

/// Tells an instance from all others that ever had or will have its id: drawn
/// from the seed of its first execution.
pub fn birth(seed: &[u8; 32]) -> u64 {
    let hash = Hash::of(seed);
    u64::from_le_bytes(hash.0[..8].try_into().expect("a hash has 32 bytes"))
}

/// A letter as its sender keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// The receiver.
    pub to: InstanceId,
    /// What it says.
    pub content: Content,
}

/// What a letter says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// An event is to be raised.
    Signal {
        /// Its name.
        name: String,
        /// What it carries.
        value: Payload,
    },
    /// A sub-orchestration whose caller has ended is to go on, or to begin: its
    /// caller may have ended before it was told to.
    Call(Box<Call>),
    /// An operation of an entity is to be run. Its answer is what comes of it.
    EntityOperation {
        /// Its name.
        name: String,
        /// Its argument.
        input: Payload,
        /// Answered when it is taken.
        one_way: bool,
    },
    /// The sender wants an entity alone. Answered when it has it.
    EntityLock {
        /// The letter that will free it.
        unlock: MailKey,
    },
    /// The sender frees an entity.
    EntityUnlock {
        /// The letter that asked for it.
        lock: MailKey,
    },
}

impl Content {
    /// Whether the letter is answered as soon as it is taken; else when there is
    /// something to say.
    pub fn is_answered_when_taken(&self) -> bool {
        match self {
            Self::Signal { .. } | Self::Call(_) | Self::EntityUnlock { .. } => true,
            Self::EntityOperation { one_way, .. } => *one_way,
            Self::EntityLock { .. } => false,
        }
    }
}

/// A letter on its way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Envelope {
    /// Who sent it.
    pub source: Source,
    /// The sender's lowest unanswered key.
    pub floor: MailKey,
    /// What it says.
    pub content: Content,
}

/// Why a signal was not taken: its receiver has ended, or there is none.
pub fn not_taken(receiver: &InstanceId, ended: Option<Status>) -> Failure {
    let (error_type, message) = match ended {
        Some(status) => {
            ("InstanceEnded", format!("instance {receiver} has ended ({status}); the signal was not taken"))
        }
        None => ("UnknownInstance", format!("unknown instance {receiver}; signal one that was started")),
    };
    Failure { error_type: error_type.to_owned(), ..Failure::fatal(FailureKind::NotFound, message) }
}

/// What an execution lets other instances know once its turn is durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Post {
    /// A letter of its outbox.
    Letter(MailKey),
    /// A sub-orchestration is to run.
    Call(OperationId),
    /// A sub-orchestration is left alone.
    Leave(Leave),
    /// It has ended; whoever called it is told.
    Return,
    /// The answer to a letter that it took.
    Answer(Box<(Source, Outcome)>),
}

/// Letters that have no answer yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outbox(BTreeMap<MailKey, Letter>);

impl Outbox {
    /// Those that the execution before had sent without an answer.
    pub fn of(passed_on: &[(MailKey, Letter)]) -> Self {
        Self(passed_on.iter().cloned().collect())
    }

    /// Keeps a letter until it is answered.
    pub fn put(&mut self, key: MailKey, letter: Letter) {
        self.0.insert(key, letter);
    }

    /// The letter has its answer. False: it had one already.
    pub fn answered(&mut self, key: MailKey) -> bool {
        self.0.remove(&key).is_some()
    }

    /// The letter, if it has no answer yet.
    pub fn get(&self, key: MailKey) -> Option<&Letter> {
        self.0.get(&key)
    }

    /// Keeps those letters of which `wanted` says so.
    pub fn retain(&mut self, mut wanted: impl FnMut(MailKey) -> bool) {
        self.0.retain(|key, _| wanted(*key));
    }

    /// Whether everything was answered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The letters, in the order in which they were asked for.
    pub fn letters(&self) -> impl Iterator<Item = (MailKey, &Letter)> {
        self.0.iter().map(|(key, letter)| (*key, letter))
    }

    /// The letter as it is sent, if it has no answer yet.
    pub fn envelope(&self, instance: &InstanceId, birth: u64, key: MailKey) -> Option<(InstanceId, Envelope)> {
        let letter = self.0.get(&key)?;
        let floor = self.0.first_key_value().map_or(key, |(first, _)| *first);
        let source = Source::of(instance, birth, key);
        Some((letter.to.clone(), Envelope { source, floor, content: letter.content.clone() }))
    }
}

/// The letters that an instance has taken, as far as they could come again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seen(BTreeMap<InstanceId, OfSender>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OfSender {
    birth: u64,
    /// Everything below was taken, or was never for this receiver.
    floor: MailKey,
    keys: BTreeSet<MailKey>,
}

impl Seen {
    /// Whether that letter was taken already.
    pub fn has(&self, source: &Source) -> bool {
        let Some(of) = self.0.get(&source.instance).filter(|of| of.birth == source.birth) else { return false };
        source.key() < of.floor || of.keys.contains(&source.key())
    }

    /// The letter is taken, and everything below `floor` of its sender forgotten.
    pub fn take(&mut self, source: &Source, floor: MailKey) {
        let new = || OfSender { birth: source.birth, floor, keys: BTreeSet::new() };
        let of = self.0.entry(source.instance.clone()).or_insert_with(new);
        if of.birth != source.birth {
            // Another instance has that id now; the one before sends nothing more.
            *of = new();
        }
        of.floor = of.floor.max(floor);
        of.keys.insert(source.key());
        of.keys = of.keys.split_off(&of.floor);
    }

    /// Those that the execution with these turns had taken at its end.
    pub fn of_history(turns: &[TurnRecord]) -> Self {
        let mut seen = Self::default();
        for event in turns.iter().flat_map(|turn| &turn.events) {
            match event {
                Event::ExecutionStarted(started) => seen.clone_from(&started.seen),
                event => event.letter().into_iter().for_each(|(source, floor)| seen.take(source, floor)),
            }
        }
        seen
    }

    /// Every letter that is remembered by its key.
    pub fn letters(&self) -> impl Iterator<Item = Source> {
        self.0.iter().flat_map(|(sender, of)| of.keys.iter().map(|&key| Source::of(sender, of.birth, key)))
    }

    /// Forgets the letters of which `may_come_again` knows better.
    pub fn retain(&mut self, mut may_come_again: impl FnMut(&Source) -> bool) {
        self.0.retain(|sender, of| {
            let birth = of.birth;
            of.keys.retain(|&key| may_come_again(&Source::of(sender, birth, key)));
            !of.keys.is_empty()
        });
    }

    /// How many letters are remembered.
    pub fn len(&self) -> usize {
        self.0.values().map(|of| of.keys.len()).sum()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(instance: &str, birth: u64, key: MailKey) -> Source {
        let instance = InstanceId::new(instance).unwrap();
        Source { instance, birth, execution: key.0, operation: key.1 }
    }

    #[test]
    fn a_letter_is_taken_once_and_forgotten_when_it_cannot_come_again() {
        let mut seen = Seen::default();
        for operation in 1..=100 {
            let source = from("a", 7, (1, operation));
            assert!(!seen.has(&source));
            // The sender has at most three without an answer.
            seen.take(&source, (1, operation.saturating_sub(2).max(1)));
            assert!(seen.has(&source));
            assert!(seen.len() <= 3, "{}", seen.len());
        }
        assert!(seen.has(&from("a", 7, (1, 1))), "what is below the floor is known too");
        assert!(!seen.has(&from("a", 7, (2, 1))), "another execution of the sender");
        assert!(!seen.has(&from("a", 8, (1, 1))), "another instance of that id");
        assert!(!seen.has(&from("b", 7, (1, 1))));
    }

    #[test]
    fn what_its_sender_has_no_longer_in_its_journal_is_not_passed_on() {
        let mut seen = Seen::default();
        seen.take(&from("a", 7, (1, 1)), (1, 1));
        seen.take(&from("a", 7, (1, 2)), (1, 1));
        seen.take(&from("b", 9, (3, 1)), (3, 1));
        seen.retain(|letter| letter.instance.as_str() == "a" && letter.key() == (1, 2));
        assert_eq!(seen.len(), 1);
        assert!(seen.has(&from("a", 7, (1, 2))));
        assert!(!seen.has(&from("b", 9, (3, 1))));
    }

    #[test]
    fn a_letter_carries_the_lowest_key_that_has_no_answer() {
        let mut outbox = Outbox::default();
        let me = InstanceId::new("me").unwrap();
        let letter = Letter { to: me.clone(), content: Content::Signal { name: "x".into(), value: Payload::null() } };
        outbox.put((1, 2), letter.clone());
        outbox.put((1, 5), letter);
        assert_eq!(outbox.envelope(&me, 1, (1, 5)).unwrap().1.floor, (1, 2));
        assert!(outbox.answered((1, 2)));
        assert!(!outbox.answered((1, 2)));
        assert_eq!(outbox.envelope(&me, 1, (1, 5)).unwrap().1.floor, (1, 5));
        assert!(outbox.envelope(&me, 1, (1, 2)).is_none());
    }
}

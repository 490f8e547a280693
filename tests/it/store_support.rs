//! Instances, turns and chance for the store's tests.

use std::sync::Arc;

use dacapo::core::calls::Caller;
use dacapo::core::event::{Event, FORMAT, Started};
use dacapo::core::ids::{Hash, InstanceId, TimestampMs};
use dacapo::core::keys::Keys;
use dacapo::core::mail::Seen;
use dacapo::core::payload::Payload;
use dacapo::core::turn::TurnRecord;
use dacapo::store::{Batch, TurnCommit};

/// An instance id that is known to be valid.
pub(crate) fn id(text: &str) -> InstanceId {
    InstanceId::new(text).expect("a valid id")
}

/// Payloads of more bytes are large to the stores of these tests.
pub(crate) const LARGE_BYTES: usize = 1200;

/// Writes an instance's turns, each with the hash of the one before.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) instance: InstanceId,
    pub(crate) execution: u32,
    pub(crate) turn: u32,
    head: Hash,
}

impl Writer {
    pub(crate) fn new(instance: &str) -> Self {
        Self { instance: id(instance), execution: 1, turn: 0, head: Hash::ZERO }
    }

    /// The next turn, with these events.
    pub(crate) fn turn(&mut self, events: Vec<Event>) -> TurnCommit {
        self.turn += 1;
        let at = TimestampMs(1_000 * u64::from(self.execution) + u64::from(self.turn));
        let bytes: Arc<[u8]> = TurnRecord { previous: self.head, at, ran: true, events }.encode();
        self.head = Hash::of(&bytes);
        TurnCommit { instance: self.instance.clone(), execution: self.execution, turn: self.turn, bytes }
    }

    /// The first turn of an execution.
    pub(crate) fn start(&mut self) -> TurnCommit {
        self.started(None)
    }

    /// As [`Self::start`], of one that was called.
    pub(crate) fn start_called(&mut self, caller: Caller) -> TurnCommit {
        self.started(Some(caller))
    }

    fn started(&mut self, caller: Option<Caller>) -> TurnCommit {
        let started = Event::ExecutionStarted(Box::new(Started {
            format: FORMAT,
            instance: self.instance.clone(),
            execution: self.execution,
            orchestration: if self.instance.as_str().len().is_multiple_of(2) { "even" } else { "odd" }.to_owned(),
            module: Hash::of(b"module"),
            input: Payload::json("{\"amount\":42}"),
            seed: [7; 32],
            created_at: TimestampMs(1),
            retry_algorithm: 1,
            parent: None,
            tags: vec![("tier".to_owned(), "gold".to_owned())],
            buffered: Vec::new(),
            start_at: None,
            forked_from: None,
            keys: Keys::default(),
            shared: Vec::new(),
            birth: 5,
            outbox: Vec::new(),
            seen: Seen::default(),
            caller,
        }));
        self.turn(vec![started])
    }

    /// A turn in the middle, about 150 bytes long; each fifth one has a large payload.
    pub(crate) fn step(&mut self) -> TurnCommit {
        let n = self.turn;
        let filler = "x".repeat(if n % 5 == 4 { LARGE_BYTES + 1 } else { 40 });
        let text = format!("{{\"step\":{n},\"of\":\"{}\",\"filler\":\"{filler}\"}}", self.instance);
        let name = format!("step-{n}");
        self.turn(vec![Event::ValueRecorded { name, value: Payload::json(text) }])
    }

    /// The turn that completes the instance.
    pub(crate) fn complete(&mut self) -> TurnCommit {
        self.turn(vec![Event::Completed { output: Payload::null() }])
    }

    /// The last turn of this execution and the first one of the next.
    pub(crate) fn continue_as_new(&mut self) -> [TurnCommit; 2] {
        let last = self.turn(vec![Event::ContinuedAsNew { input: Payload::null() }]);
        (self.execution, self.turn, self.head) = (self.execution + 1, 0, Hash::ZERO);
        [last, self.start()]
    }
}

/// One batch of these turns.
pub(crate) fn batch(turns: impl IntoIterator<Item = TurnCommit>) -> Batch {
    Batch { turns: turns.into_iter().collect() }
}

/// Chance that a seed repeats (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// The seeds to try: `DACAPO_SEED` alone, or the first `count`.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("DACAPO_SEED") {
        Ok(seed) => vec![seed.parse().expect("DACAPO_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

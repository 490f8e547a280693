//! States to go back to: the guest's and the recorder's, after some of the turns.
//!
//! They are kept at even distances on the way forward and close together where
//! one looks. When they take more memory than they may, those go first whose
//! absence is felt least: between near neighbours, far from the latest one.

use crate::core::turn::Recorder;
use crate::sandbox::guest::Guest;
use crate::sandbox::snapshot::Snapshot;

/// Events between two states on the way forward: running so many again takes less
/// time than the eye notices, and copying a state costs about as much.
const GRID: u32 = 256;

#[derive(Debug)]
pub(super) struct Checkpoints {
    /// In the order of their turns, the beginning first.
    kept: Vec<Checkpoint>,
    budget: usize,
    /// The event after which the last one on the grid was kept.
    last_on_grid: u32,
}

#[derive(Debug)]
struct Checkpoint {
    turns: usize,
    state: State,
    /// Memory that it takes beyond the one before it, bytes.
    bytes: usize,
}

#[derive(Debug)]
enum State {
    /// All of it.
    Guest(Box<Snapshot>),
    /// Where the guest's own state cannot be copied.
    Recorder(Box<Recorder>),
}

impl State {
    fn recorder(&self) -> &Recorder {
        match self {
            Self::Guest(snapshot) => snapshot.recorder(),
            Self::Recorder(recorder) => recorder,
        }
    }

    fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Self::Guest(snapshot) => Some(snapshot),
            Self::Recorder(_) => None,
        }
    }
}

impl Checkpoints {
    pub(super) fn new(budget: usize) -> Self {
        Self { kept: Vec::new(), budget, last_on_grid: 0 }
    }

    /// Whether the next state on the grid is due, where `next` comes next.
    pub(super) fn is_due(&self, next: u32) -> bool {
        next > self.last_on_grid + GRID
    }

    /// Keeps the state of `guest`, which is between two turns, after `event`.
    pub(super) fn keep(&mut self, guest: &mut Guest, event: u32) {
        let turns = guest.recorder().execution.turns as usize;
        let at = self.kept.partition_point(|kept| kept.turns < turns);
        self.last_on_grid = self.last_on_grid.max(event);
        if self.kept.get(at).is_some_and(|kept| kept.turns == turns) {
            return;
        }
        let before = at.checked_sub(1).and_then(|before| self.kept[before].state.snapshot());
        let state = match guest.snapshot(before) {
            Ok(snapshot) => State::Guest(Box::new(snapshot)),
            Err(_) => State::Recorder(Box::new(guest.recorder().clone())),
        };
        // The list of pieces and what is pending take some memory of their own.
        let bytes = (8 << 10) + state.snapshot().map_or(0, |snapshot| snapshot.bytes_beyond(before));
        self.kept.insert(at, Checkpoint { turns, state, bytes });
        self.thin(turns);
    }

    /// The nearest recorder at or before so many turns.
    pub(super) fn recorder_before(&self, turns: usize) -> Option<&Recorder> {
        self.upto(turns).last().map(|kept| kept.state.recorder())
    }

    /// Puts `guest`, a fresh one, into the nearest state at or before `turns` that
    /// it can take. Returns how many turns it has run then.
    pub(super) fn restore(&self, guest: &mut Guest, turns: usize) -> usize {
        let states = self.upto(turns).iter().rev().filter_map(|kept| Some((kept.turns, kept.state.snapshot()?)));
        for (turns, snapshot) in states.filter(|(_, snapshot)| snapshot.fits_any_guest()) {
            if guest.restore(snapshot).is_ok() {
                return turns;
            }
        }
        0
    }

    fn upto(&self, turns: usize) -> &[Checkpoint] {
        &self.kept[..self.kept.partition_point(|kept| kept.turns <= turns)]
    }

    fn thin(&mut self, near: usize) {
        while self.kept.len() > 2 && self.kept.iter().map(|kept| kept.bytes).sum::<usize>() > self.budget {
            let regret = |at: usize| {
                let gap = self.kept.get(at + 1).map_or(near, |next| next.turns) - self.kept[at - 1].turns;
                gap as f64 / (1 + near.abs_diff(self.kept[at].turns)) as f64
            };
            let inner = 1..self.kept.len() - 1;
            let Some(least) = inner.min_by(|a, b| regret(*a).total_cmp(&regret(*b))) else { return };
            self.kept.remove(least);
            // What it shared with the next one is now that one's own.
            let before = self.kept[least - 1].state.snapshot();
            let bytes = self.kept[least].state.snapshot().map_or(0, |snapshot| snapshot.bytes_beyond(before));
            self.kept[least].bytes = (8 << 10) + bytes;
        }
    }
}

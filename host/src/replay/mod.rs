//! Replay: a recorded history run again in the sandbox, without any effect.
//!
//! Imports are answered from the history and every argument is compared; the
//! first difference ends the replay and is told with what was recorded beside
//! what was asked.

pub mod check;
pub mod debugger;
pub mod explore;
pub mod fork;
pub mod kit;
pub mod life;
pub mod neighbours;
pub mod recording;
pub mod source;
pub mod subject;
pub mod verify;

use crate::core::event::Event;
use crate::core::execution::End;
use crate::core::turn::{Divergence, Limits, LogLine, Recorder, TurnRecord};
use crate::sandbox::OrchestrationModule;
use crate::sandbox::guest::{Guest, ReplayError};

/// What a replay found.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Events that matched.
    pub events: u32,
    /// Turns that matched.
    pub turns: u32,
    /// The first difference.
    pub divergence: Option<Box<Divergence>>,
    /// Why the replay could not go on, if not for a difference.
    pub error: Option<String>,
    /// How the execution ended, if the history has its end.
    pub end: Option<End>,
}

impl Replayed {
    /// Whether every event matched.
    pub fn matched(&self) -> bool {
        self.divergence.is_none() && self.error.is_none()
    }
}

/// Sees a replay go on.
pub trait Watcher {
    /// An event was matched: its number and its turn's, both from 1.
    fn event(&mut self, number: u32, turn: u32, event: &Event);
    /// The guest logged a line in that turn.
    fn log(&mut self, turn: u32, line: &LogLine);
}

/// Watches nothing.
#[derive(Debug)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn event(&mut self, _: u32, _: u32, _: &Event) {}
    fn log(&mut self, _: u32, _: &LogLine) {}
}

/// Replays `turns` in a fresh guest of `module`.
pub fn replay(module: &OrchestrationModule, turns: &[TurnRecord], watcher: &mut dyn Watcher) -> Replayed {
    let mut replayed = Replayed::default();
    let guest = turns
        .first()
        .ok_or_else(|| "the history is empty".to_owned())
        .and_then(|first| Recorder::of_history(first, Limits::default()))
        .and_then(|mut recorder| {
            recorder.raw_logs = true;
            Guest::new(module, recorder).map_err(|(trouble, _)| trouble.to_string())
        });
    let mut guest = match guest {
        Ok(guest) => guest,
        Err(error) => return Replayed { error: Some(error), ..replayed },
    };
    for (index, record) in turns.iter().enumerate() {
        let outcome = guest.replay_turn(record, turns.get(index + 1));
        let turn = replayed.turns + 1;
        for line in std::mem::take(&mut guest.recorder_mut().logs) {
            watcher.log(turn, &line);
        }
        let matched = match &outcome {
            Ok(()) => record.events.len(),
            // What came before the difference in its turn did match.
            Err(ReplayError::Diverged(divergence)) => (divergence.event - 1 - replayed.events) as usize,
            Err(_) => 0,
        };
        for event in &record.events[..matched.min(record.events.len())] {
            replayed.events += 1;
            watcher.event(replayed.events, turn, event);
        }
        match outcome {
            Ok(()) => replayed.turns = turn,
            Err(ReplayError::Diverged(mut divergence)) => {
                divergence.look_ahead(1, turns);
                replayed.divergence = Some(divergence);
            }
            Err(error) => replayed.error = Some(error.to_string()),
        }
        if !replayed.matched() {
            return replayed;
        }
    }
    replayed.end = guest.recorder().execution.end.clone();
    replayed
}

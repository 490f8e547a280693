//! A recorder as bytes, between two turns: the host's half of a snapshot.
//!
//! What is written is derived from the history alone, so the history can always make
//! it again: nobody needs to read what another version wrote.

use serde::{Deserialize, Serialize};

use super::stream::Stream;
use super::{Limits, Recorder};
use crate::core::execution::Execution;

/// Version of what [`Recorder::save`] writes and of what it means. Each change of an
/// execution's state, or of how events change it, is a new one.
pub const SAVED_FORMAT: u32 = 1;

#[derive(Serialize)]
struct Saved<'r> {
    execution: &'r Execution,
    values: &'r Stream,
    wasi: &'r Stream,
}

#[derive(Deserialize)]
struct Found {
    execution: Execution,
    values: Stream,
    wasi: Stream,
}

impl Recorder {
    /// The state as bytes. None while it is not what the history says and nothing
    /// more: in the middle of a turn, or while an attempt runs whose beginning is only
    /// noted.
    pub fn save(&self) -> Option<Vec<u8>> {
        if !self.turn.is_empty() || !self.execution.is_as_recorded() {
            return None;
        }
        let saved = Saved { execution: &self.execution, values: &self.values, wasi: &self.wasi };
        Some(postcard::to_stdvec(&saved).expect("a state has no part that postcard cannot write"))
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn of_saved(bytes: &[u8], limits: Limits) -> Result<Self, String> {
        let found: Found = match postcard::take_from_bytes(bytes) {
            Ok((found, [])) => found,
            Ok((_, rest)) => return Err(format!("{} bytes follow the state", rest.len())),
            Err(error) => return Err(format!("not a state: {error}")),
        };
        let mut recorder = Self::new(found.execution.started.clone(), limits);
        (recorder.values, recorder.wasi) = (found.values, found.wasi);
        recorder.execution = found.execution;
        Ok(recorder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{ActivityOptions, Event, Started};
    use crate::core::ids::TimestampMs;
    use crate::core::payload::{Failure, FailureKind, Payload};

    fn started() -> Box<Started> {
        let (orchestration, created_at, birth) = ("o".to_owned(), TimestampMs(1), 5);
        Box::new(Started { orchestration, created_at, birth, ..Started::of_test("order", [7; 32]) })
    }

    /// After a turn that drew, asked and left much open.
    fn recorder() -> Recorder {
        let (mut recorder, _) = Recorder::start(started(), Limits::default(), TimestampMs(10));
        recorder.begin(TimestampMs(20));
        recorder.deliver(Event::EventRaised { name: "early".to_owned(), value: Payload::json("1") });
        recorder.hand_over();
        recorder.random().unwrap();
        recorder.new_guid().unwrap();
        recorder.wasi_random(&mut [0; 5]);
        recorder.call_activity("a.b".to_owned(), Payload::null(), ActivityOptions::default()).unwrap();
        recorder.delay(50).unwrap();
        recorder.wait_for_event("late".to_owned()).unwrap();
        recorder.patched("p".to_owned()).unwrap();
        recorder.set_tag("t".to_owned(), "v".to_owned()).unwrap();
        recorder.set_custom_status(Payload::json("{}")).unwrap();
        recorder.seal();
        recorder.execution.posts.clear();
        recorder
    }

    #[test]
    fn a_saved_recorder_goes_on_as_the_one_it_is_of() {
        let mut recorder = recorder();
        let mut restored = Recorder::of_saved(&recorder.save().unwrap(), Limits::default()).unwrap();
        assert_eq!(restored.execution, recorder.execution);
        let turn = |recorder: &mut Recorder| {
            recorder.begin(TimestampMs(90));
            recorder.deliver(Event::EventRaised { name: "late".to_owned(), value: Payload::json("2") });
            recorder.hand_over();
            let mut bytes = [0; 7];
            recorder.wasi_random(&mut bytes);
            (recorder.random().unwrap(), recorder.new_guid().unwrap(), bytes, recorder.seal().hash)
        };
        assert_eq!(turn(&mut restored), turn(&mut recorder));
        assert_eq!(restored.execution, recorder.execution);
    }

    #[test]
    fn what_the_history_does_not_say_is_not_saved() {
        let mut recorder = recorder();
        recorder.begin(TimestampMs(30));
        recorder.deliver(Event::CancelRequested { reason: "why".to_owned() });
        assert_eq!(recorder.save(), None, "in the middle of a turn");
        let failure = Failure::retryable(FailureKind::Application, "busy");
        recorder.deliver(Event::ActivityAttemptFailed {
            operation: 1,
            attempt: 1,
            failure,
            retry_at: TimestampMs(40),
            progress: None,
        });
        recorder.seal();
        assert!(recorder.save().is_some());
        let (begun, _) = recorder.execution.begin_due(TimestampMs(40));
        assert_eq!(begun.len(), 1);
        assert_eq!(recorder.save(), None, "an attempt runs");
        recorder.begin(TimestampMs(50));
        recorder.deliver(Event::ActivityCompleted { operation: 1, attempt: 2, result: Payload::null() });
        recorder.seal();
        assert!(recorder.save().is_some());
    }

    #[test]
    fn no_bytes_that_were_changed_bring_down_who_reads_them() {
        let saved = recorder().save().unwrap();
        for at in 0..saved.len() {
            let mut changed = saved.clone();
            changed[at] ^= 0x41;
            let _ = Recorder::of_saved(&changed, Limits::default());
            assert!(Recorder::of_saved(&saved[..at], Limits::default()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_change_of_what_is_saved_is_another_format() {
        // If this fails, raise SAVED_FORMAT, and write the new hash here beside it.
        let hash = crate::core::ids::Hash::of(&recorder().save().unwrap());
        assert_eq!((SAVED_FORMAT, hash.short().as_str()), (1, "b9678456ddf2"));
    }
}

//! A recording forked into a recording: nothing runs and nothing is let out.
//!
//! "What if the hotel had answered this?" is asked of a file. Its seed follows
//! from what is asked, so the same question has the same answer.

use super::recording::Recording;
use crate::core::fork::{Fork, fork};
use crate::core::ids::{Hash, InstanceId, TimestampMs};
use crate::core::payload::Outcome;
use crate::core::turn::Limits;

/// The recording of an instance `id` that shares `recording` up to event `at`,
/// that event with `edit`. The module inside goes along.
///
/// # Errors
/// Says why the recording cannot be forked there.
pub fn fork_recording(
    recording: &Recording,
    id: InstanceId,
    at: u32,
    edit: Option<Outcome>,
    now: TimestampMs,
) -> Result<Recording, String> {
    let records = recording.records().map_err(|error| error.to_string())?;
    let seed = Hash::of(format!("{id} {at} {edit:?} {:?}", recording.turns.last()).as_bytes()).0;
    let wanted = Fork { id: id.clone(), at, edit, module: None, seed, now };
    let (recorder, turns) = fork(&records, wanted, Limits::default()).map_err(|error| error.to_string())?;
    let module_hash = recorder.execution.module;
    Ok(Recording {
        instance: id.to_string(),
        execution: recording.execution,
        module: recording.module.clone().filter(|_| module_hash == recording.module_hash),
        module_hash,
        turns: turns.into_iter().map(|turn| turn.bytes).collect(),
    })
}

//! Sub-orchestrations: what a call is, and how caller and called stand to each
//! other.
//!
//! The call is an operation of its caller; the called is an instance of its own
//! that knows its [`Caller`]. Nothing else ties them, and no message is stored: the
//! start is sent after the caller's commit and again whenever the caller is taken
//! over by a host, the outcome after the called one's commit and again whenever the
//! start comes again. The caller records an outcome if the operation waits for it.
//!
//! The caller *leaves* when it lets go of the operation (that asks the called to
//! end) or when its execution ends, by continue-as-new as well: then
//! [`ParentClose`] says what happens. A host that takes the called over looks
//! whether its caller has left meanwhile.

use serde::{Deserialize, Serialize};

use super::event::Started;
use super::ids::{ExecutionNumber, Hash, InstanceId, MAX_ID_BYTES, ModuleHash, OperationId, TimestampMs};
use super::payload::{Failure, FailureKind, Payload};
use super::retry::RetryPolicy;
use super::summary::Status;

/// A sub-orchestration to run. See [`super::event::Event::OrchestrationScheduled`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrchestrationScheduled {
    /// Its operation.
    pub operation: OperationId,
    /// The called instance; see [`Self::called`].
    pub instance: InstanceId,
    /// The orchestration.
    pub name: String,
    /// Its input.
    pub input: Payload,
    /// How it is to be run.
    pub options: OrchestrationOptions,
}

/// How a sub-orchestration is to be run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OrchestrationOptions {
    /// None: the caller's own module. Else a module's name.
    pub module: Option<String>,
    /// None: that module's default.
    pub version: Option<String>,
    /// None: a single attempt.
    pub retry: Option<RetryPolicy>,
    /// From the call to the end of the last attempt, milliseconds.
    pub timeout_ms: Option<u64>,
    /// What happens to it when the caller's execution ends first.
    pub parent_close: ParentClose,
    /// What happens if the id is taken.
    pub reuse: IdReuse,
    /// Its tags from the start.
    pub tags: Vec<(String, String)>,
    /// It begins then, not before.
    pub start_at: Option<TimestampMs>,
}

/// What happens to a sub-orchestration when its caller's execution ends first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParentClose {
    /// It is ended at once.
    #[default]
    Terminate,
    /// It is asked to end.
    Cancel,
    /// It goes on.
    Abandon,
}

/// What a start does if its id is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdReuse {
    /// It fails.
    #[default]
    Reject,
    /// The one that is there is taken, if it runs the same orchestration.
    ReturnExisting,
    /// A new life begins if the one that is there has ended, else it fails.
    ReplaceFinished,
    /// The one that is there is ended, and a new life begins.
    TerminateAndReplace,
}

/// An instance that has the id of a call and is not the answer to it.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// What it runs.
    pub orchestration: &'a str,
    /// Where it stands.
    pub status: Status,
    /// When its id was first given.
    pub created_at: TimestampMs,
}

/// What becomes of a call whose id is taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Meets {
    /// The one that is there is the answer, when it ends.
    Joins,
    /// A new life begins under the id.
    Replaces,
    /// It fails.
    Fails(Failure),
}

/// Who called an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The caller.
    pub instance: InstanceId,
    /// Which of the instances that ever had this id, see [`super::mail::birth`].
    pub birth: u64,
    /// Its execution.
    pub execution: ExecutionNumber,
    /// The call.
    pub operation: OperationId,
    /// Which attempt of it, from 1.
    pub attempt: u32,
    /// What happens when the caller's execution ends first.
    pub parent_close: ParentClose,
}

/// A call on its way to whom it calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// The caller's module.
    pub module: ModuleHash,
    /// When it was asked for.
    pub scheduled_at: TimestampMs,
    /// What is called.
    pub scheduled: OrchestrationScheduled,
}

/// The caller of a sub-orchestration goes without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// The called instance.
    pub called: InstanceId,
    /// The call.
    pub operation: OperationId,
    /// Which attempt of it.
    pub attempt: u32,
    /// What was said for the caller's end.
    pub parent_close: ParentClose,
    /// Whether the caller's execution ended; else it only let go of the call.
    pub ended: bool,
}

impl OrchestrationScheduled {
    /// The instance of that attempt: each attempt is one of its own.
    pub fn called(&self, attempt: u32) -> InstanceId {
        if attempt == 1 {
            return self.instance.clone();
        }
        InstanceId::stored(&format!("{}~{attempt}", self.instance.as_str())).unwrap_or_else(|_| self.instance.clone())
    }
}

impl Caller {
    /// Why it goes without what it called, for people.
    pub fn leave_reason(&self, ended: bool) -> String {
        let how = if ended { "has ended" } else { "no longer waits for it" };
        format!("its caller {} {how}", self.instance)
    }
}

impl IdReuse {
    /// Whether a start takes the id from an instance that stands there.
    pub fn replaces(self, status: Status) -> bool {
        self == Self::TerminateAndReplace || (self == Self::ReplaceFinished && status.is_final())
    }
}

impl Call {
    /// What the called instance starts from, in a module.
    pub fn started(&self, module: ModuleHash, seed: [u8; 32], now: TimestampMs) -> Started {
        let (scheduled, options) = (&self.scheduled, &self.scheduled.options);
        let instance = scheduled.called(self.caller.attempt);
        Started {
            parent: Some(self.caller.instance.clone()),
            tags: options.tags.clone(),
            caller: Some(self.caller.clone()),
            start_at: options.start_at.filter(|at| *at > now),
            ..Started::first(instance, scheduled.name.clone(), module, scheduled.input.clone(), seed, now)
        }
    }

    /// What becomes of it where its id is taken.
    pub fn meets(&self, holder: Holder<'_>) -> Meets {
        let id = self.scheduled.called(self.caller.attempt);
        let (reuse, asked) = (self.scheduled.options.reuse, &self.scheduled.name);
        let fails = |error_type, message| Meets::Fails(refused(error_type, FailureKind::Application, message));
        if reuse == IdReuse::ReturnExisting {
            return match holder.orchestration == asked {
                true => Meets::Joins,
                false => fails("OtherOrchestration", other_orchestration(&id, holder.orchestration, asked)),
            };
        }
        if !reuse.replaces(holder.status) {
            return fails("AlreadyExists", already_exists(&id, holder.status));
        }
        // What came after the call has replaced the one that was called.
        if holder.created_at > self.scheduled_at {
            return fails("Replaced", format!("instance {id} was replaced by another start before it returned"));
        }
        Meets::Replaces
    }
}

/// Why a call is not begun, as its caller is told.
pub fn refused(error_type: &str, kind: FailureKind, message: String) -> Failure {
    Failure { error_type: error_type.to_owned(), ..Failure::fatal(kind, message) }
}

/// Whether a call failed so since its id was taken by something else. Another attempt
/// has another id, and would run beside that.
pub fn is_of_taken_id(failure: &Failure) -> bool {
    matches!(failure.error_type.as_str(), "AlreadyExists" | "OtherOrchestration" | "Replaced")
}

/// That an id is taken.
pub fn already_exists(id: &InstanceId, status: Status) -> String {
    format!("instance {id} exists already ({status}); choose another id")
}

/// That an id is taken by something else than what was asked for.
pub fn other_orchestration(id: &InstanceId, found: &str, asked: &str) -> String {
    format!("instance {id} runs {found:?}, not {asked:?}; choose another id")
}

impl Leave {
    /// What is to be done to the called one.
    pub fn what(&self) -> ParentClose {
        if self.ended { self.parent_close } else { ParentClose::Cancel }
    }
}

/// Longest id of a call that may be tried again: the attempt is put behind it.
pub const MAX_RETRIED_ID_BYTES: usize = MAX_ID_BYTES - "~4294967295".len();

/// The id of a called instance where the caller gives none: what follows from
/// the caller's seed, so that it is the same at every replay and no one else's. What is
/// called after a rewind is another one than what the failed execution called.
pub fn generated_id(caller: &Started, operation: OperationId) -> InstanceId {
    let mut bytes = [&caller.seed[..], b"called instance", &operation.to_le_bytes()].concat();
    let execution = caller.key_execution(operation);
    if execution != caller.seen_execution() {
        bytes.extend(execution.to_le_bytes());
    }
    let hash = Hash::of(&bytes);
    let caller = &caller.instance;
    let (text, before) = (caller.as_str(), caller.as_str().len() - caller.local().len());
    let end = (0..=text.len().min(before + 150)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let id = format!("{}:{operation}-{}", &text[..end], &hash.short()[..8]);
    InstanceId::stored(&id).expect("a valid id, cut and lengthened by a few digits")
}

#[cfg(test)]
mod tests {
    use super::super::rewind::Shared;
    use super::*;

    #[test]
    fn generated_ids_are_valid_and_different_for_each_execution() {
        let caller = |seed| Started::of_test(&"\u{e4}".repeat(100), [seed; 32]);
        let id = generated_id(&caller(1), u32::MAX);
        assert!(id.as_str().len() <= MAX_RETRIED_ID_BYTES, "{id}");
        assert_eq!(id, generated_id(&caller(1), u32::MAX));
        assert_ne!(id, generated_id(&caller(2), u32::MAX));
        assert_ne!(id, generated_id(&caller(1), 1));

        let shared = vec![Shared { execution: 1, last_operation: 7 }];
        let rewound = Started { execution: 2, shared, ..caller(1) };
        assert_eq!(generated_id(&rewound, 7), generated_id(&caller(1), 7), "one that it shares");
        assert_ne!(generated_id(&rewound, 8), generated_id(&caller(1), 8), "one that it calls anew");
    }

    #[test]
    fn each_attempt_is_an_instance_of_its_own() {
        let scheduled = OrchestrationScheduled {
            operation: 1,
            instance: InstanceId::new(&"x".repeat(MAX_RETRIED_ID_BYTES)).unwrap(),
            name: "ship".into(),
            input: Payload::null(),
            options: OrchestrationOptions::default(),
        };
        assert_eq!(scheduled.called(1), scheduled.instance);
        assert!(scheduled.called(2).as_str().ends_with("x~2"));
        assert!(scheduled.called(u32::MAX).as_str().ends_with("x~4294967295"));
    }
}

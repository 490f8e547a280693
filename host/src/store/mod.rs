//! Where histories are kept: one trait, cut at batches.
//!
//! A store owns durability and reading back; it decides nothing. What recovery
//! may assume of every store, and what the contract suite checks:
//!
//! 1. When [`Store::commit`] returns `Ok`, the whole batch is on stable storage;
//!    when it does not, either all of it is or none of it, and the caller must
//!    treat the store as lost until it is opened again.
//! 2. Turns of one execution come back in the order in which they were
//!    committed, each once, byte for byte. A reader sees a batch whole or not at
//!    all, and sees it at the latest when `commit` has returned.
//! 3. A commit with a stale [`Epoch`] is refused and changes nothing.
//! 4. So is a batch with a turn that does not follow its instance's last one: the
//!    next turn of the same execution, or the first turn of a later one.
//! 5. An instance that was purged is nowhere: no read finds any of it, also after
//!    opening again, and its id is free. A purge is durable and whole when it
//!    returns, and never takes an instance that has not ended.
//! 6. Bytes that were changed behind its back are never returned as good:
//!    reading them is [`StoreError::Corrupt`].

pub mod backup;
pub mod codec;
pub mod crash;
pub mod redb;
pub mod schedule;
pub mod snapshot;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::backup::{BackupError, Contents};
use self::schedule::Schedule;
use self::snapshot::Snapshot;
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash, TimestampMs};
use crate::core::namespace::{self, Namespace};
use crate::core::summary::{Status, Summary};
use crate::core::turn::TurnRecord;

/// Counts the owners of a store; each claim is one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// One turn of one execution, as it is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnCommit {
    /// Whose.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// Which turn of that life, from 1.
    pub turn: u32,
    /// [`TurnRecord::encode`]d.
    pub bytes: Arc<[u8]>,
}

/// What one commit makes durable, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Turns of any number of instances; those of one instance in their order.
    pub turns: Vec<TurnCommit>,
}

/// The turns of one execution as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Whose.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// Encoded turns, from the first.
    pub turns: Vec<Arc<[u8]>>,
}

impl History {
    /// Decodes the turns and walks their hash chain.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] naming the instance and the event.
    pub fn decode(&self) -> Result<Vec<TurnRecord>, StoreError> {
        decode_turns((&self.instance, self.execution), &self.turns, Hash::ZERO, 1)
    }

    /// The hash of the last turn.
    pub fn head(&self) -> Hash {
        self.turns.last().map_or(Hash::ZERO, |bytes| Hash::of(bytes))
    }
}

/// The turns of an execution from one of them on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Whose.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: ExecutionNumber,
    /// Encoded turns, all from that one on.
    pub turns: Vec<Arc<[u8]>>,
}

impl Tail {
    /// Decodes the turns and walks their hash chain from the first of them on.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] naming the instance and the event, counted from the first.
    pub fn decode(&self) -> Result<Vec<TurnRecord>, StoreError> {
        let first = self.turns.first().and_then(|bytes| TurnRecord::decode(bytes).ok());
        let previous = first.map_or(Hash::ZERO, |first| first.previous);
        decode_turns((&self.instance, self.execution), &self.turns, previous, 1)
    }

    /// Decodes the turns after the first one, which must be the one with the hash `head`
    /// and end with event number `events`, and walks their hash chain.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] naming the instance and the event.
    pub fn decode_after(&self, head: Hash, events: u32) -> Result<Vec<TurnRecord>, StoreError> {
        let of = (&self.instance, self.execution);
        match self.turns.split_first() {
            Some((first, rest)) if Hash::of(first) == head => decode_turns(of, rest, head, events as usize + 1),
            _ => Err(StoreError::Corrupt {
                what: format!("history of {} execution {} at event {events}", self.instance, self.execution),
                why: format!("its turn is not {}", head.short()),
            }),
        }
    }
}

/// Turns of an execution from event number `event` on, each after the one before it.
fn decode_turns(
    (instance, execution): (&InstanceId, ExecutionNumber),
    turns: &[Arc<[u8]>],
    mut previous: Hash,
    mut event: usize,
) -> Result<Vec<TurnRecord>, StoreError> {
    let mut records = Vec::with_capacity(turns.len());
    for bytes in turns {
        let corrupt = |why: String| StoreError::Corrupt {
            what: format!("history of {instance} execution {execution} at event {event}"),
            why,
        };
        let record = TurnRecord::decode(bytes).map_err(corrupt)?;
        if record.previous != previous {
            let (expected, found) = (previous.short(), record.previous.short());
            return Err(corrupt(format!("its turn follows {found}, the one before it is {expected}")));
        }
        previous = Hash::of(bytes);
        event += record.events.len();
        records.push(record);
    }
    Ok(records)
}

/// Which instances to list. Every condition given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// In this namespace.
    pub namespace: Namespace,
    /// In every namespace, whatever is said above.
    pub everywhere: bool,
    /// This status.
    pub status: Option<Status>,
    /// This orchestration.
    pub orchestration: Option<String>,
    /// Ids that begin so.
    pub id_prefix: Option<String>,
    /// Pinned to one of these modules.
    pub modules: Option<Vec<ModuleHash>>,
    /// With all of these tags.
    pub tags: BTreeMap<String, String>,
    /// Created then or later.
    pub created_from: Option<TimestampMs>,
    /// Created before then.
    pub created_before: Option<TimestampMs>,
    /// With no turn since then.
    pub updated_before: Option<TimestampMs>,
}

impl Filter {
    /// Whatever there is, in every namespace.
    pub fn everything() -> Self {
        Self { everywhere: true, ..Self::default() }
    }

    /// What the ids that match begin with, as they are kept.
    pub fn key_prefix(&self) -> String {
        if self.everywhere {
            return String::new();
        }
        self.namespace.prefix() + self.id_prefix.as_deref().unwrap_or_default()
    }

    /// Whether `summary` is to be listed.
    pub fn matches(&self, summary: &Summary) -> bool {
        (self.everywhere || self.namespace.has(summary.instance.as_str()))
            && self.status.is_none_or(|status| status == summary.status)
            && self.orchestration.as_ref().is_none_or(|name| *name == summary.orchestration)
            && self.id_prefix.as_ref().is_none_or(|prefix| summary.instance.local().starts_with(prefix))
            && self.modules.as_ref().is_none_or(|modules| modules.contains(&summary.module))
            && self.tags.iter().all(|(name, value)| summary.tags.get(name) == Some(value))
            && self.created_from.is_none_or(|from| summary.created_at >= from)
            && self.created_before.is_none_or(|before| summary.created_at < before)
            && self.updated_before.is_none_or(|before| summary.updated_at < before)
    }
}

/// What kind of module it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    /// Exports the `orchestration` world.
    Orchestration,
    /// Exports the `activity` world.
    Activity,
}

/// An uploaded module, without its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// Hash of its bytes: its address.
    pub hash: ModuleHash,
    /// Its name, with its namespace (see [`crate::core::namespace`]).
    pub name: String,
    /// Its version: the caller's, else the hash's first digits.
    pub version: String,
    /// What kind it is.
    pub kind: ModuleKind,
    /// Size of the component in bytes.
    pub size: u64,
    /// When it was uploaded.
    pub uploaded_at: TimestampMs,
    /// What it offers, as its `describe` said.
    pub offers: Vec<Offer>,
    /// What an activity module is granted.
    pub grants: Grants,
    /// When new starts began to take it for its name; the last of a name counts.
    /// None: never, it is only found by its version.
    pub default_at: Option<TimestampMs>,
    /// Updates that its orchestrations answer, as far as `describe` said.
    pub updates: Vec<Offer>,
    /// Queries that its orchestrations answer, as far as `describe` said.
    pub queries: Vec<Offer>,
    /// Entity kinds that it offers.
    pub entities: Vec<EntityOffer>,
}

/// An entity kind of a module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EntityOffer {
    /// Its name.
    pub kind: String,
    /// What can be asked of such an entity.
    pub operations: Vec<Offer>,
}

impl Module {
    /// Its name as its namespace knows it.
    pub fn local_name(&self) -> &str {
        namespace::local(&self.name)
    }

    /// `name@version`, as its namespace knows it.
    pub fn called(&self) -> String {
        format!("{}@{}", self.local_name(), self.version)
    }

    /// Whether it is in that namespace.
    pub fn is_in(&self, namespace: &Namespace) -> bool {
        namespace.has(&self.name)
    }
}

/// One orchestration or activity of a module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// JSON Schema text of the input, if known.
    pub input_schema: Option<String>,
    /// JSON Schema text of the output, if known.
    pub output_schema: Option<String>,
    /// An activity's policy where a call gives none.
    pub default_retry: Option<crate::core::retry::RetryPolicy>,
}

/// What an activity module may touch; nothing else exists for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Environment variables and their values.
    pub env: std::collections::BTreeMap<String, String>,
    /// Hosts (`name` or `name:port`) that outbound HTTP may go to.
    pub hosts: Vec<String>,
    /// Folders it sees.
    pub directories: Vec<DirectoryGrant>,
    /// Environment variables and the names of the secrets that they hold.
    pub secrets: std::collections::BTreeMap<String, String>,
}

/// A folder that an activity module sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryGrant {
    /// Where it is on this machine.
    pub host: String,
    /// Where the module sees it.
    pub guest: String,
    /// Whether it may write there.
    #[serde(default)]
    pub write: bool,
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another owner has claimed the store since.
    #[error("this host no longer owns the store: it holds epoch {held}, the store is at {current}; stop it")]
    Fenced {
        /// What the caller holds.
        held: u64,
        /// What the store has.
        current: u64,
    },
    /// A turn that does not follow what is stored; nothing of its batch is kept.
    #[error(
        "turn {turn} of execution {execution} of {instance} does not follow what is stored: \
         turn {after_turn} of execution {after_execution}"
    )]
    OutOfOrder {
        /// Whose.
        instance: InstanceId,
        /// The refused turn's execution.
        execution: ExecutionNumber,
        /// The refused turn.
        turn: u32,
        /// The last stored turn's execution; 0 where nothing is stored.
        after_execution: ExecutionNumber,
        /// The last stored turn.
        after_turn: u32,
    },
    /// A newer version of this program wrote it.
    #[error("the store has format {found}, this version reads up to format {known}; use the version that wrote it")]
    Newer {
        /// Its format.
        found: u64,
        /// The last format that is known here.
        known: u64,
    },
    /// Something stored is not what was written.
    #[error("the store is damaged: {what}: {why}; restore it from a backup")]
    Corrupt {
        /// Which part.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A row is encrypted with a key that this host was not given.
    #[error(
        "{what} is encrypted with the key {key:?}, which is not among this host's; add it to DACAPO_KEYS or the key file"
    )]
    KeyMissing {
        /// Which part.
        what: String,
        /// The key's id.
        key: String,
    },
    /// Keys or thresholds that cannot be used.
    #[error(transparent)]
    Codec(#[from] codec::InvalidCodec),
    /// Another process has it open.
    #[error("{path} is in use by another process; stop that one, or talk to it through its server")]
    InUse {
        /// The file.
        path: String,
    },
    /// The medium failed.
    #[error("the store failed: {0}")]
    Io(String),
}

/// How many threads may wait for [`Store::sync`] at once without one waiting for another.
pub const SYNCS_AT_ONCE: usize = 16;

/// The store. See the module's page for what every implementation promises.
/// Calls block; they are made from threads that may.
pub trait Store: Send + Sync + 'static {
    /// Takes ownership: every earlier epoch is stale from here on.
    fn claim(&self) -> Result<Epoch, StoreError>;

    /// Makes a batch durable, whole or not at all.
    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError>;

    /// Begins to make a batch durable: [`Self::sync`] with the number that it returns ends
    /// that. Other batches may be appended meanwhile, in the order in which they are to
    /// be; none is durable before those in front of it. A store that cannot do that commits.
    fn append(&self, epoch: Epoch, batch: &Batch) -> Result<u64, StoreError> {
        self.commit(epoch, batch).map(|()| 0)
    }

    /// Returns when the commit of that number is on stable storage, as all before it are.
    /// [`SYNCS_AT_ONCE`] threads may wait so.
    fn sync(&self, _number: u64) -> Result<(), StoreError> {
        Ok(())
    }

    /// Removes those of `instances` that exist, have ended and with which nobody has
    /// to do any more, with all their executions; which they were. Kept are those with
    /// letters that have no answer, those whose caller has not heard how they ended or
    /// that they began, and those that took a letter of which its sender does not know.
    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError>;

    /// An instance's row, if it exists.
    fn summary(&self, instance: &InstanceId) -> Result<Option<Summary>, StoreError>;

    /// The turns of an execution (none: the current one), if it exists.
    fn history(&self, instance: &InstanceId, execution: Option<ExecutionNumber>)
    -> Result<Option<History>, StoreError>;

    /// The turns of an execution from number `turn` on, if there are any. Its cost follows
    /// what is read, not what comes before.
    fn history_from(
        &self,
        instance: &InstanceId,
        execution: ExecutionNumber,
        turn: u32,
    ) -> Result<Option<Tail>, StoreError>;

    /// Keeps a snapshot of an instance in place of the one before, if it runs and has come
    /// to that turn; whether it did. It need not be durable when this returns, and may be
    /// gone when the store is opened again: a store never owes a snapshot. It is gone at the
    /// latest when the instance is purged.
    fn put_snapshot(&self, epoch: Epoch, instance: &InstanceId, snapshot: &Snapshot) -> Result<bool, StoreError>;

    /// The snapshot that is kept of an instance.
    fn snapshot(&self, instance: &InstanceId) -> Result<Option<Snapshot>, StoreError>;

    /// Rows of instances that are open (they have not ended, or ended with letters
    /// that nobody has answered), by id, at most `limit` after `after`.
    /// Its cost follows what is running, not what is stored.
    fn unfinished(&self, after: Option<&InstanceId>, limit: usize) -> Result<Vec<Summary>, StoreError>;

    /// Rows that match, by id, at most `limit` after `after`.
    fn list(&self, filter: &Filter, after: Option<&InstanceId>, limit: usize) -> Result<Vec<Summary>, StoreError>;

    /// Rows that match, those created last first and of one time by id backwards, at most
    /// `limit` from before `before` on. Its cost follows what is looked at until then, of the
    /// filter's namespace alone: it is of that one also where the filter says everywhere.
    fn newest(
        &self,
        filter: &Filter,
        before: Option<&(TimestampMs, InstanceId)>,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError>;

    /// How many instances there are of each status, in that namespace or, without one, in
    /// all. Its cost does not follow how many.
    fn counts(&self, namespace: Option<&Namespace>) -> Result<BTreeMap<Status, u64>, StoreError>;

    /// Bytes of all turns of the instances in a namespace, with their payloads and before
    /// any compression; also after opening again. Its cost does not follow how many.
    fn stored_bytes(&self, namespace: &Namespace) -> Result<u64, StoreError>;

    /// Keeps a module and points its name and version to it. The same bytes again
    /// are no second module; their name, version and grants are those given last.
    fn put_module(&self, module: &Module, component: &[u8]) -> Result<(), StoreError>;

    /// A module by its hash.
    fn module(&self, hash: &ModuleHash) -> Result<Option<Module>, StoreError>;

    /// A module's bytes; checked against its hash.
    fn module_bytes(&self, hash: &ModuleHash) -> Result<Option<Vec<u8>>, StoreError>;

    /// Every module, the last uploaded first.
    fn modules(&self) -> Result<Vec<Module>, StoreError>;

    /// Keeps the schedule of that name as it is now, or none of that name. Durable
    /// when it returns; refused for a stale epoch.
    fn put_schedule(&self, epoch: Epoch, name: &str, schedule: Option<&Schedule>) -> Result<(), StoreError>;

    /// Every schedule, by name.
    fn schedules(&self) -> Result<Vec<Schedule>, StoreError>;

    /// Forgets a module and its bytes, together and durably; whether it was there.
    /// The caller has made sure that nothing needs it.
    fn remove_module(&self, hash: &ModuleHash) -> Result<bool, StoreError>;

    /// Ids of all instances in their order, at most `limit` after `after`. Reads no
    /// row, so that a damaged one does not hide the others.
    fn ids(&self, after: Option<&InstanceId>, limit: usize) -> Result<Vec<InstanceId>, StoreError>;

    /// Compares the store's indexes with the rows that they are of, and looks for rows
    /// that belong to nothing; what is wrong.
    fn check_indexes(&self) -> Result<Vec<IndexFinding>, StoreError>;

    /// Writes all that is durable, as of one moment, in the form of [`backup`]. Commits
    /// go on meanwhile, and none of them is in it in part.
    fn backup(&self, to: &mut dyn Write) -> Result<Contents, BackupError>;
}

/// An index that does not fit its rows, or a row that belongs to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFinding {
    /// The instance, or which part of the store.
    pub of: String,
    /// What is wrong.
    pub problem: String,
}

/// The methods of a store around another one (`self.inner`) that only ask that one.
/// It says itself what it does at `commit`, which is then its `append`, `purge` and `put_schedule`.
#[macro_export]
macro_rules! hand_on_to_inner_store {
    () => {
        $crate::hand_on_to_inner_store! {
            claim() -> $crate::store::Epoch;
            summary(instance: &$crate::core::ids::InstanceId) -> Option<$crate::core::summary::Summary>;
            history(
                instance: &$crate::core::ids::InstanceId,
                execution: Option<$crate::core::ids::ExecutionNumber>
            ) -> Option<$crate::store::History>;
            history_from(
                instance: &$crate::core::ids::InstanceId,
                execution: $crate::core::ids::ExecutionNumber,
                turn: u32
            ) -> Option<$crate::store::Tail>;
            put_snapshot(
                epoch: $crate::store::Epoch,
                instance: &$crate::core::ids::InstanceId,
                snapshot: &$crate::store::snapshot::Snapshot
            ) -> bool;
            snapshot(instance: &$crate::core::ids::InstanceId) -> Option<$crate::store::snapshot::Snapshot>;
            unfinished(after: Option<&$crate::core::ids::InstanceId>, limit: usize)
                -> Vec<$crate::core::summary::Summary>;
            list(filter: &$crate::store::Filter, after: Option<&$crate::core::ids::InstanceId>, limit: usize)
                -> Vec<$crate::core::summary::Summary>;
            newest(
                filter: &$crate::store::Filter,
                before: Option<&($crate::core::ids::TimestampMs, $crate::core::ids::InstanceId)>,
                limit: usize
            ) -> Vec<$crate::core::summary::Summary>;
            counts(namespace: Option<&$crate::core::namespace::Namespace>)
                -> std::collections::BTreeMap<$crate::core::summary::Status, u64>;
            stored_bytes(namespace: &$crate::core::namespace::Namespace) -> u64;
            put_module(module: &$crate::store::Module, component: &[u8]) -> ();
            module(hash: &$crate::core::ids::ModuleHash) -> Option<$crate::store::Module>;
            module_bytes(hash: &$crate::core::ids::ModuleHash) -> Option<Vec<u8>>;
            modules() -> Vec<$crate::store::Module>;
            schedules() -> Vec<$crate::store::schedule::Schedule>;
            remove_module(hash: &$crate::core::ids::ModuleHash) -> bool;
            ids(after: Option<&$crate::core::ids::InstanceId>, limit: usize)
                -> Vec<$crate::core::ids::InstanceId>;
            check_indexes() -> Vec<$crate::store::IndexFinding>;
        }

        fn backup(
            &self,
            to: &mut dyn std::io::Write,
        ) -> Result<$crate::store::backup::Contents, $crate::store::backup::BackupError> {
            self.inner.backup(to)
        }
    };
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self $(, $argument: $type)*) -> Result<$answer, $crate::store::StoreError> {
            self.inner.$name($($argument),*)
        })*
    };
}

//! What the engine answers when it cannot do what was asked.

use crate::core::ids::{InstanceId, InvalidId};
use crate::core::payload::{Failure, FailureKind};
use crate::core::summary::Status;
use crate::sandbox::inspect::Refused;
use crate::store::StoreError;

/// An error with a stable [`code`](EngineError::code).
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No module offers an orchestration of that name.
    #[error("unknown orchestration {name:?}; {}", what_exists("orchestrations", exists))]
    UnknownOrchestration {
        /// The name asked for.
        name: String,
        /// What is offered.
        exists: Vec<String>,
    },
    /// No module offers an entity kind, or several do.
    #[error("{0}")]
    UnknownEntityKind(String),
    /// Several modules offer it.
    #[error("orchestration {name:?} is offered by the modules {}; say which with --module", modules.join(", "))]
    AmbiguousOrchestration {
        /// The name asked for.
        name: String,
        /// The modules.
        modules: Vec<String>,
    },
    /// No such module.
    #[error("unknown module {module:?}; {}", what_exists("modules", exists))]
    UnknownModule {
        /// The name, name@version or hash asked for.
        module: String,
        /// What is there.
        exists: Vec<String>,
    },
    /// Something needs the module.
    #[error("module {module} is in use: {why}")]
    ModuleInUse {
        /// Which, as name@version.
        module: String,
        /// Who needs it, and what to do.
        why: String,
    },
    /// The version names other bytes already.
    #[error("{module} is there already with other bytes ({}); choose another version", hash.short())]
    VersionTaken {
        /// Which, as name@version.
        module: String,
        /// What it names.
        hash: crate::core::ids::ModuleHash,
    },
    /// The namespace uses all that it may.
    #[error("the namespace {namespace} may have at most {what}")]
    QuotaReached {
        /// Which.
        namespace: String,
        /// How much, and what to do.
        what: String,
    },
    /// No such instance.
    #[error("unknown instance {id}; list those that exist with `dacapo list`")]
    UnknownInstance {
        /// The id asked for.
        id: InstanceId,
    },
    /// No such schedule.
    #[error("unknown schedule {name:?}; {}", what_exists("schedules", exists))]
    UnknownSchedule {
        /// The name asked for.
        name: String,
        /// What is there.
        exists: Vec<String>,
    },
    /// No such worker, or it was silent for too long.
    #[error("unknown worker {worker:?}; register it, again if the host was restarted")]
    UnknownWorker {
        /// The id given.
        worker: String,
    },
    /// The id is taken.
    #[error("{}", crate::core::calls::already_exists(id, *status))]
    AlreadyExists {
        /// The id.
        id: InstanceId,
        /// Where that one stands.
        status: Status,
    },
    /// The id is taken by another orchestration.
    #[error("{}", crate::core::calls::other_orchestration(id, found, asked))]
    OtherOrchestration {
        /// The id.
        id: InstanceId,
        /// What it runs.
        found: String,
        /// What was to be started.
        asked: String,
    },
    /// The instance has ended; nothing reaches it any more.
    #[error("instance {id} has ended ({status}); {what} was not taken")]
    Ended {
        /// The id.
        id: InstanceId,
        /// How it ended.
        status: Status,
        /// What was to be done to it.
        what: String,
    },
    /// The instance took a request and ended without an answer to it.
    #[error("instance {id} ended ({status}) before it answered {what}")]
    Unanswered {
        /// The id.
        id: InstanceId,
        /// How it ended.
        status: Status,
        /// What was asked.
        what: String,
    },
    /// An event with that key was raised before.
    #[error("instance {id} has an event with the key {key:?} already")]
    AlreadyRaised {
        /// The id.
        id: InstanceId,
        /// The key.
        key: String,
    },
    /// A payload over the limit.
    #[error("{what} has {found} bytes, at most {limit} are allowed; store it elsewhere and pass a reference")]
    TooLarge {
        /// Which payload.
        what: String,
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Not an id.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// A name or value that cannot be taken.
    #[error("{0}")]
    InvalidInput(String),
    /// A module that was refused at upload.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The instance's history can no longer be run.
    #[error("instance {id} cannot go on: {why}")]
    Blocked {
        /// The id.
        id: InstanceId,
        /// Why.
        why: String,
    },
    /// It stands where that cannot be done.
    #[error("instance {id} is {status}; {what}")]
    WrongStatus {
        /// The id.
        id: InstanceId,
        /// Where it stands.
        status: Status,
        /// What was expected, and what to do.
        what: &'static str,
    },
    /// A query was not answered.
    #[error("{id} did not answer the query {name:?}: {failure}")]
    QueryFailed {
        /// The instance.
        id: InstanceId,
        /// The query.
        name: String,
        /// What its code said.
        failure: Box<Failure>,
    },
    /// The host has no room for it now.
    #[error("{0}")]
    Busy(String),
    /// The engine has stopped.
    #[error("the engine has stopped{}; start the host again", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Stopped(Option<String>),
    /// The sandbox could not be made.
    #[error("the sandbox could not be started: {0}")]
    Sandbox(String),
}

impl EngineError {
    /// A name for programs; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownOrchestration { .. } => "unknown-orchestration",
            Self::AmbiguousOrchestration { .. } => "ambiguous-orchestration",
            Self::UnknownEntityKind(_) => "unknown-entity-kind",
            Self::UnknownModule { .. } => "unknown-module",
            Self::ModuleInUse { .. } => "module-in-use",
            Self::VersionTaken { .. } => "version-taken",
            Self::QuotaReached { .. } => "quota-reached",
            Self::UnknownInstance { .. } => "unknown-instance",
            Self::UnknownSchedule { .. } => "unknown-schedule",
            Self::UnknownWorker { .. } => "unknown-worker",
            Self::AlreadyExists { .. } => "already-exists",
            Self::OtherOrchestration { .. } => "other-orchestration",
            Self::Ended { .. } => "instance-ended",
            Self::Unanswered { .. } => "request-unanswered",
            Self::AlreadyRaised { .. } => "already-raised",
            Self::TooLarge { .. } => "too-large",
            Self::InvalidId(_) => "invalid-id",
            Self::InvalidInput(_) => "invalid-input",
            Self::Refused(_) => "module-refused",
            Self::Store(StoreError::Corrupt { .. }) => "store-damaged",
            Self::Store(StoreError::Codec(_)) => "store-keys-invalid",
            Self::Store(StoreError::KeyMissing { .. }) => "store-key-missing",
            Self::Store(StoreError::InUse { .. }) => "store-in-use",
            Self::Store(_) => "store-failed",
            Self::Blocked { .. } => "instance-blocked",
            Self::WrongStatus { .. } => "wrong-status",
            Self::QueryFailed { failure, .. } if failure.kind == FailureKind::NotFound => "unknown-query",
            Self::QueryFailed { .. } => "query-failed",
            Self::Busy(_) => "busy",
            Self::Stopped(_) => "stopped",
            Self::Sandbox(_) => "sandbox-failed",
        }
    }
}

fn what_exists(what: &str, names: &[String]) -> String {
    match names {
        [] if what == "schedules" => "there are no schedules yet".to_owned(),
        [] => format!("there are no {what} yet, upload a module first"),
        names => format!("the {what} are {}", names.join(", ")),
    }
}

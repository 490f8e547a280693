//! What is explored or tested: a module with orchestrations, ready to run.

use std::path::Path;
use std::sync::Arc;

use crate::core::ids::{InstanceId, ModuleHash};
use crate::project::{Project, ProjectError};
use crate::sandbox::inspect::Refused;
use crate::sandbox::settings::SandboxSettings;
use crate::sandbox::{OrchestrationModule, Sandbox, shared_cache};
use crate::store::{ModuleKind, Offer};

/// A module with orchestrations in a sandbox of its own. Cheap to clone.
#[derive(Clone)]
pub struct Subject {
    /// The compiled module.
    pub module: Arc<OrchestrationModule>,
    /// Its bytes, for recordings.
    pub bytes: Arc<[u8]>,
    offers: Arc<[Offer]>,
    // Counts the epochs of the module's engine.
    _sandbox: Arc<Sandbox>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subject({})", self.module.hash.short())
    }
}

/// The modules that are explored or tested together: the first one is what it is about.
#[derive(Clone, Debug)]
pub struct Subjects {
    own: Subject,
    /// By the names under which they are called.
    others: Vec<(String, Subject)>,
}

impl Subjects {
    /// One module.
    pub fn new(own: Subject) -> Self {
        Self { own, others: Vec::new() }
    }

    /// Another one, whose orchestrations are called by its name.
    pub fn add(&mut self, name: &str, other: Subject) {
        self.others.retain(|(known, _)| known != name);
        self.others.push((name.to_owned(), other));
    }

    /// What it is about.
    pub fn own(&self) -> &Subject {
        &self.own
    }

    /// The one of that name.
    pub fn named(&self, name: &str) -> Option<&Subject> {
        self.others.iter().find(|(known, _)| known == name).map(|(_, subject)| subject)
    }

    /// The names of the others.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.others.iter().map(|(name, _)| name.as_str())
    }

    /// The one with that hash: every instance here runs one of them.
    pub fn of(&self, hash: ModuleHash) -> &Subject {
        let others = self.others.iter().map(|(_, subject)| subject);
        others.into_iter().find(|subject| subject.module.hash == hash).unwrap_or(&self.own)
    }
}

/// Why something cannot be explored or tested.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The path, or the crate there.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The module.
    #[error("the module cannot be used: {0}")]
    Refused(#[from] Refused),
    /// It offers activities.
    #[error("the module offers activities; expected one with orchestrations")]
    Activities,
    /// This machine.
    #[error("the sandbox could not be made: {0}")]
    Sandbox(String),
    /// An orchestration that the module does not have.
    #[error("the module has no orchestration {name:?}; it has {}", .known.join(", "))]
    UnknownOrchestration {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// An instance's id.
    #[error(transparent)]
    InvalidId(#[from] crate::core::ids::InvalidId),
    /// An id that is taken.
    #[error("there are two instances {0}; give each an id of its own")]
    Twice(InstanceId),
}

impl Subject {
    /// Builds the crate or project in `path`, or reads the `.wasm` file there.
    ///
    /// # Errors
    /// If there is no module with orchestrations.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SubjectError> {
        Self::of(&Project::open(path.as_ref())?.build_orchestration(&mut |_| ())?.bytes)
    }

    /// Checks and compiles a module's bytes.
    ///
    /// # Errors
    /// If they are no module with orchestrations.
    pub fn of(bytes: &[u8]) -> Result<Self, SubjectError> {
        // Few guests are in memory at a time: one for each turn that is run.
        let settings = SandboxSettings { resident_guests: 64, ..SandboxSettings::default() };
        let sandbox =
            Sandbox::new(settings, shared_cache()).map_err(|error| SubjectError::Sandbox(format!("{error:#}")))?;
        let found = sandbox.inspect(bytes)?;
        if found.kind != ModuleKind::Orchestration {
            return Err(SubjectError::Activities);
        }
        let module = sandbox.load(found.hash, &found.component);
        let module = module.map_err(|error| SubjectError::Sandbox(format!("{error:#}")))?;
        Ok(Self {
            module: Arc::new(module),
            bytes: found.component.into(),
            offers: found.offers.into(),
            _sandbox: Arc::new(sandbox),
        })
    }

    /// Names of the orchestrations.
    pub fn orchestrations(&self) -> impl Iterator<Item = &str> {
        self.offers.iter().map(|offer| offer.name.as_str())
    }

    /// Whether the module has that orchestration.
    ///
    /// # Errors
    /// If it does not; the error says which it has.
    pub fn check(&self, orchestration: &str) -> Result<(), SubjectError> {
        if self.orchestrations().any(|name| name == orchestration) {
            return Ok(());
        }
        let known = self.orchestrations().map(str::to_owned).collect();
        Err(SubjectError::UnknownOrchestration { name: orchestration.to_owned(), known })
    }
}

//! What a command fails with: a code for programs, a message for people, and the
//! exit code that goes with it.

use serde_json::{Value, json};

use super::output;
use crate::engine::EngineError;
use crate::project::ProjectError;
use crate::project::build::BuildError;
use crate::server::problem::Problem;
use crate::store::StoreError;

/// Exit codes, as `--help` documents them.
pub(crate) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const INPUT: u8 = 2;
    pub(crate) const NOT_FOUND: u8 = 3;
    pub(crate) const CONFLICT: u8 = 4;
    pub(crate) const HOST: u8 = 5;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct CliError {
    /// The process's exit code.
    pub(crate) exit: u8,
    /// A name for programs.
    pub(crate) code: String,
    /// Expected, found, what to do.
    pub(crate) message: String,
    /// More for programs: fields of the error object.
    pub(crate) more: Option<Box<(&'static str, Value)>>,
}

/// What commands return.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    pub(crate) fn new(exit: u8, code: &str, message: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), more: None }
    }

    /// Bad usage or input.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(exit::INPUT, "invalid-input", message)
    }

    /// Trouble with this machine.
    pub(crate) fn host(message: impl Into<String>) -> Self {
        Self::new(exit::HOST, "host-trouble", message)
    }

    /// Writes it to stderr.
    pub(crate) fn report(&self, as_json: bool) {
        if !as_json {
            return output::err(format_args!("error: {}", output::clean(&self.message)));
        }
        let mut object = json!({ "code": self.code, "message": self.message });
        if let Some((name, value)) = self.more.as_deref() {
            object[*name] = value.clone();
        }
        output::err(object);
    }
}

fn exit_of(code: &str) -> u8 {
    match code {
        "instance-blocked" | "query-failed" => exit::FAILED,
        "unknown-orchestration"
        | "unknown-module"
        | "unknown-instance"
        | "unknown-schedule"
        | "unknown-query"
        | "unknown-entity-kind"
        | "not-found" => exit::NOT_FOUND,
        "quota-reached" | "module-in-use" | "version-taken" => exit::CONFLICT,
        "already-exists" | "other-orchestration" | "instance-ended" | "request-unanswered" | "wrong-status" => {
            exit::CONFLICT
        }
        "ambiguous-orchestration" | "too-large" | "invalid-id" | "invalid-input" | "module-refused" => exit::INPUT,
        "token-missing" | "token-refused" | "scope-missing" | "host-only" => exit::INPUT,
        _ => exit::HOST,
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        Self::new(exit_of(&problem.code), &problem.code, problem.detail)
    }
}

impl From<EngineError> for CliError {
    fn from(error: EngineError) -> Self {
        Problem::from(error).into()
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}

impl From<ProjectError> for CliError {
    fn from(error: ProjectError) -> Self {
        let (exit, code) = match &error {
            ProjectError::NotAProject { .. } => (exit::NOT_FOUND, "not-found"),
            ProjectError::Build(BuildError::NoCargo(_)) | ProjectError::Read { .. } => (exit::HOST, "host-trouble"),
            ProjectError::Build(_) => (exit::INPUT, "build-failed"),
            ProjectError::Manifest(_) => (exit::INPUT, "invalid-manifest"),
            ProjectError::Service(_) => (exit::HOST, "service-failed"),
        };
        Self::new(exit, code, error.to_string())
    }
}

impl From<BuildError> for CliError {
    fn from(error: BuildError) -> Self {
        ProjectError::from(error).into()
    }
}

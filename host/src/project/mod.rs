//! What a path on the command line stands for: a `.wasm` file, a crate, or a
//! folder whose `dacapo.toml` names an orchestration module and its activities.
//!
//! [`manifest`] reads the file, [`build`] calls cargo, [`services`] runs the
//! programs that a project wants beside it. Nothing here knows engine or store.

pub mod build;
pub mod manifest;
pub mod services;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::build::BuildError;
use self::manifest::{Manifest, ManifestError};
use crate::store::Grants;

/// Why a path cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// Nothing there that could be run.
    #[error("{path} is nothing that can be run: expected {expected}")]
    NotAProject {
        /// The path.
        path: String,
        /// What would do.
        expected: &'static str,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// `dacapo.toml`.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// cargo.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A service.
    #[error(transparent)]
    Service(#[from] services::ServiceError),
}

/// What a path stands for.
#[derive(Debug)]
pub struct Project {
    sources: Vec<Source>,
    manifest: Option<Manifest>,
}

#[derive(Debug)]
struct Source {
    /// None: as the crate or the file is called.
    name: Option<String>,
    path: PathBuf,
    grants: Grants,
}

/// A module that is built, with what it is to be granted.
#[derive(Debug)]
pub struct Built {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it may touch, `${..}` not yet replaced.
    pub grants: Grants,
}

impl Project {
    /// Looks at `path`.
    ///
    /// # Errors
    /// If there is nothing that could be run, or its `dacapo.toml` is not good.
    pub fn open(path: &Path) -> Result<Self, ProjectError> {
        let single = |path: &Path| Self {
            sources: vec![Source { name: None, path: path.to_owned(), grants: Grants::default() }],
            manifest: None,
        };
        if path.is_dir() && path.join(manifest::FILE).is_file() {
            let manifest = Manifest::read(&path.join(manifest::FILE))?;
            let source = |name: Option<&str>, of: &Path, grants: &Grants| Source {
                name: name.map(str::to_owned),
                path: path.join(of),
                grants: grants.clone(),
            };
            let mut sources = Vec::new();
            if let Some(orchestration) = &manifest.orchestration {
                sources.push(source(Some(&manifest.name), &orchestration.path, &Grants::default()));
            }
            sources.extend(manifest.activities.iter().map(|module| source(None, &module.path, &module.grants)));
            return Ok(Self { sources, manifest: Some(manifest) });
        }
        if path.is_dir() && path.join("Cargo.toml").is_file() || path.is_file() {
            return Ok(single(path));
        }
        let expected = if path.exists() {
            "a dacapo.toml or a Cargo.toml in it"
        } else {
            "a .wasm file, a crate's folder, or a folder with a dacapo.toml; there is nothing of that name"
        };
        Err(ProjectError::NotAProject { path: path.display().to_string(), expected })
    }

    /// Names of the services that it wants.
    pub fn services(&self) -> impl Iterator<Item = &manifest::Service> {
        self.manifest.iter().flat_map(|manifest| &manifest.services)
    }

    /// The project's folder, against which its paths are read.
    pub fn folder(&self) -> &Path {
        self.manifest.as_ref().map_or(Path::new("."), |manifest| manifest.folder())
    }

    /// Builds what is a crate and reads what is a file. `on_line` sees what cargo
    /// is at.
    ///
    /// # Errors
    /// If something does not build or cannot be read.
    pub fn build(&self, on_line: &mut dyn FnMut(&str)) -> Result<Vec<Built>, ProjectError> {
        self.sources.iter().map(|source| build_source(source, on_line)).collect()
    }

    /// Builds the first module alone: of a project, the one with orchestrations.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_orchestration(&self, on_line: &mut dyn FnMut(&str)) -> Result<Built, ProjectError> {
        build_source(&self.sources[0], on_line)
    }

    /// Replaces `${..}` in grants, reads their paths against the project's folder
    /// and makes the folders that are to be written to.
    ///
    /// # Errors
    /// If a name is unknown, or a folder cannot be made.
    pub fn grants(
        &self,
        grants: &Grants,
        data: &Path,
        services: &BTreeMap<String, String>,
    ) -> Result<Grants, ProjectError> {
        Ok(manifest::substitute(grants, self.folder(), data, services)?)
    }
}

fn build_source(source: &Source, on_line: &mut dyn FnMut(&str)) -> Result<Built, ProjectError> {
    let (file, name) = if source.path.is_dir() {
        let built = build::component(&source.path, on_line)?;
        (built.file, built.package)
    } else {
        let stem = source.path.file_stem().unwrap_or_default().to_string_lossy().replace([' ', '@', '/'], "-");
        (source.path.clone(), stem)
    };
    let bytes = std::fs::read(&file).map_err(|error| ProjectError::Read { path: file.display().to_string(), error })?;
    Ok(Built { name: source.name.clone().unwrap_or(name), bytes, grants: source.grants.clone() })
}

//! Crates become files: cargo is called where the crate is, so that its own
//! configuration and toolchain count.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Why a crate could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// cargo cannot be run at all.
    #[error("cannot run cargo: {0}; install Rust from https://rustup.rs")]
    NoCargo(std::io::Error),
    /// It ran and failed.
    #[error("{path} does not build:\n{output}")]
    Failed {
        /// The crate's folder.
        path: String,
        /// What cargo said.
        output: String,
    },
    /// It built, but nothing that could be used.
    #[error("{path} builds no {wanted}; {advice}")]
    NoArtifact {
        /// The crate's folder.
        path: String,
        /// What was expected.
        wanted: &'static str,
        /// What to change.
        advice: &'static str,
    },
}

/// A file that cargo made.
#[derive(Debug)]
pub struct Artifact {
    /// The package's name.
    pub package: String,
    /// The file.
    pub file: PathBuf,
}

/// Builds the component of the crate in `folder`.
///
/// # Errors
/// If cargo fails or makes no component.
pub fn component(folder: &Path, on_line: &mut dyn FnMut(&str)) -> Result<Artifact, BuildError> {
    let artifacts = cargo(folder, &["--target", "wasm32-wasip2"], on_line)?;
    let found = artifacts.into_iter().find_map(|message| {
        let file = message.filenames.iter().find(|file| file.extension().is_some_and(|e| e == "wasm"))?.clone();
        message.target.kind.iter().any(|kind| kind == "cdylib").then_some(Artifact { package: message.package, file })
    });
    found.ok_or_else(|| BuildError::NoArtifact {
        path: folder.display().to_string(),
        wanted: "component",
        advice: "its Cargo.toml needs [lib] crate-type = [\"cdylib\"]",
    })
}

/// Builds the program of the crate in `folder` for this machine.
///
/// # Errors
/// If cargo fails or makes no program.
pub fn program(folder: &Path, on_line: &mut dyn FnMut(&str)) -> Result<PathBuf, BuildError> {
    let artifacts = cargo(folder, &[], on_line)?;
    artifacts.into_iter().find_map(|message| message.executable).ok_or_else(|| BuildError::NoArtifact {
        path: folder.display().to_string(),
        wanted: "program",
        advice: "it needs a src/main.rs",
    })
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(skip)]
    package: String,
}

#[derive(Default, Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// What cargo made of the crate in `folder` itself, not of its dependencies.
fn cargo(folder: &Path, arguments: &[&str], on_line: &mut dyn FnMut(&str)) -> Result<Vec<Message>, BuildError> {
    let mut command = Command::new("cargo");
    // If cargo runs this program, what it says of that package is not true of this one.
    for (name, _) in std::env::vars_os() {
        let outer = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];
        if name.to_str().is_some_and(|name| outer.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(BuildError::NoCargo)?;
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| text)
    });
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().expect("stderr is piped")).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        on_line(line.trim());
        said.push_str(line.trim_end());
        said.push('\n');
    }
    let status = child.wait().map_err(BuildError::NoCargo)?;
    let messages = reader.join().ok().and_then(Result::ok).unwrap_or_default();
    if !status.success() {
        return Err(BuildError::Failed { path: folder.display().to_string(), output: said.trim_end().to_owned() });
    }
    let own = folder.join("Cargo.toml").canonicalize().unwrap_or_default();
    let package = package_name(&own).unwrap_or_else(|| "module".to_owned());
    let messages = messages.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let own = messages.filter(|message: &Message| {
        message.reason == "compiler-artifact" && message.manifest_path.canonicalize().is_ok_and(|path| path == own)
    });
    Ok(own.map(|message| Message { package: package.clone(), ..message }).collect())
}

fn package_name(manifest: &Path) -> Option<String> {
    let table: toml::Table = std::fs::read_to_string(manifest).ok()?.parse().ok()?;
    Some(table.get("package")?.get("name")?.as_str()?.to_owned())
}

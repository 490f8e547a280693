//! `dacapo.toml`: which modules make a project and what its activities may touch.
//!
//! ```toml
//! name = "trip-booking"              # name of the orchestration module
//!
//! [orchestration]
//! path = "orchestration"             # a crate's folder, or a .wasm file
//!
//! [[activities]]
//! path = "activities"
//! [activities.grants]
//! env = { BOOKING_URL = "${services.booking.url}" }
//! hosts = ["${services.booking.host}"]
//! directories = [{ host = "${data}/out", guest = "/out", write = true }]
//! secrets = { API_KEY = "booking-key" } # the variable and the secret's name
//!
//! [[services]]                       # a program that runs while `dacapo run` does
//! name = "booking"
//! path = "../demo-service"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::store::{DirectoryGrant, Grants};

/// The file's name.
pub const FILE: &str = "dacapo.toml";

/// A `dacapo.toml`. See the module's page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the orchestration module.
    pub name: String,
    /// The orchestration module.
    pub orchestration: Option<Orchestration>,
    /// Activity modules.
    #[serde(default)]
    pub activities: Vec<Activities>,
    /// Programs beside it.
    #[serde(default)]
    pub services: Vec<Service>,
    #[serde(skip)]
    folder: PathBuf,
}

/// The orchestration module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orchestration {
    /// A crate's folder or a `.wasm` file.
    pub path: PathBuf,
}

/// An activity module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activities {
    /// A crate's folder or a `.wasm` file.
    pub path: PathBuf,
    /// What it may touch.
    #[serde(default)]
    pub grants: Grants,
}

/// A program that runs beside the project.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name in `${services.NAME.url}`.
    pub name: String,
    /// Its crate's folder.
    pub path: PathBuf,
}

/// What is wrong with a `dacapo.toml`.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read, or is not what it should be.
    #[error("{path}: {why}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, and where.
        why: String,
    },
    /// `${..}` that stands for nothing.
    #[error("unknown ${{{name}}} in {FILE}: expected one of {}", known.join(", "))]
    UnknownName {
        /// What stands between the braces.
        name: String,
        /// What could.
        known: Vec<String>,
    },
    /// A `${` without its `}`.
    #[error("{text:?} in {FILE} has a \"${{\" without its \"}}\"")]
    Unclosed {
        /// The text.
        text: String,
    },
    /// A folder that cannot be granted.
    #[error("cannot grant the folder {path}: {why}")]
    Directory {
        /// The folder.
        path: String,
        /// Why.
        why: String,
    },
}

impl Manifest {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// [`ManifestError::Invalid`] with the line.
    pub fn read(file: &Path) -> Result<Self, ManifestError> {
        let invalid = |why: String| ManifestError::Invalid { path: file.display().to_string(), why };
        let text = std::fs::read_to_string(file).map_err(|error| invalid(error.to_string()))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).map_err(invalid)
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut manifest: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        manifest.folder = folder.to_owned();
        if manifest.orchestration.is_none() && manifest.activities.is_empty() {
            return Err("it names no module: expected [orchestration] or [[activities]]".to_owned());
        }
        let mut names: Vec<_> = manifest.services.iter().map(|service| service.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the service {:?} is there twice; give each its own name", twice[0]));
        }
        let plain =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        match names.iter().find(|name| !plain(name)) {
            Some(name) => Err(format!("the service name {name:?} is not valid: expected letters, digits, '-' and '_'")),
            None => Ok(manifest),
        }
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Grants with `${..}` replaced and paths absolute. Folders to be written to are
/// made; those to be read must be there.
pub(super) fn substitute(
    grants: &Grants,
    folder: &Path,
    data: &Path,
    services: &BTreeMap<String, String>,
) -> Result<Grants, ManifestError> {
    let mut names = BTreeMap::from([("data".to_owned(), data.display().to_string())]);
    for (name, url) in services {
        names.insert(format!("services.{name}.url"), url.clone());
        names.insert(format!("services.{name}.host"), host_of(url).to_owned());
    }
    let env = grants.env.iter().map(|(name, value)| Ok((name.clone(), expand(value, &names)?)));
    let directories = grants.directories.iter().map(|granted| {
        let host = folder.join(expand(&granted.host, &names)?);
        let cannot = |error: std::io::Error| {
            let why = format!("{error}; it is read against the folder of {FILE}");
            ManifestError::Directory { path: host.display().to_string(), why }
        };
        if granted.write {
            std::fs::create_dir_all(&host).map_err(cannot)?;
        }
        let host = host.canonicalize().map_err(cannot)?.display().to_string();
        Ok(DirectoryGrant { host, ..granted.clone() })
    });
    Ok(Grants {
        env: env.collect::<Result<_, ManifestError>>()?,
        hosts: grants.hosts.iter().map(|host| expand(host, &names)).collect::<Result<_, _>>()?,
        directories: directories.collect::<Result<_, ManifestError>>()?,
        secrets: grants.secrets.clone(),
    })
}

fn expand(text: &str, names: &BTreeMap<String, String>) -> Result<String, ManifestError> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or_else(|| ManifestError::Unclosed { text: text.to_owned() })?;
        let value = names.get(name).ok_or_else(|| ManifestError::UnknownName {
            name: name.to_owned(),
            known: names.keys().map(|name| format!("${{{name}}}")).collect(),
        })?;
        expanded.push_str(before);
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// `name:port` of a URL.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse(text, Path::new("."))
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let error = parse("name = \"a\"\n[orchestration]\npaht = \"x\"\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("paht"), "{error}");
        assert!(parse("name = \"a\"").unwrap_err().contains("names no module"));
        let twice = "name = \"a\"\n[orchestration]\npath = \"x\"\n[[services]]\nname = \"s\"\npath = \"s\"\n";
        let twice = format!("{twice}[[services]]\nname = \"s\"\npath = \"s\"\n");
        assert!(parse(&twice).unwrap_err().contains("twice"));
    }

    #[test]
    fn names_are_replaced_and_unknown_ones_listed() {
        let services = BTreeMap::from([("desk".to_owned(), "http://127.0.0.1:81/v1".to_owned())]);
        let grants =
            |text: &str| Grants { env: BTreeMap::from([("URL".to_owned(), text.to_owned())]), ..Grants::default() };
        let of = |text: &str| substitute(&grants(text), Path::new("."), Path::new("/data"), &services);
        assert_eq!(of("a ${services.desk.host} ${data}/b").unwrap().env["URL"], "a 127.0.0.1:81 /data/b");
        let unknown = of("${services.disk.url}").unwrap_err().to_string();
        assert!(unknown.contains("${services.disk.url}") && unknown.contains("${services.desk.url}"), "{unknown}");
        assert!(of("${data").unwrap_err().to_string().contains("without its"));
    }
}

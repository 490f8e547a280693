//! Where a data folder's server is: `<data>/server.json`. Only who holds the
//! store writes it; whoever reads it asks the server whether it is still that one.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What `server.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// Whether it speaks TLS there.
    #[serde(default)]
    pub tls: bool,
}

/// Removes `server.json` when it is dropped.
#[derive(Debug)]
pub struct Published(PathBuf);

impl Address {
    /// Writes `server.json`, whole or not at all.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn publish(&self, data: &Path) -> io::Result<Published> {
        let (path, new) = (file(data), data.join(format!("server.json.{}", self.pid)));
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(&new, &path)?;
        Ok(Published(path))
    }

    /// Reads `server.json`; none if there is none, or not a good one.
    pub fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file(data)).ok()?).ok()
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn file(data: &Path) -> PathBuf {
    data.join("server.json")
}

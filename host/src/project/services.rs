//! Programs beside a project: they run while `dacapo run` does.
//!
//! A service prints `listening on http://..` as its first line. Its stdin is a
//! pipe that ends with this process, however that dies, and it ends with its
//! stdin. `DACAPO_SERVICE_DATA` is its folder.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a service may take to listen.
const START: Duration = Duration::from_secs(30);

/// Why a service does not run.
#[derive(Debug, thiserror::Error)]
#[error("the service {name:?} does not run: {why}")]
pub struct ServiceError {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// A service that runs until this is dropped.
#[derive(Debug)]
pub struct Service {
    /// Where it listens.
    pub url: String,
    child: Child,
}

impl Service {
    /// Starts `program` and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(name: &str, program: &Path, data: &Path) -> Result<Self, ServiceError> {
        let failed = |why: String| ServiceError { name: name.to_owned(), why };
        let folder = data.join("services").join(name);
        std::fs::create_dir_all(&folder).map_err(|error| failed(format!("{}: {error}", folder.display())))?;
        let mut child = Command::new(program)
            .env("DACAPO_SERVICE_DATA", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", program.display())))?;
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (first, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_line(&mut text).map(|_| first.send(text));
            // What it says later is read, so that it can say it, and dropped.
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        let line = line.recv_timeout(START).unwrap_or_default();
        let mut service = Self { url: String::new(), child };
        match line.trim().strip_prefix("listening on ") {
            Some(url) if url.starts_with("http://") => service.url = url.trim_end_matches('/').to_owned(),
            _ => {
                return Err(failed(format!(
                    "expected \"listening on http://127.0.0.1:PORT\" as its first line within {} s, found {:?}",
                    START.as_secs(),
                    line.trim()
                )));
            }
        }
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

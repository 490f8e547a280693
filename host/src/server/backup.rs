//! A backup of everything, while the host runs: `GET backup`.
//!
//! The bytes are those of [`crate::store::backup`], sent as they are read: nothing is
//! gathered here. An answer that ends before its last section is no backup, and whoever
//! reads it can tell.

use std::io::{self, Write};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::access::Scoped;
use super::api::{Api, Result};
use super::problem::Problem;
use crate::store::Store as _;
use crate::store::backup::BackupError;

/// Backups at the same time: each keeps pages of the file from being used again.
pub(super) const AT_ONCE: usize = 2;
/// Parts that wait to be sent.
const PARTS: usize = 4;
const PART_BYTES: usize = 256 << 10;
/// A client that takes nothing for so long is given up, because the file grows meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/backup", get(backup))
}

async fn backup(Scoped(api): Scoped) -> Result<Response> {
    let slot = api.backups().try_acquire_owned();
    let slot = slot.map_err(|_| Problem::new("busy", format!("{AT_ONCE} backups are under way; try again")))?;
    let (parts, mut receiver) = mpsc::channel(PARTS);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut to = io::BufWriter::with_capacity(PART_BYTES, ToClient { parts, runtime });
        let written = api.store().backup(&mut to).and_then(|contents| {
            to.flush().map_err(|error| BackupError::Io { doing: "write", error })?;
            Ok(contents)
        });
        match written {
            Ok(contents) => tracing::info!(bytes = contents.bytes, "a backup was taken"),
            Err(error) => {
                tracing::warn!(%error, "a backup was not finished");
                // What it holds must not be sent as if it were all.
                let (client, _unsent) = to.into_parts();
                client.give_up();
            }
        }
        drop(slot);
    });
    let body = Body::from_stream(futures::stream::poll_fn(move |context| receiver.poll_recv(context)));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"dacapo.backup\""),
    ];
    Ok((headers, body).into_response())
}

/// Whoever asked, as something to write to.
struct ToClient {
    parts: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl ToClient {
    fn send(&self, part: io::Result<Bytes>) -> io::Result<()> {
        match self.runtime.block_on(tokio::time::timeout(PATIENCE, self.parts.send(part))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")),
        }
    }

    /// Ends the answer as one that is not whole.
    fn give_up(&self) {
        let _ = self.send(Err(io::Error::other("the backup could not be finished")));
    }
}

impl Write for ToClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(Ok(Bytes::copy_from_slice(bytes)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

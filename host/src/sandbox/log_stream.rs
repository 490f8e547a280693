//! An activity's standard output and error: lines for the host's log.
//!
//! What is written is kept until its line is whole, so that a secret that comes in
//! pieces is found as well. The stream is the host's own all the way: the stock
//! adapter writes what passes through it into the log, as it is.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::secrets::Scrubber;

/// A line that is longer is shown in parts.
const LINE_BYTES: usize = 16 << 10;

/// What one write may bring.
const PERMIT_BYTES: usize = 64 << 10;

/// The stream; clones write into the same lines.
#[derive(Clone)]
pub(super) struct LogStream(Arc<Lines>);

struct Lines {
    key: String,
    error: bool,
    scrubber: Scrubber,
    begun: Mutex<Vec<u8>>,
}

impl LogStream {
    /// The output of the attempt with that idempotency key.
    pub(super) fn new(key: String, error: bool, scrubber: Scrubber) -> Self {
        Self(Arc::new(Lines { key, error, scrubber, begun: Mutex::default() }))
    }
}

impl Lines {
    fn take(&self, bytes: &[u8]) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.extend_from_slice(bytes);
        let whole = match begun.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if begun.len() > LINE_BYTES => begun.len(),
            None => return,
        };
        let rest = begun.split_off(whole);
        self.show(&std::mem::replace(&mut *begun, rest));
    }

    fn show(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for line in self.scrubber.text(&text).lines().filter(|line| !line.is_empty()) {
            tracing::info!(target: "dacapo::activity", task = self.key, stderr = self.error, "{line}");
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let last = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
        self.show(&last);
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT_BYTES)
    }
}

impl tokio::io::AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

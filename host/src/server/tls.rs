//! TLS: a certificate and its key, and a listener that does the handshakes.
//!
//! A handshake takes as long as the other side lets it. So each runs by itself, a
//! bounded number at the same time, and none for long: who connects and says nothing
//! holds up nobody.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::api::Result;
use super::problem::Problem;

/// Handshakes under way; each holds a connection that may never say anything.
const MAX_HANDSHAKES: usize = 256;
/// A slow network needs a second or two.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// As long as nothing can be accepted, because of too many open files say.
const PAUSE: Duration = Duration::from_secs(1);

/// For clients: what the certificate of another server must lead to, one of those in
/// a PEM file.
///
/// # Errors
/// Says why the file cannot be used.
pub(crate) fn trusting(path: &Path) -> Result<TlsConfig, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let items = parse_pem(&bytes).collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
    let certificates = items.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        return Err(wrong("expected a certificate in PEM".to_owned()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads PEM files: the certificate, with those that lead to its root behind it,
    /// and its key.
    ///
    /// # Errors
    /// Says which file cannot be used and why.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let wrong = |path: &Path, what: &str, why: &dyn std::fmt::Display| {
            Problem::invalid(format!("{}: expected {what} in PEM: {why}", path.display()))
        };
        let bad_certificate = |why: &dyn std::fmt::Display| wrong(certificate, "a certificate", why);
        let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| bad_certificate(&error))?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| bad_certificate(&error))?;
        if chain.is_empty() {
            return Err(bad_certificate(&"it has none"));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, "a private key", &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, private));
        let mut config = config.map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            Problem::invalid(format!("{certificate} and {key} cannot be used together: {error}"))
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn listen(self, tcp: TcpListener) -> TlsListener {
        TlsListener { tcp, acceptor: self.0.into(), handshakes: JoinSet::new() }
    }
}

/// Accepts connections, and gives those whose handshake is done.
pub(super) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    fn shake_hands(&mut self, stream: TcpStream, from: SocketAddr) {
        let shaking = self.acceptor.accept(stream);
        self.handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE, shaking).await {
                Ok(Ok(stream)) => Some((stream, from)),
                Ok(Err(error)) => {
                    tracing::debug!(%from, %error, "no handshake");
                    None
                }
                Err(_) => None,
            }
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    #[expect(clippy::manual_async_fn, reason = "the trait asks for a future that can be sent")]
    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send {
        async {
            loop {
                let has_room = self.handshakes.len() < MAX_HANDSHAKES;
                tokio::select! {
                    accepted = self.tcp.accept(), if has_room => match accepted {
                        Ok((stream, from)) => self.shake_hands(stream, from),
                        Err(error) => {
                            tracing::warn!(%error, "a connection could not be accepted");
                            tokio::time::sleep(PAUSE).await;
                        }
                    },
                    Some(done) = self.handshakes.join_next() => {
                        if let Ok(Some(accepted)) = done {
                            return accepted;
                        }
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

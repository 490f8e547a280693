//! Outbound HTTP of activities: to granted hosts, at addresses that are meant.
//!
//! A name that was granted is resolved here, once, and the connection goes to one of
//! the addresses that were looked at. An address that is only reachable from this
//! machine or its network (loopback, private, link-local and their like) is refused:
//! whoever controls a name's DNS could otherwise reach what the host can reach. Such
//! an address must be granted literally, as `127.0.0.1:8080` or `localhost`. Guests
//! follow redirects themselves, so each hop comes by here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// How long an activity waits where it does not say: its own timeouts end it before.
const PATIENCE: Duration = Duration::from_secs(600);

type Resolve = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// From a name and a port to addresses: the operating system's, unless a test owns it.
#[derive(Clone)]
pub struct Resolver(Arc<Resolve>);

impl Resolver {
    /// One that answers at once.
    pub fn of(resolve: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |name, port| Box::pin(std::future::ready(resolve(&name, port)))))
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self(Arc::new(|name, port| Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })))
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

/// Hosts that may be reached: `name`, or `name:port`.
pub(super) struct Outbound {
    pub(super) granted: Vec<String>,
    pub(super) resolver: Resolver,
    /// Said with every request that says nothing of a trace itself.
    pub(super) traceparent: Option<http::HeaderValue>,
}

/// An answer, and what drives its connection until it has ended.
pub(super) type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// Where a request may go.
struct Target {
    host: String,
    port: u16,
    tls: bool,
    /// The grant names the very address, or this machine.
    literal: bool,
}

impl Outbound {
    /// Sends a request where it may go.
    pub(super) fn send(
        &self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> BoxFuture<'static, Sent> {
        if let Some(traceparent) = &self.traceparent {
            request.headers_mut().entry("traceparent").or_insert_with(|| traceparent.clone());
        }
        let Some(target) = self.target(request.uri()) else {
            let wanted = request.uri().authority().map_or("no host", |authority| authority.as_str());
            let granted = &self.granted;
            tracing::warn!(wanted, ?granted, "an activity's HTTP request was denied: grant the host to its module");
            return Box::pin(async { Err(Error::HttpRequestDenied) });
        };
        let resolver = self.resolver.clone();
        Box::pin(send(target, resolver, request, options.unwrap_or_default()))
    }

    fn target(&self, uri: &http::Uri) -> Option<Target> {
        let authority = uri.authority()?;
        let tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = authority.host();
        self.granted.iter().find(|granted| allows(granted, authority))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let literal = bare.parse::<IpAddr>().is_ok() || bare.eq_ignore_ascii_case("localhost");
        Some(Target { host: bare.to_owned(), port, tls, literal })
    }
}

fn allows(granted: &str, authority: &http::uri::Authority) -> bool {
    match granted.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            host.eq_ignore_ascii_case(authority.host())
                && authority.port_u16().map(|p| p.to_string()).as_deref() == Some(port)
        }
        _ => granted.eq_ignore_ascii_case(authority.host()),
    }
}

impl Target {
    /// Addresses that it has and may have.
    async fn addresses(&self, resolver: &Resolver) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let found = (resolver.0)(self.host.clone(), self.port).await;
        let found = found.map_err(|_| Error::DnsError { rcode: None, info_code: None })?;
        let (meant, refused): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|address| self.literal || is_public(address.ip()));
        match (meant.is_empty(), refused.is_empty()) {
            (false, _) => Ok(meant),
            (true, true) => Err(Error::DestinationNotFound),
            (true, false) => {
                let host = &self.host;
                tracing::warn!(
                    host,
                    ?refused,
                    "an activity's HTTP request was denied: its name leads to addresses \
                    that are not public; grant the address itself if it is meant"
                );
                Err(Error::DestinationIpProhibited)
            }
        }
    }

    async fn connect(&self, resolver: &Resolver) -> Result<TcpStream, Error> {
        let mut last = Error::DestinationNotFound;
        for address in self.addresses(resolver).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Error::Connect(error),
            }
        }
        Err(last)
    }
}

/// Whether anybody on the internet may have that address.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match (ip.to_ipv4_mapped(), embedded_v4(ip)) {
            (Some(mapped), _) => is_public_v4(mapped),
            (None, Some(embedded)) => is_public_v4(embedded),
            (None, None) => is_public_v6(ip),
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_protocol = a == 192 && b == 0 && c == 0;
    let is_benchmark = a == 198 && (b == 18 || b == 19);
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || is_shared
        || is_protocol
        || is_benchmark
        // This network, multicast, reserved, broadcast.
        || a == 0
        || a >= 224)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    // Of the global unicast range, without documentation.
    (first & 0xe000) == 0x2000 && !(first == 0x2001 && second == 0x0db8)
}

/// The IPv4 address that a translated (64:ff9b::/96) or 6to4 (2002::/16) one leads to.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

async fn send(
    target: Target,
    resolver: Resolver,
    mut request: http::Request<WasiBody>,
    options: RequestOptions,
) -> Sent {
    let connecting = async {
        let stream = target.connect(&resolver).await?;
        Ok::<_, Error>(if target.tls {
            Stream::Tls(Box::new(secure(&target.host, stream).await?))
        } else {
            Stream::Plain(stream)
        })
    };
    let connected = timeout(options.connect_timeout.unwrap_or(PATIENCE), connecting).await;
    let stream = connected.map_err(|_| Error::ConnectionTimeout)??;
    let (mut sender, connection) = http1::handshake(stream).await?;
    // The connection carries the request while its answer is waited for, and is
    // handed on with it.
    let connection = tokio::spawn(connection);
    // Only proxies are told scheme and authority; the header `host` is there already.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    let answer = timeout(options.first_byte_timeout.unwrap_or(PATIENCE), sender.send_request(request)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => {
            connection.abort();
            return Err(Error::ConnectionReadTimeout);
        }
    };
    let patience = options.between_bytes_timeout.unwrap_or(PATIENCE);
    let body = |incoming| Timed { incoming, patience, sleep: Box::pin(tokio::time::sleep(patience)) }.boxed_unsync();
    let driven: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async move {
        match connection.await {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    });
    Ok((answer.map(body), driven))
}

async fn secure(host: &str, stream: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(Error::Tls)
}

/// A body that is given up when nothing of it comes for too long.
struct Timed {
    incoming: Incoming,
    patience: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            let next = tokio::time::Instant::now() + self.patience;
            self.sleep.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        self.sleep.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.incoming.size_hint()
    }
}

/// A connection, as hyper reads and writes it.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Through a buffer of its own: hyper's may be uninitialised.
        let mut bytes = [0; 16 << 10];
        let room = cursor.remaining().min(bytes.len());
        let mut buffer = ReadBuf::new(&mut bytes[..room]);
        let polled = match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        };
        polled.map_ok(|()| cursor.put_slice(buffer.filled()))
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_only_this_network_has_are_not_public() {
        let is_public = |text: &str| is_public(text.parse().unwrap());
        for address in ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert!(is_public(address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(!is_public(address), "{address}");
        }
    }

    #[test]
    fn a_grant_names_a_host_or_a_host_and_its_port() {
        let may = |granted: &str, uri: &str| {
            let outbound =
                Outbound { granted: vec![granted.to_owned()], resolver: Resolver::default(), traceparent: None };
            outbound.target(&uri.parse().unwrap()).is_some()
        };
        assert!(may("api.example.org", "https://API.example.org/x"));
        assert!(may("api.example.org", "http://api.example.org:81/"));
        assert!(may("127.0.0.1:81", "http://127.0.0.1:81/"));
        assert!(may("[::1]:81", "http://[::1]:81/"));
        assert!(!may("127.0.0.1:81", "http://127.0.0.1:82/"));
        assert!(!may("127.0.0.1:81", "http://127.0.0.1/"));
        assert!(!may("example.org", "http://api.example.org/"));
        assert!(!may("api.example.org", "http://api.example.org.evil.net/"));
        assert!(!may("api.example.org", "http://api.example.org@evil.net/"));
    }
}

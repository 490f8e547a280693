//! `dacapo serve`: runs everything in a data folder until it is told to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::client::{Access, Client, Remote};
use super::config::SettingsArgs;
use super::error::{CliError, Result, exit};
use super::reach::Reach;
use super::{Common, input, output, store};
use crate::core::summary::Status;
use crate::engine::{Engine, EngineSettings, Retention, SystemClock};
use crate::sandbox::secrets::Secrets;
use crate::server::access::Admission;
use crate::server::address::{Address, Published};
use crate::server::api::Api;
use crate::server::audit::{self, Audit};
use crate::server::config::ServerConfig;
use crate::server::otlp::Exporter;
use crate::server::problem::Problem;
use crate::server::settings::Settings;
use crate::server::tls::Tls;
use crate::server::tokens::Tokens;
use crate::server::watched::Watched;
use crate::server::webhooks::Webhooks;
use crate::server::{Serve, Server};
use crate::store::StoreError;
use crate::store::codec::{Asked, Codec};
use crate::store::redb::Options;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Where a server listens if nobody says otherwise.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7007);

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let (given, config) = args.settings.read(common)?;
    super::log_to_stderr(config.log.as_deref().unwrap_or("info"), config.log_format.unwrap_or_default())?;
    let data = store::make_folder(config.data.as_deref().unwrap_or(&common.data))?;
    let exporter = exporter(&config)?;
    let mut configured = Configured::of(config, &given, &data)?;
    if let Some(exporter) = &exporter {
        configured.settings.spans = exporter.spans();
    }
    let serving = Serving::start(&data, configured, &common.reach).await?;
    let interrupted = interrupted();
    output::out(format_args!("listening on {}", serving.server.url()));
    interrupted.await;
    serving.stop().await;
    if let Some(exporter) = exporter {
        // It waits for its thread.
        let _ = tokio::task::spawn_blocking(move || exporter.stop()).await;
    }
    Ok(())
}

/// What sends spans, if somebody wants them: as dacapo's own setting says, or as
/// OpenTelemetry's.
fn exporter(config: &ServerConfig) -> Result<Option<Arc<Exporter>>> {
    let everywhere = || std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
    let endpoint = config.otlp_endpoint.clone().or_else(everywhere).filter(|endpoint| !endpoint.is_empty());
    Ok(endpoint.as_deref().map(Exporter::start).transpose()?)
}

/// A data folder that is served.
pub(super) struct Serving {
    api: Api,
    engine: Arc<Engine>,
    server: Server,
    published: Published,
}

impl Serving {
    /// Opens a data folder, goes on with everything in it, and serves it.
    pub(super) async fn start(data: &Path, configured: Configured, reach: &Reach) -> Result<Self> {
        let Configured { listen, tls, audit_bytes, settings, options, webhooks } = configured;
        let kept = match store::open_in_turn(data, &options, || Remote::find(data, reach)).await? {
            Ok(kept) => Watched::new(kept),
            Err(server) => {
                let message =
                    format!("{} is served by {} already; stop that one first", data.display(), server.address());
                return Err(CliError::new(exit::CONFLICT, "store-in-use", message));
            }
        };
        let engine = Arc::new(Engine::open(kept.clone(), Arc::new(SystemClock), settings, None)?);
        let mut made = None;
        let audit = Audit::open(data, audit_bytes)?;
        let access = Admission::by(Tokens::of(data)).noted_in(audit);
        let server = Server::start(Serve { listen, access, tls }, |stopping| {
            let api = Api::new(kept, Some(engine.clone()), stopping).with_webhooks(webhooks).in_folder(data);
            made.insert(api).clone()
        })
        .await?;
        let api = made.ok_or_else(|| CliError::host("the server has no API"))?;
        let published = Address { address: server.address, pid: std::process::id(), tls: server.is_tls }.publish(data);
        let published =
            published.map_err(|error| CliError::host(format!("cannot write to {}: {error}", data.display())))?;
        Ok(Self { api, engine, server, published })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// Lets requests under way end, and makes durable what is under way.
    pub(super) async fn stop(self) {
        tracing::info!("stopping");
        drop(self.published);
        self.server.stop().await;
        self.engine.shutdown();
    }
}

/// Lists the webhooks of the server that runs.
pub(super) async fn webhooks_of(common: &Common) -> Result<()> {
    let answer = Client::open(common, Access::Read).await?.webhooks()?;
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    let mut table = output::Table::new(&["PATH", "STARTS", "RAISES", "INSTANCE"]);
    for row in answer["webhooks"].as_array().into_iter().flatten() {
        table.row(["path", "start", "raise", "instance"].map(|name| output::field(row, name)));
    }
    table.print();
    Ok(())
}

/// What the settings make of a server.
pub(super) struct Configured {
    pub(super) listen: SocketAddr,
    pub(super) tls: Option<Tls>,
    pub(super) audit_bytes: u64,
    pub(super) settings: EngineSettings,
    pub(super) options: Options,
    pub(super) webhooks: Arc<Webhooks>,
}

impl Configured {
    /// Without settings.
    pub(super) fn plain(listen: SocketAddr, data: &Path) -> Result<Self> {
        let (settings, options) = (store::settings(data), store::options(data)?);
        Ok(Self { listen, tls: None, audit_bytes: audit::BYTES, settings, options, webhooks: Arc::default() })
    }

    fn of(config: ServerConfig, given: &Settings, data: &Path) -> Result<Self> {
        let secrets = Secrets::of_host(config.secrets_file.clone());
        let mut settings = store::settings_with(data, secrets.clone());
        config.apply(&mut settings);
        settings.retention = retention(&config, given)?;
        let keys = std::env::var("DACAPO_KEYS").ok().filter(|keys| !keys.is_empty());
        let asked = Asked { compress_above: config.compress_above, keys, key_file: config.key_file };
        let codec = Codec::of(&asked, data).map_err(StoreError::from)?;
        let mut options = Options { codec: Arc::new(codec), ..Options::default() };
        options.payloads_above = config.large_payload_bytes.unwrap_or(options.payloads_above);
        options.cache_bytes = config.store_cache_bytes.unwrap_or(options.cache_bytes);
        let wrong = |problem: Problem| CliError::input(format!("{}: {}", given.origin("webhooks"), problem.detail));
        let webhooks = Arc::new(Webhooks::new(config.webhooks, secrets).map_err(wrong)?);
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::read(certificate, key)?),
            (None, None) => None,
            (given, _) => {
                let missing = if given.is_some() { "tls_key" } else { "tls_cert" };
                return Err(CliError::input(format!("a certificate needs its key: {missing} is missing")));
            }
        };
        let audit_bytes = config.audit_bytes.unwrap_or(audit::BYTES);
        Ok(Self { listen: config.listen.unwrap_or(LISTEN), tls, audit_bytes, settings, options, webhooks })
    }
}

fn retention(config: &ServerConfig, given: &Settings) -> Result<Retention> {
    let pair = |(status, age): (&String, &String)| {
        let key = format!("retention.{status}");
        let wrong = |why| CliError::input(format!("{}: {key}: {why}", given.origin(&key)));
        input::kept(&format!("{status}={age}")).map_err(wrong)
    };
    let pairs = config.retention.iter().map(pair).collect::<Result<Vec<_>>>()?;
    let of = |status| pairs.iter().find(|(given, _)| *given == status).map(|(_, age)| *age);
    Ok(Retention {
        completed: of(Status::Completed),
        failed: of(Status::Failed),
        terminated: of(Status::Terminated),
        ..Retention::default()
    })
}

/// Waits for ctrl-c or SIGTERM, from the call on.
pub(super) fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    let listen = |kind| signal(kind).inspect_err(|error| tracing::warn!(%error, "a signal is not handled")).ok();
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(listen);
    async move {
        let waits =
            signals.into_iter().flatten().map(|mut signal: Signal| Box::pin(async move { signal.recv().await }));
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() { std::future::pending().await } else { drop(futures::future::select_all(waits).await) }
    }
}

//! `dacapo serve`: runs everything in a data folder until it is told to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::client::{Access, Client, Remote};
use super::config::SettingsArgs;
use super::error::{CliError, Result, exit};
use super::{Common, input, output, store};
use crate::core::summary::Status;
use crate::engine::{Engine, EngineSettings, Retention, SystemClock};
use crate::sandbox::secrets::Secrets;
use crate::server::Server;
use crate::server::address::{Address, Published};
use crate::server::api::Api;
use crate::server::config::ServerConfig;
use crate::server::watched::Watched;
use crate::server::webhooks::Webhooks;
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
    let (_, config) = args.settings.read(common)?;
    super::log_to_stderr(config.log.as_deref().unwrap_or("info"), config.log_format.unwrap_or_default())?;
    let data = store::make_folder(config.data.as_deref().unwrap_or(&common.data))?;
    let configured = Configured::of(config, &data)?;
    let serving = Serving::start(&data, configured).await?;
    output::out(format_args!("listening on http://{}", serving.address()));
    interrupted().await;
    serving.stop().await;
    Ok(())
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
    pub(super) async fn start(data: &Path, configured: Configured) -> Result<Self> {
        let Configured { listen, settings, options, webhooks } = configured;
        let kept = match store::open_in_turn(data, &options, || Remote::find(data)).await? {
            Ok(kept) => Watched::new(kept),
            Err(server) => {
                let message =
                    format!("{} is served by {} already; stop that one first", data.display(), server.address());
                return Err(CliError::new(exit::CONFLICT, "store-in-use", message));
            }
        };
        let engine = Arc::new(Engine::open(kept.clone(), Arc::new(SystemClock), settings, None)?);
        let mut made = None;
        let server = Server::start(listen, |stopping| {
            let api = Api::new(kept, Some(engine.clone()), stopping).with_webhooks(webhooks).in_folder(data);
            made.insert(api).clone()
        })
        .await?;
        let api = made.ok_or_else(|| CliError::host("the server has no API"))?;
        let published = Address { address: server.address, pid: std::process::id() }.publish(data);
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
    let answer = Client::open(&common.data, Access::Read).await?.webhooks()?;
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
    pub(super) settings: EngineSettings,
    pub(super) options: Options,
    pub(super) webhooks: Arc<Webhooks>,
}

impl Configured {
    /// Without settings.
    pub(super) fn plain(listen: SocketAddr, data: &Path) -> Result<Self> {
        let (settings, options) = (store::settings(data), store::options(data)?);
        Ok(Self { listen, settings, options, webhooks: Arc::default() })
    }

    fn of(config: ServerConfig, data: &Path) -> Result<Self> {
        let secrets = Secrets::of_host(config.secrets_file.clone());
        let mut settings = store::settings_with(data, secrets.clone());
        config.apply(&mut settings);
        settings.retention = retention(&config).map_err(CliError::input)?;
        let keys = std::env::var("DACAPO_KEYS").ok().filter(|keys| !keys.is_empty());
        let asked = Asked { compress_above: config.compress_above, keys, key_file: config.key_file };
        let codec = Codec::of(&asked, data).map_err(StoreError::from)?;
        let mut options = Options { codec: Arc::new(codec), ..Options::default() };
        options.payloads_above = config.large_payload_bytes.unwrap_or(options.payloads_above);
        options.cache_bytes = config.store_cache_bytes.unwrap_or(options.cache_bytes);
        let webhooks = Arc::new(Webhooks::new(config.webhooks, secrets)?);
        Ok(Self { listen: config.listen.unwrap_or(LISTEN), settings, options, webhooks })
    }
}

fn retention(config: &ServerConfig) -> std::result::Result<Retention, String> {
    let pairs = config.retention.iter().map(|(status, age)| input::kept(&format!("{status}={age}")));
    let pairs = pairs.collect::<std::result::Result<Vec<_>, _>>().map_err(|why| format!("retention: {why}"))?;
    let of = |status| pairs.iter().find(|(given, _)| *given == status).map(|(_, age)| *age);
    Ok(Retention {
        completed: of(Status::Completed),
        failed: of(Status::Failed),
        terminated: of(Status::Terminated),
        ..Retention::default()
    })
}

/// Waits for ctrl-c or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "SIGTERM is not handled");
            let _ = tokio::signal::ctrl_c().await;
            return;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

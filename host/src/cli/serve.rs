//! `dacapo serve`: runs everything in a data folder until it is told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::client::{Access, Client, Remote};
use super::error::{CliError, Result, exit};
use super::{Common, input, output, store};
use crate::core::summary::Status;
use crate::engine::{Engine, EngineSettings, Retention, SystemClock};
use crate::server::Server;
use crate::server::address::{Address, Published};
use crate::server::api::Api;
use crate::server::config::ServerConfig;
use crate::server::watched::Watched;
use crate::server::webhooks::Webhooks;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7007")]
    listen: SocketAddr,
    /// A file that configures the engine, queues, activities, retention and webhooks
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Remove instances that ended so long ago, as completed=30d; may be given for each status
    #[arg(long, value_name = "STATUS=AGE", value_parser = input::kept)]
    retain: Vec<(Status, Duration)>,
}

/// What the file and `--retain` say; the latter counts.
fn retention(config: &ServerConfig, given: &[(Status, Duration)]) -> std::result::Result<Retention, String> {
    let pairs = config.retention.iter().map(|(status, age)| input::kept(&format!("{status}={age}")));
    let configured = pairs.collect::<std::result::Result<Vec<_>, _>>().map_err(|why| format!("retention: {why}"))?;
    let all: Vec<_> = configured.iter().chain(given).collect();
    let of = |status| all.iter().rev().find(|(given, _)| *given == status).map(|(_, age)| *age);
    Ok(Retention {
        completed: of(Status::Completed),
        failed: of(Status::Failed),
        terminated: of(Status::Terminated),
        ..Retention::default()
    })
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let data = store::make_folder(&common.data)?;
    let configured = Configured::read(args, store::settings(&data))?;
    let serving = Serving::start(&data, args.listen, configured.settings, Arc::new(configured.webhooks)).await?;
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
    pub(super) async fn start(
        data: &Path,
        listen: SocketAddr,
        settings: EngineSettings,
        webhooks: Arc<Webhooks>,
    ) -> Result<Self> {
        let kept = match store::open_in_turn(data, || Remote::find(data)).await? {
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

/// What flags and the file make of a server.
struct Configured {
    settings: EngineSettings,
    webhooks: Webhooks,
}

impl Configured {
    fn read(args: &Args, mut settings: EngineSettings) -> Result<Self> {
        let Some(path) = &args.config else {
            settings.retention = retention(&ServerConfig::default(), &args.retain).map_err(CliError::input)?;
            return Ok(Self { settings, webhooks: Webhooks::default() });
        };
        let wrong = |why: String| CliError::input(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let config = ServerConfig::parse(&text).map_err(|problem| wrong(problem.detail))?;
        config.apply(&mut settings);
        settings.retention = retention(&config, &args.retain).map_err(wrong)?;
        let webhooks = Webhooks::new(config.webhooks, store::secrets()).map_err(|problem| wrong(problem.detail))?;
        Ok(Self { settings, webhooks })
    }
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

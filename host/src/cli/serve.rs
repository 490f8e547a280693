//! `dacapo serve`: runs everything in a data folder until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use super::client::Remote;
use super::error::{CliError, Result, exit};
use super::{Common, output, store};
use crate::engine::{Engine, SystemClock};
use crate::server::Server;
use crate::server::address::Address;
use crate::server::api::Api;
use crate::server::watched::Watched;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7007")]
    listen: SocketAddr,
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let data = store::make_folder(&common.data)?;
    let kept = match store::open_in_turn(&data, || Remote::find(&data)).await? {
        Ok(kept) => Watched::new(kept),
        Err(server) => {
            let message = format!("{} is served by {} already; stop that one first", data.display(), server.address());
            return Err(CliError::new(exit::CONFLICT, "store-in-use", message));
        }
    };
    let engine = Arc::new(Engine::open(kept.clone(), Arc::new(SystemClock), store::settings(&data), None)?);
    let server = Server::start(args.listen, |stopping| Api::new(kept.clone(), Some(engine.clone()), stopping)).await?;
    let published = Address { address: server.address, pid: std::process::id() }.publish(&data);
    let published =
        published.map_err(|error| CliError::host(format!("cannot write to {}: {error}", data.display())))?;
    output::out(format_args!("listening on http://{}", server.address));
    interrupted().await;
    tracing::info!("stopping");
    drop(published);
    server.stop().await;
    engine.shutdown();
    Ok(())
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

//! Commands on an instance's life as a whole: suspend, resume, rewind, restart, purge.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Access, Client, of};
use super::error::Result;
use super::instances::{EndArgs, done};
use super::output::{err, field, out};
use super::{Common, input, output};
use crate::core::ids::InstanceId;
use crate::core::summary::Status;
use crate::server::life::{PurgeBody, RestartBody, RewindBody};

#[derive(Debug, clap::Args)]
pub(super) struct RewindArgs {
    /// The instance; it has failed
    id: String,
    /// Also where it forgets calls that may have run
    #[arg(long)]
    force: bool,
    /// Why; it is recorded
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct RestartArgs {
    /// The instance; it has ended, unless the new one gets another id
    id: String,
    /// The id to run under; without one it is the instance's own
    #[arg(long, value_name = "ID")]
    new_id: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct PurgeArgs {
    /// The instance
    #[arg(required_unless_present = "older_than")]
    id: Option<String>,
    /// All that ended so long ago or longer, as 30d, 12h, 90m, 0s
    #[arg(long, value_name = "AGE", value_parser = input::age, conflicts_with = "id")]
    older_than: Option<Duration>,
    /// Of those: completed, failed or terminated
    #[arg(long, requires = "older_than")]
    status: Option<Status>,
    /// Of those: of this orchestration
    #[arg(long, value_name = "NAME", requires = "older_than")]
    orchestration: Option<String>,
    /// Of those: ids that begin so
    #[arg(long, value_name = "TEXT", requires = "older_than")]
    prefix: Option<String>,
}

impl Client {
    async fn rewind(&self, id: &InstanceId, body: &RewindBody) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.rewind(id, body).await?),
            Self::Remote(server) => server.post(&of(id, "/rewind"), &json!(body)).map(drop),
        }
    }

    async fn restart(&self, id: &InstanceId, body: &RestartBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.restart(id, body).await?),
            Self::Remote(server) => server.post(&of(id, "/restart"), &json!(body)),
        }
    }

    fn purge(&self, id: &InstanceId) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.purge(id)?),
            Self::Remote(server) => server.post(&of(id, "/purge"), &json!({})).map(drop),
        }
    }

    fn purge_matching(&self, body: PurgeBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.purge_matching(body)?),
            Self::Remote(server) => server.post("purge", &json!(body)),
        }
    }

    async fn suspend(&self, id: &InstanceId, reason: &str) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.suspend(id, reason).await?),
            Self::Remote(server) => server.post(&of(id, "/suspend"), &json!({ "reason": reason })).map(drop),
        }
    }

    async fn resume(&self, id: &InstanceId, reason: &str) -> Result<()> {
        match self {
            Self::Local(api, _) => Ok(api.resume(id, reason).await?),
            Self::Remote(server) => server.post(&of(id, "/resume"), &json!({ "reason": reason })).map(drop),
        }
    }
}

pub(super) async fn suspend(args: &EndArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    Client::open(common, Access::Run).await?.suspend(&id, &args.reason).await?;
    done(&id, "is suspended; `dacapo resume` lets it go on", common);
    Ok(())
}

pub(super) async fn resume(args: &EndArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    Client::open(common, Access::Run).await?.resume(&id, &args.reason).await?;
    done(&id, "goes on", common);
    Ok(())
}

pub(super) async fn rewind(args: RewindArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let body = RewindBody { force: args.force, reason: args.reason };
    Client::open(common, Access::Run).await?.rewind(&id, &body).await?;
    done(&id, "goes on from before its last failed operation", common);
    Ok(())
}

pub(super) async fn restart(args: RestartArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let answer = Client::open(common, Access::Run).await?.restart(&id, &RestartBody { id: args.new_id }).await?;
    if common.json {
        output::json(&answer);
    } else {
        out(field(&answer, "id"));
    }
    Ok(())
}

pub(super) async fn purge(args: PurgeArgs, common: &Common) -> Result<()> {
    let client = Client::open(common, Access::Run).await?;
    let Some(age) = args.older_than else {
        let id = input::id(args.id.as_deref().unwrap_or_default())?;
        client.purge(&id)?;
        done(&id, "was removed", common);
        return Ok(());
    };
    let answer = client.purge_matching(PurgeBody {
        older_than_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        status: args.status,
        orchestration: args.orchestration,
        prefix: args.prefix,
    })?;
    if common.json {
        output::json(&answer);
    } else {
        err(format_args!("{} instances were removed", field(&answer, "purged")));
    }
    Ok(())
}

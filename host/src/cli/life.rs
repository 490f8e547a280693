//! Commands on an instance's life as a whole: suspend, resume.

use serde_json::json;

use super::client::{Access, Client, of};
use super::error::Result;
use super::instances::{EndArgs, done};
use super::{Common, input};
use crate::core::ids::InstanceId;

impl Client {
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
    Client::open(&common.data, Access::Run).await?.suspend(&id, &args.reason).await?;
    done(&id, "is suspended; `dacapo resume` lets it go on", common);
    Ok(())
}

pub(super) async fn resume(args: &EndArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    Client::open(&common.data, Access::Run).await?.resume(&id, &args.reason).await?;
    done(&id, "goes on", common);
    Ok(())
}

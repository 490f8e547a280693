//! Removes files in the granted folder. The name of who removed a file stays in
//! its place, so that a call which is repeated finds its work done.

use std::fs;

use dacapo_sdk::{ActivityContext, Error, Result};
use exploration_api::{Baton, BatonActivities};

struct Folder;

impl Baton for Folder {
    async fn remove(&self, ctx: ActivityContext, file: String) -> Result<()> {
        let key = ctx.info().idempotency_key.replace('/', "_");
        let (there, taken) = (format!("/baton/{file}"), format!("/baton/{file}.{key}"));
        if fs::exists(&taken)? {
            return Ok(());
        }
        // The first call of all brings the files along.
        if !fs::exists("/baton/ready")? {
            for name in ["B1", "B2", "ready"] {
                fs::write(format!("/baton/{name}"), "")?;
            }
        }
        fs::rename(&there, &taken).map_err(|error| Error::from(error).context(&file))
    }

    async fn go_on(&self, ctx: ActivityContext) -> Result<String> {
        Ok(format!("{} went on", ctx.info().instance))
    }
}

dacapo_sdk::export_activities!(BatonActivities(Folder));

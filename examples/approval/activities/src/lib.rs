//! Writes questions and decisions into the granted outbox, one file an instance:
//! written twice, it is the same file.

use approval_api::{Decision, Outbox, OutboxActivities, Question};
use dacapo_sdk::{ActivityContext, Error, Result, serde::Serialize, serde_json};

struct Folder;

impl Outbox for Folder {
    async fn ask(&self, ctx: ActivityContext, question: Question) -> Result<()> {
        write(&ctx, "question", &question)
    }

    async fn tell(&self, ctx: ActivityContext, decision: Decision) -> Result<()> {
        write(&ctx, "decision", &decision)
    }
}

fn write(ctx: &ActivityContext, what: &str, value: &impl Serialize) -> Result<()> {
    // An instance id may be anything; a file name may not.
    let id = &ctx.info().instance;
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
    let id: String = id.chars().map(safe).collect();
    let path = format!("/outbox/{id}.{what}.json");
    std::fs::write(&path, serde_json::to_vec_pretty(value)?).map_err(|error| Error::from(error).context(path))
}

dacapo_sdk::export_activities!(OutboxActivities(Folder));

//! Activities in wasm that report how far they are.

use dacapo_sdk::{ActivityContext, Error, Result, activities};

#[activities(service = "beat")]
pub trait Beats {
    /// Counts on from where the last attempt stopped; the first one stops at 3.
    async fn count(&self, ctx: ActivityContext, what: String) -> Result<String>;
    /// Goes on until it is cancelled.
    async fn until_cancelled(&self, ctx: ActivityContext, what: String) -> Result<String>;
    /// Says something too long.
    async fn chatter(&self, ctx: ActivityContext, what: String) -> Result<String>;
}

struct Drum;

impl Beats for Drum {
    async fn count(&self, ctx: ActivityContext, what: String) -> Result<String> {
        let from = ctx.last_heartbeat::<u32>()?.unwrap_or(0);
        for number in from + 1..=5 {
            ctx.heartbeat(&number)?;
            if number == 3 {
                return Err(Error::new("stopped at 3"));
            }
        }
        Ok(format!("{what} from {from}, attempt {}", ctx.attempt()))
    }

    async fn until_cancelled(&self, ctx: ActivityContext, _what: String) -> Result<String> {
        loop {
            ctx.heartbeat(&"still here")?;
        }
    }

    async fn chatter(&self, ctx: ActivityContext, _what: String) -> Result<String> {
        ctx.heartbeat(&"x".repeat(3 << 20))?;
        Ok("unheard".into())
    }
}

dacapo_sdk::export_activities!(BeatsActivities(Drum));

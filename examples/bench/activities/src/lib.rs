//! What `dacapo bench` calls: nothing but the call.

use dacapo_sdk::{ActivityContext, Result, activities};

/// Says what it is told.
#[activities(service = "hello")]
pub trait Hello {
    /// Returns its input.
    async fn say(&self, ctx: ActivityContext, words: String) -> Result<String>;
}

struct Echo;

impl Hello for Echo {
    async fn say(&self, _ctx: ActivityContext, words: String) -> Result<String> {
        Ok(words)
    }
}

dacapo_sdk::export_activities!(HelloActivities(Echo));

//! What the orchestrations and their activities agree on.

use dacapo_sdk::{ActivityContext, Result, activities};

#[activities(service = "baton")]
pub trait Baton {
    /// Removes a file; whoever calls second fails.
    async fn remove(&self, ctx: ActivityContext, file: String) -> Result<()>;
    /// What only one of many callers is to do.
    async fn go_on(&self, ctx: ActivityContext) -> Result<String>;
}

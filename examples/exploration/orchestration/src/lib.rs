//! Who goes on? Many callers, and a file for each step that only one may take.
//!
//! `exploration` removes the files all at once, and has a fault that shows in some
//! orders only: two callers can take one file each, and then nobody goes on.
//! `one_by_one` removes them in order: whoever gets the first gets them all.

use dacapo_sdk::{Context, Result, futures::future::join_all, orchestration};
use exploration_api::BatonProxy;

/// Removes all files at once, then goes on.
#[orchestration]
pub async fn exploration(ctx: Context, files: Vec<String>) -> Result<String> {
    let baton = BatonProxy::new(&ctx);
    for removed in join_all(files.into_iter().map(|file| baton.remove(file))).await {
        removed?;
    }
    baton.go_on().await
}

/// Removes one file after the other, then goes on.
#[orchestration]
pub async fn one_by_one(ctx: Context, files: Vec<String>) -> Result<String> {
    let baton = BatonProxy::new(&ctx);
    for file in files {
        baton.remove(file).await?;
    }
    baton.go_on().await
}

dacapo_sdk::export_orchestrations!(exploration, one_by_one);

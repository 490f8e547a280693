//! Which instances a command is about, as arguments.

use super::input;
use crate::core::summary::Status;
use crate::server::bulk::Selection;

/// Conditions that instances meet, all of them.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// running, suspended, completed, failed or terminated
    #[arg(long)]
    status: Option<Status>,
    /// Of this orchestration
    #[arg(long, value_name = "NAME")]
    orchestration: Option<String>,
    /// Ids that begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Of this module: name (all its versions), name@version or hash
    #[arg(long)]
    module: Option<String>,
    /// With this tag; given more than once: with all of them
    #[arg(long, value_name = "NAME=VALUE", value_parser = input::pair)]
    tag: Vec<(String, String)>,
    /// Created then or later, as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    created_from: Option<String>,
    /// Created before then
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
}

impl From<Which> for Selection {
    fn from(which: Which) -> Self {
        let Which { status, orchestration, prefix, module, tag, created_from, created_before } = which;
        Self { status, orchestration, prefix, module, tags: tag.into_iter().collect(), created_from, created_before }
    }
}

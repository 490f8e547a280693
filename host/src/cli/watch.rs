//! `--watch`: the same again whenever it has become something else.

use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::Value;

use super::Common;
use super::client::Client;
use super::error::Result;
use super::output::{self, err};
use super::serve::interrupted;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Fetches and prints once or, if it is watched, again after each change until `is_over`
/// says so, nothing runs, or somebody interrupts.
pub(super) async fn show(
    is_watched: bool,
    (client, common): (&Client, &Common),
    fetch: impl Fn() -> Result<Value>,
    print: impl Fn(&Value),
    is_over: impl Fn(&Value) -> bool,
) -> Result<()> {
    let mut before = None;
    loop {
        let now = fetch()?;
        if before.as_ref() != Some(&now) {
            if is_watched && !common.json && std::io::stdout().is_terminal() {
                // To the first column of the first line, and nothing below it.
                output::write_all(b"\x1b[H\x1b[2J");
            }
            if common.json { output::json(&now) } else { print(&now) }
        }
        if !is_watched || is_over(&now) {
            return Ok(());
        }
        if !client.is_running() {
            err("nothing runs this data folder, so nothing will change; start it with `dacapo serve`");
            return Ok(());
        }
        before = Some(now);
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = interrupted() => return Ok(()),
        }
    }
}

//! `dacapo bulk`: one action on every instance that matches, counted first.

use std::io::{IsTerminal as _, Write as _};

use serde_json::{Value, json};

use super::client::{Access, Client};
use super::error::{CliError, Result};
use super::output::{clean, err, field};
use super::which::Which;
use super::{Common, input, output};
use crate::server::bulk::{BulkAction, BulkBody};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// cancel, terminate, suspend, resume, rewind, restart or purge
    #[arg(value_parser = input::word::<BulkAction>)]
    action: BulkAction,
    #[command(flatten)]
    which: Which,
    /// All instances
    #[arg(long)]
    all: bool,
    /// Why; it is recorded
    #[arg(long, default_value = "")]
    reason: String,
    /// Of a rewind: also where it forgets calls that may have run
    #[arg(long)]
    force: bool,
    /// Only say how many they are
    #[arg(long)]
    dry_run: bool,
    /// Do not ask whether that many are meant
    #[arg(long, short)]
    yes: bool,
}

impl Client {
    async fn bulk(&self, body: &BulkBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => Ok(api.bulk(body.clone()).await?),
            Self::Remote(server) => server.post("bulk", &json!(body)),
        }
    }
}

pub(super) async fn run(args: Args, common: &Common) -> Result<()> {
    let client = Client::open(common, Access::Run).await?;
    let mut body = BulkBody {
        action: args.action,
        filter: args.which.into(),
        all: args.all,
        reason: args.reason,
        force: args.force,
        dry_run: true,
    };
    let counted = client.bulk(&body).await?;
    let action = field(&counted, "action");
    if args.dry_run {
        return tell(&counted, &format!("{action} would be done to {} instances", field(&counted, "matched")), common);
    }
    if counted["matched"] != 0 && !args.yes {
        confirm(&format!("{action} {} instances?", field(&counted, "matched")))?;
    }
    body.dry_run = false;
    let done = client.bulk(&body).await?;
    for skipped in done["skipped"].as_array().into_iter().flatten() {
        err(clean(&format!("skipped {}: {}", field(skipped, "id"), field(skipped, "detail"))));
    }
    let remaining = done["remaining"].as_u64().filter(|n| *n > 0);
    let again = remaining.map(|n| format!("; {n} remain: run it again")).unwrap_or_default();
    tell(&done, &format!("{action} was done to {} instances{again}", field(&done, "done")), common)
}

fn tell(answer: &Value, text: &str, common: &Common) -> Result<()> {
    if common.json {
        output::json(answer);
    } else {
        output::out(text);
    }
    Ok(())
}

/// Asks on the terminal; elsewhere nobody can answer.
fn confirm(question: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::input(format!("{question} nobody can be asked here; add --yes, or --dry-run")));
    }
    let mut terminal = std::io::stderr();
    let _ = write!(terminal, "{question} [y/N] ");
    let _ = terminal.flush();
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::input("nothing was done")),
    }
}

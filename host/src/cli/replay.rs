//! `dacapo replay`: a recorded history again, in the sandbox, without effects.

use serde_json::json;

use super::error::{CliError, Result, exit};
use super::output::{brief, clean, out};
use super::progress::log_line;
use super::recorded::Recorded;
use super::{Common, output, store};
use crate::core::event::Event;
use crate::core::namespace;
use crate::core::turn::LogLine;
use crate::replay::recording::Recording;
use crate::replay::source::Sources;
use crate::replay::{Replayed, Watcher, replay};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    recorded: Recorded,
    /// Show what the guest logs, too
    #[arg(long)]
    logs: bool,
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let (recording, turns) = args.recorded.read(common).await?;
    let sandbox = store::sandbox(&common.data)?;
    let module = args.recorded.module(&recording, &turns, &sandbox, common).await?;
    let mut printer = Printer { silent: common.json, logs: args.logs, logged: Vec::new() };
    let replayed = replay(&module, &turns, &mut printer);
    tell(&recording, replayed, &printer, common)
}

struct Printer {
    silent: bool,
    logs: bool,
    logged: Vec<serde_json::Value>,
}

impl Watcher for Printer {
    fn event(&mut self, number: u32, turn: u32, event: &Event) {
        if !self.silent {
            let what = brief(&event.summary(200), 240);
            out(format_args!("{number:>5} {turn:>5}  {:<23} {what}", event.kind()));
        }
    }

    fn log(&mut self, turn: u32, line: &LogLine) {
        if !self.logs {
            return;
        }
        if self.silent {
            self.logged.push(json!({ "turn": turn, "line": line }));
        } else {
            out(clean(&format!("{:>5} {turn:>5}  {}", "log", log_line("", line))));
        }
    }
}

fn tell(recording: &Recording, replayed: Replayed, printer: &Printer, common: &Common) -> Result<()> {
    let summary = format!("matched {} events in {} turns", replayed.events, replayed.turns);
    let divergence = replayed.divergence.as_deref().map(|divergence| divergence.to_json());
    if common.json {
        let mut answer = json!({
            "instance": namespace::local(&recording.instance),
            "execution": recording.execution,
            "matched": replayed.matched(),
            "events": replayed.events,
            "turns": replayed.turns,
            "divergence": divergence,
            "error": replayed.error,
        });
        if printer.logs {
            answer["logs"] = json!(printer.logged);
        }
        output::json(&answer);
    } else if replayed.matched() {
        out(summary);
    } else if let Some(divergence) = &replayed.divergence {
        out(clean(&Sources::here().report(divergence)));
    }
    match (replayed.divergence, replayed.error) {
        (Some(found), _) => {
            let mut error = CliError::new(exit::FAILED, "replay-differs", found.to_string());
            error.more = divergence.map(|divergence| Box::new(("divergence", divergence)));
            Err(error)
        }
        (None, Some(error)) => Err(CliError::new(exit::FAILED, "replay-failed", error)),
        (None, None) => Ok(()),
    }
}

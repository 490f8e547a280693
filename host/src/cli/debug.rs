//! `dacapo debug`: a recorded history, forward and back, at a screen or by a script.

mod frame;
mod panes;
mod screen;

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use super::error::{CliError, Result, exit};
use super::output::{clean, out};
use super::recorded::Recorded;
use super::{Common, output, store};
use crate::core::turn::TurnRecord;
use crate::engine::EngineError;
use crate::replay::debugger::command::{Command, Debugger};
use crate::replay::debugger::{Halt, Session, SessionSettings};
use crate::replay::recording::Recording;
use crate::replay::source::Sources;
use crate::sandbox::Sandbox;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    recorded: Recorded,
    /// Do these commands, separated by `;`, instead of showing a screen; `help` lists them
    #[arg(long, short, value_name = "COMMANDS", conflicts_with = "script")]
    commands: Option<String>,
    /// Do the commands in this file, one a line; `-` reads them from stdin
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Memory for going back fast, MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    checkpoints: usize,
}

pub(super) async fn run(args: &Args, common: &Common) -> Result<()> {
    let (recording, turns) = args.recorded.read(common).await?;
    let mut debugger = open(args, &recording, turns, common).await?;
    match lines(args)? {
        Some(lines) => script(&mut debugger, &lines, common.json),
        None if common.json => Err(CliError::input("--json wants commands: give -c, --script or stdin")),
        None => screen::run(&mut debugger)
            .map_err(|error| CliError::host(format!("the terminal cannot be used: {error}; give commands with -c"))),
    }
}

async fn open(args: &Args, recording: &Recording, turns: Vec<TurnRecord>, common: &Common) -> Result<Debugger> {
    let folder = store::settings(&common.data);
    // One guest at a time; the module may be compiled another time than it was to run.
    let settings = crate::sandbox::settings::SandboxSettings { resident_guests: 8, ..folder.sandbox };
    let sandbox = Sandbox::inspecting(settings, store::cache_if_there(&common.data));
    let sandbox = sandbox.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
    let module = args.recorded.module(recording, &turns, &sandbox, common).await?;
    let settings = SessionSettings { checkpoint_bytes: args.checkpoints << 20 };
    let session = Session::open(module, turns, settings)
        .map_err(|error| CliError::new(exit::FAILED, "cannot-debug", error.to_string()))?;
    Ok(Debugger::new(session, Sources::here()))
}

/// The commands to do; none: a person types them.
fn lines(args: &Args) -> Result<Option<Vec<String>>> {
    let read = |text: std::io::Result<String>, name: &str| {
        text.map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .map_err(|error| CliError::host(format!("cannot read {name}: {error}")))
    };
    let stdin = || read(std::io::stdin().lock().lines().collect::<Result<Vec<_>, _>>().map(|l| l.join("\n")), "stdin");
    Ok(match (&args.commands, &args.script) {
        (Some(commands), _) => Some(commands.split(';').map(str::to_owned).collect()),
        (None, Some(path)) if path.as_os_str() == "-" => Some(stdin()?),
        (None, Some(path)) => Some(read(std::fs::read_to_string(path), &path.display().to_string())?),
        (None, None) if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() => Some(stdin()?),
        (None, None) => None,
    })
}

fn script(debugger: &mut Debugger, lines: &[String], as_json: bool) -> Result<()> {
    for line in lines {
        let parsed = Command::parse(line).map_err(|error| CliError::input(error.to_string()))?;
        let Some(command) = parsed else { continue };
        let answer = debugger.answer(&command);
        if as_json {
            output::json(&debugger.answer_json(line, &answer));
        } else {
            out(format_args!("> {}", clean(line.trim())));
            if !answer.text.is_empty() {
                out(clean(&answer.text));
            }
        }
        if answer.quit {
            break;
        }
    }
    match debugger.session.halt() {
        None => Ok(()),
        Some(Halt::Diverged(divergence)) => {
            let mut error = CliError::new(exit::FAILED, "replay-differs", divergence.to_string());
            error.more = Some(Box::new(("divergence", divergence.to_json())));
            Err(error)
        }
        Some(Halt::Broken(why)) => Err(CliError::new(exit::FAILED, "replay-failed", why.clone())),
    }
}

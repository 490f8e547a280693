//! The command line: one file per command or family of commands.
//!
//! [`client`] finds the server of a data folder or opens the folder itself, so
//! every command is written once; [`output`] is the only part that writes to the
//! terminal; [`error`] maps what goes wrong to exit codes.

mod audit;
mod backup;
mod bench;
mod bulk;
mod check;
mod client;
mod config;
mod debug;
mod dev;
mod error;
mod explore;
mod fork;
mod history;
mod input;
mod instances;
mod life;
mod logs;
mod modules;
mod new;
mod output;
mod progress;
mod query;
mod reach;
mod recorded;
mod replay;
mod requests;
mod run;
mod schedules;
mod serve;
mod stats;
mod store;
mod testkit;
mod tokens;
mod top;
mod verify;
mod watch;
mod which;
mod workers;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::error::{CliError, Result};
use crate::server::config::LogFormat;

const AFTER_HELP: &str = "\
Exit codes:
  0  it did what was asked
  1  the orchestration failed or was terminated, or a replay or check differs
  2  bad usage or input
  3  not found: an instance, an orchestration, a module, a path
  4  conflict: the id is taken, the instance has ended, the module is in use
  5  trouble with this host: the store, the sandbox, the server
130  interrupted; what was started goes on when its data folder is opened next

With --json, results are JSON on stdout and errors an object with `code` and
`message` on stderr.";

/// Run deterministic workflows in WebAssembly: killed anywhere, they go on.
#[derive(Debug, Parser)]
#[command(name = "dacapo", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// The data folder: journal, modules, the server's address
    #[arg(long, global = true, value_name = "DIR", env = "DACAPO_DATA", default_value = ".dacapo")]
    data: PathBuf,
    /// Whether the command line says so, and not the environment or nobody.
    #[arg(skip)]
    is_data_flag: bool,
    #[command(flatten)]
    reach: reach::Reach,
    /// Write JSON, for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a project, run one of its orchestrations and print its output
    Run(run::Args),
    /// Run everything in the data folder and serve the HTTP API
    Serve(serve::Args),
    /// Show the settings that `serve` would take, and where each comes from
    Config(config::Args),
    /// Make, list and revoke the tokens that requests to a server carry
    #[command(subcommand)]
    Token(tokens::Command),
    /// Show who changed what, the newest first
    Audit(audit::Args),
    /// Serve, build and upload a project, and again whenever one of its files changes
    Dev(dev::Args),
    /// Build modules and keep them, without running anything
    Upload(modules::UploadArgs),
    /// List the modules, choose the version that new starts take, remove what nothing needs
    Modules(modules::ModulesArgs),
    /// Replay histories with a new build and tell which would differ; move those that match
    Check(check::Args),
    /// Start an orchestration of an uploaded module and print its id
    Start(instances::StartArgs),
    /// List instances
    List(instances::ListArgs),
    /// Show one instance and what it waits for
    Show(instances::ShowArgs),
    /// Show what happened in an instance, event by event, or record it in a file
    History(history::Args),
    /// Show what waits in which queue, and what nobody serves
    Queues,
    /// Show the remote workers and what they have
    Workers,
    /// Raise an event for an instance
    Raise(instances::RaiseArgs),
    /// Ask a running instance for a change and print its answer
    Update(requests::UpdateArgs),
    /// Ask something of an entity
    #[command(subcommand)]
    Entity(requests::EntityCommand),
    /// End an instance at once
    Terminate(instances::EndArgs),
    /// Ask an instance to end; its code decides how
    Cancel(instances::EndArgs),
    /// Hold an instance: what comes in is kept, nothing is run
    Suspend(instances::EndArgs),
    /// Let a suspended instance go on
    Resume(instances::EndArgs),
    /// Start instances by the calendar: set, list, show, pause, unpause, trigger, delete
    #[command(subcommand)]
    Schedule(schedules::Schedule),
    /// List the webhooks that the server takes
    Webhooks,
    /// Let a failed instance go on from before its last failed operation
    Rewind(life::RewindArgs),
    /// Run an instance again from its beginning, with the same input
    Restart(life::RestartArgs),
    /// Remove instances that have ended, with their histories
    Purge(life::PurgeArgs),
    /// Cancel, terminate, suspend, resume, rewind, restart or purge every instance that matches
    Bulk(bulk::Args),
    /// Show what an instance's code logged, beside its events
    Logs(logs::Args),
    /// Watch the host and its newest instances
    Top(top::Args),
    /// Show numbers about the host that runs
    Stats,
    /// Ask an instance's code about its state; nothing is changed by that
    Query(query::Args),
    /// Run a recorded history again, without effects, and compare every step
    Replay(replay::Args),
    /// Start a new instance that shares the history of another one up to an event
    Fork(fork::Args),
    /// Walk hash chains, check rows and indexes against histories, and replay them
    Verify(verify::Args),
    /// Write everything that is kept to a file, also while the host runs
    Backup(backup::BackupArgs),
    /// Make a data folder of a backup, and verify it before it counts
    Restore(backup::RestoreArgs),
    /// Give free space in the journal back to the disk; while no host runs
    Compact,
    /// Run an orchestration in every order of what can happen to it, on a model of the world
    Explore(explore::Args),
    /// Step through a recorded history, forward and back, and see who asked for what
    Debug(debug::Args),
    /// Make a project that builds, runs and is tested
    New(new::Args),
    /// Measure this machine: the real engine on the data folder's disk, beside its floors
    Bench(bench::Args),
    /// Answer a test that uses the SDK's test kit
    #[command(hide = true)]
    Testkit,
    /// Write a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, clap::Args)]
struct CompletionsArgs {
    /// For which shell
    shell: clap_complete::Shell,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    take_small_pages();
    let matches = Cli::command().get_matches();
    let Cli { mut common, command } = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    common.is_data_flag = matches.value_source("data") == Some(ValueSource::CommandLine);
    let as_json = common.json;
    // A server logs as its settings say.
    let logging = if matches!(command, Command::Serve(_)) { Ok(()) } else { log_as_environment() };
    let runtime = || {
        let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        built.map_err(|error| CliError::host(format!("cannot start threads: {error}")))
    };
    let done = logging.and_then(|()| runtime()).and_then(|runtime| {
        let done = runtime.block_on(dispatch(command, &common));
        // An activity that still runs is repeated where the folder is opened next. It ends
        // with the process: a runtime that shuts down cancels what it waits for, and that panics.
        std::mem::forget(runtime);
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(as_json);
            ExitCode::from(error.exit)
        }
    }
}

/// From here on memory comes in pages of 4 KiB, whatever the system would give. A thread that is
/// given one of 2 MiB waits until all of it is there: 0.3 ms, and 4 to 15 ms in a virtual machine
/// whose host has to find it first. That was what the slowest hundredth of starts waited for.
/// And how much of those is in use is by chance: `bench resident` counts on small ones.
fn take_small_pages() {
    // Where that is not to be had, some are slower.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

async fn dispatch(command: Command, common: &Common) -> Result<()> {
    match command {
        Command::Run(args) => run::run(args, common).await,
        Command::Serve(args) => serve::run(&args, common).await,
        Command::Config(args) => config::run(&args, common),
        Command::Audit(args) => audit::run(&args, common).await,
        Command::Token(command) => tokens::run(command, common),
        Command::Dev(args) => dev::run(args, common).await,
        Command::Upload(args) => modules::upload(&args, common).await,
        Command::Modules(args) => modules::run(args, common).await,
        Command::Check(args) => check::run(args, common).await,
        Command::Fork(args) => fork::run(args, common).await,
        Command::Verify(args) => verify::run(args, common).await,
        Command::Backup(args) => backup::backup(&args, common).await,
        Command::Restore(args) => backup::restore(&args, common),
        Command::Compact => backup::compact(common),
        Command::Start(args) => instances::start(args, common).await,
        Command::List(args) => instances::list(args, common).await,
        Command::Show(args) => instances::show(&args, common).await,
        Command::History(args) => history::run(&args, common).await,
        Command::Queues => workers::queues(common).await,
        Command::Workers => workers::workers(common).await,
        Command::Raise(args) => instances::raise(&args, common).await,
        Command::Update(args) => requests::update(&args, common).await,
        Command::Entity(command) => requests::entity(command, common).await,
        Command::Terminate(args) => instances::terminate(&args, common).await,
        Command::Cancel(args) => instances::cancel(&args, common).await,
        Command::Suspend(args) => life::suspend(&args, common).await,
        Command::Resume(args) => life::resume(&args, common).await,
        Command::Schedule(what) => schedules::run(what, common).await,
        Command::Webhooks => serve::webhooks_of(common).await,
        Command::Rewind(args) => life::rewind(args, common).await,
        Command::Restart(args) => life::restart(args, common).await,
        Command::Purge(args) => life::purge(args, common).await,
        Command::Bulk(args) => bulk::run(args, common).await,
        Command::Logs(args) => logs::run(&args, common).await,
        Command::Top(args) => top::run(&args, common).await,
        Command::Stats => stats::run(common).await,
        Command::Query(args) => query::run(&args, common).await,
        Command::Replay(args) => replay::run(&args, common).await,
        Command::Explore(args) => explore::run(&args, common),
        Command::Testkit => testkit::run(),
        Command::Debug(args) => debug::run(&args, common).await,
        Command::Bench(args) => bench::run(&args, common).await,
        Command::New(args) => new::run(&args, common),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "dacapo", &mut script);
            output::write_all(&script);
            Ok(())
        }
    }
}

/// Logs as `DACAPO_LOG` and `DACAPO_LOG_FORMAT` say; errors only without them.
fn log_as_environment() -> Result<()> {
    let of = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let format = match of("DACAPO_LOG_FORMAT").as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            return Err(CliError::input(format!("DACAPO_LOG_FORMAT is {other:?}: expected text or json")));
        }
    };
    log_to_stderr(of("DACAPO_LOG").as_deref().unwrap_or("error"), format)
}

fn log_to_stderr(filter: &str, format: LogFormat) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    let parsed = EnvFilter::try_new(filter);
    let parsed = parsed.map_err(|error| CliError::input(format!("the log filter is {filter:?}: {error}")))?;
    // At finer levels it logs what guests read, and secrets are among that.
    let parsed = parsed.add_directive("wasmtime=info".parse().expect("a directive"));
    let lines = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

//! Commands on schedules.

use serde_json::Value;

use super::client::{Access, Client};
use super::error::Result;
use super::output::{Table, brief, clean, err, field, out};
use super::{Common, input, output};
use crate::core::payload::Payload;
use crate::server::schedules::{ScheduleAction, ScheduleBody, ScheduleQuery};
use crate::store::schedule::Overlap;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Schedule {
    /// Make a schedule, or change the one of that name
    Set(SetArgs),
    /// List the schedules, each with its next time
    List,
    /// Show a schedule and its next times
    Show(ShowArgs),
    /// Leave out what comes due from now on
    Pause(PauseArgs),
    /// Go on; what came due meanwhile stays left out
    Unpause(NameArgs),
    /// Start an instance of it now
    Trigger(NameArgs),
    /// Forget a schedule; instances that it started go on
    Delete(NameArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The schedule's name
    name: String,
    /// What to start
    orchestration: String,
    /// When: minute, hour, day of month, month, day of week (with seconds before them, six)
    #[arg(long, value_name = "EXPRESSION", required_unless_present = "every", conflicts_with = "every")]
    cron: Option<String>,
    /// The zone whose civil time --cron follows; UTC without it
    #[arg(long, value_name = "NAME", requires = "cron")]
    time_zone: Option<String>,
    /// How long between two instances: 15m, 1h 30m
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    every: Option<u64>,
    /// While the one before still runs: skip, allow, buffer-one, cancel-other or terminate-other
    #[arg(long, value_name = "POLICY", default_value = "skip", value_parser = overlap)]
    overlap: Overlap,
    /// What was due longer ago than this, because no host ran, is left out; a day without it
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    catch_up: Option<u64>,
    /// The input of each instance
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// Whose orchestration: name, name@version or hash
    #[arg(long)]
    module: Option<String>,
    /// A tag of each instance
    #[arg(long, value_name = "NAME=VALUE", value_parser = input::pair)]
    tag: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The schedule
    name: String,
    /// So many of its next times
    #[arg(long, default_value_t = 5)]
    next: usize,
}

#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// The schedule
    name: String,
    /// Why; it is shown
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct NameArgs {
    /// The schedule
    name: String,
}

pub(super) async fn run(what: Schedule, common: &Common) -> Result<()> {
    let client = Client::open(common, Access::Run).await?;
    match what {
        Schedule::Set(args) => set(args, &client, common).await,
        Schedule::List => list(&client, common),
        Schedule::Show(args) => {
            let shown = client.schedule(&args.name, &ScheduleQuery { next: Some(args.next) })?;
            show(&shown, common);
            Ok(())
        }
        Schedule::Pause(args) => act(&client, &args.name, ScheduleAction::Pause(args.reason), common).await,
        Schedule::Unpause(args) => act(&client, &args.name, ScheduleAction::Unpause, common).await,
        Schedule::Trigger(args) => act(&client, &args.name, ScheduleAction::Trigger, common).await,
        Schedule::Delete(args) => {
            client.delete_schedule(&args.name).await?;
            if !common.json {
                err(format_args!("{}: deleted", clean(&args.name)));
            }
            Ok(())
        }
    }
}

async fn set(args: SetArgs, client: &Client, common: &Common) -> Result<()> {
    let input = args.input.as_deref().map_or_else(|| Ok(Payload::null()), |text| input::payload("the input", text))?;
    let body = ScheduleBody {
        cron: args.cron,
        time_zone: args.time_zone,
        every_ms: args.every,
        orchestration: args.orchestration,
        module: args.module,
        input,
        tags: args.tag.into_iter().collect(),
        overlap: args.overlap,
        catch_up_ms: args.catch_up,
    };
    show(&client.put_schedule(&args.name, &body).await?, common);
    if !client.outlives() && !common.json {
        err("it starts instances while the data folder is served: `dacapo serve`");
    }
    Ok(())
}

async fn act(client: &Client, name: &str, action: ScheduleAction, common: &Common) -> Result<()> {
    let answer = client.act_on_schedule(name, &action).await?;
    match action {
        _ if common.json => output::json(&answer),
        ScheduleAction::Trigger => out(clean(&field(&answer, "id"))),
        ScheduleAction::Pause(_) => err(format_args!("{}: paused", clean(name))),
        ScheduleAction::Unpause => err(format_args!("{}: goes on", clean(name))),
    }
    Ok(())
}

fn list(client: &Client, common: &Common) -> Result<()> {
    let answer = client.schedules()?;
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["NAME", "ORCHESTRATION", "WHEN", "NEXT", "STARTED", "SKIPPED", "NOTE"]);
    for row in answer["schedules"].as_array().into_iter().flatten() {
        let next = if row["paused"].is_null() { row["next"][0].as_str().unwrap_or_default() } else { "paused" };
        table.row([
            field(row, "name"),
            field(row, "orchestration"),
            when(row),
            next.to_owned(),
            field(row, "started"),
            field(row, "skipped"),
            brief(&note(row), 80),
        ]);
    }
    table.print();
    Ok(())
}

fn show(schedule: &Value, common: &Common) {
    if common.json {
        return output::json(schedule);
    }
    let line = |name: &str, text: String| {
        if !text.is_empty() {
            out(format_args!("{name:<15}{}", clean(&text)));
        }
    };
    line("name", field(schedule, "name"));
    line("orchestration", field(schedule, "orchestration"));
    line("when", when(schedule));
    for name in ["overlap", "input", "started", "skipped", "last", "buffered"] {
        line(name, field(schedule, name));
    }
    line("note", note(schedule));
    for time in schedule["next"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        line("next", time.to_owned());
    }
}

fn when(schedule: &Value) -> String {
    match schedule["every_ms"].as_u64() {
        Some(ms) => format!("every {}", spelled(ms)),
        None => format!("{} in {}", field(schedule, "cron"), field(schedule, "time_zone")),
    }
}

fn note(schedule: &Value) -> String {
    match schedule["paused"].as_str() {
        Some("") => "paused".to_owned(),
        Some(reason) => format!("paused: {reason}"),
        None => field(schedule, "last_error"),
    }
}

/// `1h 30m` and the like, in milliseconds; for clap.
fn milliseconds(text: &str) -> Result<u64, String> {
    let duration: Option<jiff::SignedDuration> = text.parse().ok();
    duration
        .and_then(|duration| u64::try_from(duration.as_millis()).ok())
        .ok_or_else(|| format!("expected a length of time such as 90s, 15m or 1h 30m, found {text:?}"))
}

fn spelled(ms: u64) -> String {
    let duration = i64::try_from(ms).map(jiff::SignedDuration::from_millis);
    duration.map_or_else(|_| format!("{ms} ms"), |duration| format!("{duration:#}"))
}

/// An overlap policy by its name; for clap.
fn overlap(text: &str) -> Result<Overlap, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        format!("unknown policy {text:?}: expected skip, allow, buffer-one, cancel-other or terminate-other")
    })
}

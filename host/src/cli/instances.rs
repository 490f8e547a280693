//! Commands on instances: start, list, show, raise, terminate, cancel.

use serde_json::{Value, json};

use super::client::{Access, Client, escaped, has_ended};
use super::error::{CliError, Result};
use super::output::{Table, brief, clean, err, field, out};
use super::progress::pending_line;
use super::which::Which;
use super::{Common, input, output, run, watch};
use crate::core::payload::{Failure, Payload};
use crate::engine::IdReuse;
use crate::server::api::{ListQuery, Order, StartBody};
use crate::server::bulk::Selection;

#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// What to run
    orchestration: String,
    /// Its input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// The instance's id; without one, a fresh one is made
    #[arg(long)]
    id: Option<String>,
    /// Whose orchestration: name, name@version or hash
    #[arg(long)]
    module: Option<String>,
    /// Wait until it has ended and print its output
    #[arg(long)]
    wait: bool,
    /// A tag
    #[arg(long, value_name = "NAME=VALUE", value_parser = input::pair)]
    tag: Vec<(String, String)>,
    /// If the id is taken: reject, return-existing, replace-finished or terminate-and-replace
    #[arg(long, value_name = "POLICY", default_value = "reject", value_parser = input::word::<IdReuse>)]
    reuse: IdReuse,
    /// Begin then: 2027-01-31T08:00:00Z, or 2027-01-31T08:00[Europe/Berlin]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// From behind this id, or where the list before said
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Those created last first
    #[arg(long)]
    newest: bool,
    /// Again whenever something has changed
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The instance
    id: String,
    /// Again whenever something has changed, until it has ended
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RaiseArgs {
    /// The instance
    id: String,
    /// The event's name
    event: String,
    /// What it carries
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "null")]
    value: String,
    /// Raise it once for this key, however often this is run
    #[arg(long)]
    key: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct EndArgs {
    /// The instance
    pub(super) id: String,
    /// Why; it is recorded
    #[arg(long, default_value = "")]
    pub(super) reason: String,
}

pub(super) async fn start(args: StartArgs, common: &Common) -> Result<()> {
    let input = args.input.as_deref().map_or_else(|| Ok(Payload::null()), |text| input::payload("the input", text))?;
    let id = match &args.id {
        Some(id) => input::id(id)?,
        None => input::fresh_id(&args.orchestration)?,
    };
    let client = Client::open(common, Access::Run).await?;
    let body = StartBody {
        id: id.to_string(),
        orchestration: args.orchestration,
        module: args.module,
        input,
        tags: args.tag.into_iter().collect(),
        reuse: args.reuse,
        wait_ms: 0,
        start_at: args.at,
    };
    let mut answer = client.start(body).await?;
    if args.wait {
        err(format_args!("started {id}"));
        answer = client.ended(&id).await?;
        return run::finish(id.as_str(), outcome(&answer)?, common, &run::data_hint(&common.data));
    }
    if common.json {
        output::json(&answer);
    } else {
        out(&id);
        match &client {
            Client::Remote(server) => err(format_args!(
                "follow it with `dacapo history {id} --follow`, or at {}/ui/instances/{}",
                server.address(),
                escaped(id.as_str())
            )),
            Client::Local(..) => err("it goes on as soon as the data folder is served: `dacapo serve`"),
        }
    }
    Ok(())
}

pub(super) async fn list(args: ListArgs, common: &Common) -> Result<()> {
    let client = Client::open(common, Access::Read).await?;
    let query = ListQuery {
        after: args.after,
        limit: Some(args.limit),
        order: if args.newest { Order::Newest } else { Order::Id },
        ..Selection::from(args.which).query()?
    };
    let fetch = || client.list(query.clone());
    watch::show(args.watch, (&client, common), fetch, print_list, |_| false).await
}

fn print_list(answer: &Value) {
    let mut table = Table::new(&["ID", "STATUS", "ORCHESTRATION", "EVENTS", "CREATED", "UPDATED", "NOTE"]);
    for row in answer["instances"].as_array().into_iter().flatten() {
        table.row([
            field(row, "id"),
            field(row, "status"),
            field(row, "orchestration"),
            field(row, "events"),
            field(row, "created_at"),
            field(row, "updated_at"),
            brief(&output::note(row), 80),
        ]);
    }
    table.print();
    if let Some(next) = answer["next"].as_str() {
        err(format_args!("there are more: add --after {:?}", clean(next)));
    }
}

pub(super) async fn show(args: &ShowArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let client = Client::open(common, Access::Read).await?;
    watch::show(args.watch, (&client, common), || client.instance(&id), print_instance, has_ended).await
}

fn print_instance(view: &Value) {
    let line = |name: &str, text: String| {
        if !text.is_empty() {
            out(format_args!("{name:<15}{}", clean(&text)));
        }
    };
    for (name, key) in [
        ("id", "id"),
        ("orchestration", "orchestration"),
        ("status", "status"),
        ("custom status", "custom_status"),
        ("execution", "execution"),
        ("events", "events"),
        ("created", "created_at"),
        ("updated", "updated_at"),
        ("module", "module"),
        ("parent", "parent"),
        ("input", "input"),
        ("output", "output"),
        ("error", "error"),
    ] {
        line(name, field(view, key));
    }
    if let Some(from) = view["forked_from"].as_object() {
        let text = |name: &str| from[name].to_string().trim_matches('"').to_owned();
        line("forked from", format!("{} at event {}", text("instance"), text("event")));
    }
    for (name, value) in view["tags"].as_object().into_iter().flatten() {
        line("tag", format!("{name}={}", value.as_str().unwrap_or_default()));
    }
    for child in view["children"].as_array().into_iter().flatten() {
        let status = child["status"].as_str().unwrap_or("not there");
        line("child", format!("{} {} ({status})", field(child, "id"), field(child, "orchestration")));
    }
    for pending in view["pending"].as_array().into_iter().flatten() {
        line("waits for", format!("#{} {}", field(pending, "operation"), pending_line(pending)));
    }
    for event in view["untaken_events"].as_array().into_iter().flatten() {
        line("not yet taken", format!("event {event}"));
    }
}

pub(super) async fn raise(args: &RaiseArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    let value = input::payload("the value", &args.value)?;
    Client::open(common, Access::Run).await?.raise(&id, &args.event, value, args.key.as_deref()).await?;
    done(&id, &format!("{:?} was raised", args.event), common);
    Ok(())
}

pub(super) async fn terminate(args: &EndArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    Client::open(common, Access::Run).await?.terminate(&id, &args.reason).await?;
    done(&id, "was terminated", common);
    Ok(())
}

pub(super) async fn cancel(args: &EndArgs, common: &Common) -> Result<()> {
    let id = input::id(&args.id)?;
    Client::open(common, Access::Run).await?.cancel(&id, &args.reason).await?;
    done(&id, "was asked to end", common);
    Ok(())
}

pub(super) fn done(id: &crate::core::ids::InstanceId, what: &str, common: &Common) {
    if common.json {
        output::json(&json!({ "id": id }));
    } else {
        err(format_args!("{id}: {what}"));
    }
}

/// The outcome in an answer of the API.
fn outcome(answer: &Value) -> Result<Result<Payload, Failure>> {
    let lost = |error: serde_json::Error| CliError::host(format!("the server's answer is not understood: {error}"));
    match answer.get("failure") {
        Some(failure) => serde_json::from_value(failure.clone()).map(Err).map_err(lost),
        None => serde_json::from_value(answer["output"].clone()).map(Ok).map_err(lost),
    }
}

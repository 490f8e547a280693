//! `dacapo run`: from a folder to an output, in one process.
//!
//! The same command again with the same id resumes what was interrupted, or
//! prints the output that is there. While it runs, its API is reachable from
//! other terminals, as with `dacapo serve`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::client::Remote;
use super::error::{CliError, Result, exit};
use super::modules::{Uploader, offers_of};
use super::progress::Progress;
use super::{Common, input, output, serve, store};
use crate::core::payload::{ContentType, Failure, FailureKind, Payload};
use crate::engine::{Engine, EngineError, IdReuse, StartOutcome, StartRequest, SystemClock, view};
use crate::project::{Project, build, services::Service};
use crate::server::access::Admission;
use crate::server::address::Address;
use crate::server::api::Api;
use crate::server::tokens::Tokens;
use crate::server::watched::Watched;
use crate::server::{Serve, Server};
use crate::store::{Module, ModuleKind, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder with a dacapo.toml, a crate's folder, or a .wasm file
    path: PathBuf,
    /// What to run; without it and without --input, what there is is listed
    orchestration: Option<String>,
    /// Its input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// The instance's id; the same id again resumes it
    #[arg(long)]
    id: Option<String>,
    /// A service that runs already, instead of starting the project's own
    #[arg(long, value_name = "NAME=URL", value_parser = input::service)]
    service: Vec<(String, String)>,
    /// Write nothing but the output and errors
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(args: Args, common: &Common) -> Result<()> {
    let given = args.input.as_deref().map(|text| input::payload("the input", text)).transpose()?;
    let id = args.id.as_deref().map(input::id).transpose()?;
    let project = Project::open(&args.path)?;
    let progress = Progress::new(args.quiet);
    progress.now("building");
    let built = project.build(&mut |line| progress.now(line))?;
    if args.orchestration.is_none() && given.is_none() && id.is_none() {
        progress.finish();
        return list_offers(&built[0].bytes, common);
    }

    let data = store::make_folder(&common.data)?;
    let kept = match store::open_in_turn(&data, &store::options(&data)?, || Remote::find(&data, &common.reach)).await? {
        Ok(kept) => kept,
        Err(server) => return Err(in_use(&data, &server)),
    };
    let uploader = Uploader::new(kept.clone(), &data)?;
    let mut built = built.into_iter();
    let first = built.next().ok_or_else(|| CliError::input("there is no module to run"))?;
    progress.now(&format!("uploading {}", first.name));
    let module = uploader.upload(&first.name, None, first.bytes, first.grants)?;
    let orchestration = choose(&module, args.orchestration.as_deref())?;

    // Activities are granted their services' addresses before the engine runs
    // them: an attempt at an old address would be one attempt less.
    let services = Services::start(&project, &args.service, &data, &progress)?;
    for activities in built {
        progress.now(&format!("uploading {}", activities.name));
        let grants = project.grants(&activities.grants, &data, &services.urls)?;
        uploader.upload(&activities.name, None, activities.bytes, grants)?;
    }
    drop(uploader);

    let id = id.map_or_else(|| input::fresh_id(&orchestration), Ok)?;
    let watched = Watched::new(kept);
    let log = Some(progress.show_log(id.clone()));
    let engine = Arc::new(Engine::open(watched.clone(), Arc::new(SystemClock), store::settings(&data), log)?);
    let mut api = None;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(Serve { listen, access: Admission::by(Tokens::of(&data)), tls: None }, |stopping| {
        api.insert(Api::new(watched.clone(), Some(engine.clone()), stopping)).clone()
    });
    let server = server.await?;
    let published = Address { address: server.address, pid: std::process::id(), tls: false }.publish(&data);
    let published =
        published.map_err(|error| CliError::host(format!("cannot write to {}: {error}", data.display())))?;

    let request = StartRequest {
        id: id.clone(),
        orchestration,
        module: Some(module.hash.to_string()),
        input: given.clone().unwrap_or_else(Payload::null),
        tags: Vec::new(),
        reuse: IdReuse::ReturnExisting,
        start_at: None,
    };
    let before = engine.summary(&id)?.map_or(0, |summary| summary.events);
    match engine.start(request).await? {
        StartOutcome::Started => progress.line(&format!("started {id}")),
        StartOutcome::Existing => tell_existing(&*watched, &id, &module, given.as_ref(), &progress)?,
    }
    let follow = api.map(|api| tokio::spawn(progress.clone().follow(api, id.clone(), before + 1)));
    let ended = tokio::select! {
        outcome = engine.outcome(&id) => Some(outcome),
        () = serve::interrupted() => None,
    };
    if let (Some(Ok(_)), Some(follow)) = (&ended, follow) {
        // It shows the last events and ends by itself.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(3), follow).await;
    }
    progress.finish();
    drop(published);
    server.stop().await;
    engine.shutdown();
    drop(services);
    let hint = data_hint(&common.data);
    match ended {
        Some(outcome) => finish(id.as_str(), outcome?, common, &hint),
        None => Err(CliError::new(
            exit::INTERRUPTED,
            "interrupted",
            format!("interrupted; the same command with --id {id} goes on where it was"),
        )),
    }
}

/// Prints how an instance ended, as every command that waits does.
pub(super) fn finish(id: &str, outcome: Result<Payload, Failure>, common: &Common, hint: &str) -> Result<()> {
    match outcome {
        Ok(result) if common.json => {
            output::json(&json!({ "id": id, "status": "completed", "output": result }));
            Ok(())
        }
        Ok(result) => {
            print_payload(&result);
            Ok(())
        }
        Err(failure) => {
            let (code, how) = match failure.kind {
                FailureKind::Terminated => ("orchestration-terminated", "was terminated"),
                _ => ("orchestration-failed", "failed"),
            };
            let message = format!("{id} {how}: {failure}; see what happened with `dacapo history {id}{hint}`");
            let mut error = CliError::new(exit::FAILED, code, message);
            error.more = Some(Box::new(("failure", json!(failure))));
            Err(error)
        }
    }
}

/// ` --data DIR`, for commands that people are told, if they need it.
pub(super) fn data_hint(data: &Path) -> String {
    if data == Path::new(".dacapo") || std::env::var_os("DACAPO_DATA").is_some_and(|set| Path::new(&set) == data) {
        String::new()
    } else {
        format!(" --data {}", data.display())
    }
}

pub(super) fn print_payload(payload: &Payload) {
    match payload.to_json() {
        Some(value) if std::io::stdout().is_terminal() => output::json(&value),
        _ => {
            output::write_all(&payload.data);
            if payload.content_type == ContentType::Json {
                output::write_all(b"\n");
            }
        }
    }
}

fn list_offers(bytes: &[u8], common: &Common) -> Result<()> {
    let sandbox = store::sandbox(&common.data)?;
    let found = sandbox.inspect(bytes).map_err(EngineError::from)?;
    let module = Module {
        default_at: None,
        hash: found.hash,
        name: String::new(),
        version: String::new(),
        kind: found.kind,
        size: 0,
        uploaded_at: crate::core::ids::TimestampMs(0),
        offers: found.offers,
        grants: crate::store::Grants::default(),
        updates: found.updates,
        queries: found.queries,
        entities: found.entities,
    };
    if common.json {
        let offers = &crate::server::api::module_json(&module)["offers"];
        output::json(&json!({ "kind": module.kind, "offers": offers }));
    } else {
        offers_of(&module).print();
    }
    Ok(())
}

fn choose(module: &Module, wanted: Option<&str>) -> Result<String> {
    if module.kind != ModuleKind::Orchestration {
        return Err(CliError::input(format!(
            "{} offers activities only; run a project that has an orchestration, or keep it with `dacapo upload`",
            module.name
        )));
    }
    let names = || module.offers.iter().map(|offer| offer.name.clone()).collect::<Vec<_>>();
    match (wanted, &module.offers[..]) {
        (Some(wanted), offers) if offers.iter().any(|offer| offer.name == wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => Err(EngineError::UnknownOrchestration { name: wanted.to_owned(), exists: names() }.into()),
        (None, [only]) => Ok(only.name.clone()),
        (None, _) => Err(CliError::input(format!("say which orchestration to run: {}", names().join(", ")))),
    }
}

fn tell_existing(
    store: &dyn Store,
    id: &crate::core::ids::InstanceId,
    module: &Module,
    given: Option<&Payload>,
    progress: &Progress,
) -> Result<()> {
    let there = view::instance(store, id, |_| None)?;
    let what = if there.row.status.is_final() { "has ended" } else { "goes on" };
    progress.line(&format!("{id} is there already and {what} ({} events)", there.row.events));
    if there.module != module.hash {
        let (old, new) = (there.module.short(), module.hash.short());
        progress.line(&format!("{id} stays on the module it was started with, {old}; what was built now is {new}"));
    }
    if given.is_some_and(|given| there.row.execution == 1 && given.to_json() != there.input.to_json()) {
        progress.line(&format!("{id} keeps the input it was started with; the one given now is not used"));
    }
    Ok(())
}

fn in_use(data: &Path, server: &Remote) -> CliError {
    CliError::new(
        exit::CONFLICT,
        "store-in-use",
        format!(
            "{} is in use by the process that serves {}; run with another --data, or use `dacapo upload` and \
             `dacapo start`, which talk to it",
            data.display(),
            server.address()
        ),
    )
}

/// Where a project's services are; those started here end with this.
pub(super) struct Services {
    pub(super) urls: BTreeMap<String, String>,
    _running: Vec<Service>,
}

impl Services {
    pub(super) fn start(
        project: &Project,
        given: &[(String, String)],
        data: &Path,
        progress: &Progress,
    ) -> Result<Self> {
        let mut services = Self { urls: given.iter().cloned().collect(), _running: Vec::new() };
        for service in project.services().filter(|service| !given.iter().any(|(name, _)| *name == service.name)) {
            progress.now(&format!("building {}", service.name));
            let program = build::program(&project.folder().join(&service.path), &mut |line| progress.now(line))?;
            let running = Service::start(&service.name, &program, data).map_err(crate::project::ProjectError::from)?;
            progress.step(&format!("{} listens on {}", service.name, running.url));
            services.urls.insert(service.name.clone(), running.url.clone());
            services._running.push(running);
        }
        Ok(services)
    }
}

//! `dacapo upload` and `dacapo modules`: versions and the one that new starts take.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::client::{Access, Client};
use super::error::{CliError, Result};
use super::output::{Table, field};
use super::progress::Progress;
use super::{Common, check, input, output, store};
use crate::engine::upgrade::default_if_same;
use crate::engine::{Clock as _, EngineError, Modules, SystemClock, Upload};
use crate::project::Project;
use crate::replay::check::sandbox_of;
use crate::sandbox::Sandbox;
use crate::server::versions::{CollectBody, Named, RemoveBody, checked_json};
use crate::store::{Grants, Module, Store};

#[derive(Debug, clap::Args)]
pub(super) struct UploadArgs {
    /// A folder with a dacapo.toml, a crate's folder, or a .wasm file
    path: PathBuf,
    /// The module's name, if it is not to be that of its project, crate or file
    #[arg(long)]
    name: Option<String>,
    /// Its version; without one, the first digits of its hash
    #[arg(long)]
    version: Option<String>,
    /// Where a service of the project runs
    #[arg(long, value_name = "NAME=URL", value_parser = input::service)]
    service: Vec<(String, String)>,
    /// Let new starts take it only if every running instance of its name could go on with it
    #[arg(long, conflicts_with = "held_back")]
    check: bool,
    /// Keep it as a version that only `name@version` finds
    #[arg(long)]
    held_back: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ModulesArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List them: what there is without a subcommand
    List,
    /// Show or choose the version that new starts of a name take
    Default {
        /// The name, to show; name@version or a hash, to choose
        #[arg(value_name = "NAME[@VERSION]")]
        module: String,
    },
    /// Remove a module that nothing needs
    Rm {
        /// name@version or a hash
        #[arg(value_name = "NAME@VERSION")]
        module: String,
        /// Although instances that have ended can then not be replayed from here
        #[arg(long)]
        forget_ended: bool,
    },
    /// Remove every module that no instance, no name's default and no activity needs
    Gc {
        /// Those of instances that have ended as well
        #[arg(long)]
        forget_ended: bool,
        /// Only say which
        #[arg(long)]
        dry_run: bool,
    },
}

/// Checks and keeps modules without an engine, so that nothing runs.
pub(super) struct Uploader {
    modules: Modules,
    cache: Option<PathBuf>,
}

impl Uploader {
    pub(super) fn new(store: Arc<dyn Store>, data: &Path) -> Result<Self> {
        let settings = store::settings(data);
        let sandbox = Sandbox::new(settings.sandbox, settings.cache.clone());
        let sandbox = sandbox.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
        Ok(Self { modules: Modules::new(store, Arc::new(sandbox)), cache: settings.cache })
    }

    pub(super) fn upload(&self, name: &str, version: Option<String>, bytes: Vec<u8>, grants: Grants) -> Result<Module> {
        self.take(Upload { bytes, name: name.to_owned(), version, grants, ..Upload::default() })
    }

    /// Takes a module; new starts take it if running instances could go on with it.
    pub(super) fn take_checked(&self, upload: Upload) -> Result<Value> {
        let module = self.take(Upload { held_back: true, ..upload })?;
        let sandbox = sandbox_of(&Default::default(), self.cache.clone()).map_err(EngineError::Sandbox)?;
        let (module, checked) = default_if_same(&self.modules, &sandbox, module, SystemClock.now())?;
        Ok(checked_json(&self.modules, &module, &checked)?)
    }

    pub(super) fn take(&self, upload: Upload) -> Result<Module> {
        let name = upload.name.clone();
        self.modules.upload(upload, SystemClock.now()).map_err(|error| {
            let mut error = CliError::from(error);
            error.message = format!("{name}: {}", error.message);
            error
        })
    }
}

pub(super) async fn upload(args: &UploadArgs, common: &Common) -> Result<()> {
    let project = Project::open(&args.path)?;
    let services = args.service.iter().cloned().collect();
    if let Some(missing) =
        project.services().find(|service| !args.service.iter().any(|(name, _)| *name == service.name))
    {
        return Err(CliError::input(format!(
            "the project wants the service {name:?}, which only `dacapo run` starts; say where it runs with \
             --service {name}=URL",
            name = missing.name
        )));
    }
    let progress = Progress::new(common.json);
    progress.now("building");
    let mut built = project.build(&mut |line| progress.now(line))?;
    if let Some(name) = &args.name {
        built[0].name.clone_from(name);
    }
    let client = Client::open(common, Access::Write).await?;
    let data = store::make_folder(&common.data)?;
    let mut kept = Vec::new();
    for module in built {
        progress.now(&format!("uploading {}", module.name));
        let grants = project.grants(&module.grants, &data, &services)?;
        let (version, held_back) = (args.version.clone(), args.held_back);
        let upload = Upload { bytes: module.bytes, name: module.name, version, grants, held_back, ..Upload::default() };
        kept.push(if args.check { client.upload_checked(upload).await? } else { client.upload(upload)? });
    }
    progress.finish();
    print_modules(&json!({ "modules": kept }), common);
    match kept.iter().find(|module| module["check"]["different"].as_u64().is_some_and(|different| different > 0)) {
        Some(differs) => refused_as_default(differs, common),
        None => Ok(()),
    }
}

fn refused_as_default(module: &Value, common: &Common) -> Result<()> {
    let found = &module["check"];
    // For programs it is in the answer already.
    let differing = if common.json { check::verdict(found) } else { check::show(found, false, false, common) };
    let Err(mut error) = differing else { return Ok(()) };
    error.message = format!(
        "{}@{} was kept, but new starts do not take it: {}",
        field(module, "name"),
        field(module, "version"),
        error.message
    );
    Err(error)
}

pub(super) async fn run(args: ModulesArgs, common: &Common) -> Result<()> {
    match args.action {
        None | Some(Action::List) => list(common).await,
        Some(Action::Default { module }) => default(module, common).await,
        Some(Action::Rm { module, forget_ended }) => {
            let client = Client::open(common, Access::Write).await?;
            let removed = client.remove_module(RemoveBody { module, forget_ended }).await?;
            print_removed(&json!({ "removed": [removed], "dry_run": false }), common);
            Ok(())
        }
        Some(Action::Gc { forget_ended, dry_run }) => {
            let client = Client::open(common, Access::Write).await?;
            print_removed(&client.collect_modules(CollectBody { forget_ended, dry_run }).await?, common);
            Ok(())
        }
    }
}

async fn default(module: String, common: &Common) -> Result<()> {
    let is_name = !module.contains('@') && module.parse::<crate::core::ids::Hash>().is_err();
    let shown = if is_name {
        let all = Client::open(common, Access::Read).await?.modules()?;
        let mut versions = all["modules"].as_array().into_iter().flatten().filter(|m| m["name"] == module.as_str());
        versions.find(|version| version["default"] == true).cloned().ok_or_else(|| {
            let message = format!("no version of {module:?} is its default; `dacapo modules` lists what there is");
            CliError::new(super::error::exit::NOT_FOUND, "unknown-module", message)
        })?
    } else {
        Client::open(common, Access::Write).await?.set_default(Named { module }).await?
    };
    if common.json {
        output::json(&shown);
    } else {
        output::out(format_args!("{}@{}", field(&shown, "name"), field(&shown, "version")));
    }
    Ok(())
}

fn print_removed(answer: &Value, common: &Common) {
    if common.json {
        return output::json(answer);
    }
    let verb = if answer["dry_run"] == true { "would remove" } else { "removed" };
    for module in answer["removed"].as_array().into_iter().flatten() {
        output::out(format_args!("{verb} {}@{}", field(module, "name"), field(module, "version")));
    }
}

async fn list(common: &Common) -> Result<()> {
    let modules = Client::open(common, Access::Read).await?.modules()?;
    print_modules(&modules, common);
    Ok(())
}

/// What a module offers, as a table.
pub(super) fn offers_of(module: &Module) -> Table {
    let mut table = Table::new(&["NAME", "DESCRIPTION"]);
    for offer in &module.offers {
        table.row([offer.name.clone(), offer.description.clone()]);
    }
    table
}

fn print_modules(modules: &serde_json::Value, common: &Common) {
    if common.json {
        return output::json(modules);
    }
    let mut table = Table::new(&["NAME", "VERSION", "DEFAULT", "KIND", "HASH", "BYTES", "UPLOADED", "OFFERS"]);
    for module in modules["modules"].as_array().into_iter().flatten() {
        let list = |what: &str| module[what].as_array().into_iter().flatten();
        let offers = list("offers").map(|offer| field(offer, "name"));
        let offers = offers.chain(list("entities").map(|entity| format!("@{}", field(entity, "kind"))));
        table.row([
            field(module, "name"),
            field(module, "version"),
            if module["default"] == true { "yes".to_owned() } else { String::new() },
            field(module, "kind"),
            field(module, "hash").chars().take(12).collect(),
            field(module, "size"),
            field(module, "uploaded_at"),
            offers.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.print();
}

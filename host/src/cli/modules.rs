//! `dacapo upload` and `dacapo modules`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::client::{Access, Client};
use super::error::{CliError, Result};
use super::output::{Table, field};
use super::progress::Progress;
use super::{Common, input, output, store};
use crate::engine::{Clock as _, EngineError, Modules, SystemClock, Upload};
use crate::project::Project;
use crate::sandbox::Sandbox;
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
}

/// Checks and keeps modules without an engine, so that nothing runs.
pub(super) struct Uploader {
    modules: Modules,
}

impl Uploader {
    pub(super) fn new(store: Arc<dyn Store>, data: &Path) -> Result<Self> {
        let settings = store::settings(data);
        let sandbox = Sandbox::new(settings.sandbox, settings.cache);
        let sandbox = sandbox.map_err(|error| EngineError::Sandbox(format!("{error:#}")))?;
        Ok(Self { modules: Modules::new(store, Arc::new(sandbox)) })
    }

    pub(super) fn upload(&self, name: &str, version: Option<String>, bytes: Vec<u8>, grants: Grants) -> Result<Module> {
        self.take(Upload { bytes, name: name.to_owned(), version, grants })
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
    let client = Client::open(&common.data, Access::Write).await?;
    let data = store::make_folder(&common.data)?;
    let mut kept = Vec::new();
    for module in built {
        progress.now(&format!("uploading {}", module.name));
        let grants = project.grants(&module.grants, &data, &services)?;
        let upload = Upload { bytes: module.bytes, name: module.name, version: args.version.clone(), grants };
        kept.push(client.upload(upload)?);
    }
    progress.finish();
    print_modules(&json!({ "modules": kept }), common);
    Ok(())
}

pub(super) async fn list(common: &Common) -> Result<()> {
    let modules = Client::open(&common.data, Access::Read).await?.modules()?;
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
    let mut table = Table::new(&["NAME", "VERSION", "KIND", "HASH", "BYTES", "UPLOADED", "OFFERS"]);
    for module in modules["modules"].as_array().into_iter().flatten() {
        let offers = module["offers"].as_array().into_iter().flatten().map(|offer| field(offer, "name"));
        table.row([
            field(module, "name"),
            field(module, "version"),
            field(module, "kind"),
            field(module, "hash").chars().take(12).collect(),
            field(module, "size"),
            field(module, "uploaded_at"),
            offers.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.print();
}

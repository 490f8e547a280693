//! `dacapo dev`: serves, builds and uploads a project, and does so again whenever one
//! of its files changes.
//!
//! What runs goes on with the module it was started with; new starts take the last
//! build that worked. A build that fails is told and changes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::error::{CliError, Result};
use super::output::out;
use super::progress::Progress;
use super::run::Services;
use super::serve::{Configured, LISTEN, Serving, interrupted};
use super::{Common, input, store};
use crate::core::ids::Hash;
use crate::engine::Upload;
use crate::project::Project;
use crate::server::api::Api;
use crate::store::{Module, ModuleKind, Store as _};

/// An editor writes a file in several steps; a build begins when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder with a dacapo.toml, a crate's folder, or a .wasm file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", env = "DACAPO_LISTEN", default_value_t = LISTEN)]
    listen: SocketAddr,
    /// A service that runs already, instead of starting the project's own
    #[arg(long, value_name = "NAME=URL", value_parser = input::service)]
    service: Vec<(String, String)>,
}

pub(super) async fn run(args: Args, common: &Common) -> Result<()> {
    let project = Project::open(&args.path)?;
    let data = store::make_folder(&common.data)?;
    let progress = Progress::new(false);
    // Activities are granted their services' addresses before the engine runs them.
    let services = Services::start(&project, &args.service, &data, &progress)?;
    let serving = Serving::start(&data, Configured::plain(args.listen, &data)?, &common.reach).await?;
    progress.finish();
    let mut changes = Changes::of(&args.path, &data)?;
    let address = serving.address();
    out(format_args!("listening on http://{address}"));
    let builder = Builder { path: args.path, data, urls: services.urls.clone(), api: serving.api().clone() };
    let mut has_worked = false;
    loop {
        let building = builder.clone();
        let built = tokio::task::spawn_blocking(move || building.build());
        match built.await.map_err(|error| CliError::host(format!("the build could not be finished: {error}")))? {
            Ok(kept) => {
                kept.iter().for_each(tell);
                if !std::mem::replace(&mut has_worked, true) {
                    hint(&kept, address);
                }
            }
            Err(error) => out(format_args!("{}\nnothing was uploaded; change it and save", error.message.trim_end())),
        }
        tokio::select! {
            () = changes.wait() => out("something changed, building"),
            () = interrupted() => break,
        }
    }
    serving.stop().await;
    drop(services);
    Ok(())
}

/// What a build is made of.
#[derive(Clone)]
struct Builder {
    path: PathBuf,
    data: PathBuf,
    urls: BTreeMap<String, String>,
    api: Api,
}

impl Builder {
    /// Builds everything and uploads it; each module, and whether it is another one than before.
    fn build(&self) -> Result<Vec<(Module, bool)>> {
        let project = Project::open(&self.path)?;
        let progress = Progress::new(false);
        let built = project.build(&mut |line| progress.now(line));
        progress.finish();
        let mut kept = Vec::new();
        for module in built? {
            let was_there = self.api.store().modules()?;
            let grants = project.grants(&module.grants, &self.data, &self.urls)?;
            let upload = Upload {
                bytes: module.bytes,
                name: module.name,
                version: None,
                grants,
                held_back: false,
                ..Upload::default()
            };
            let module = self.api.engine()?.upload(upload)?;
            // What was built before and is built again is the default again.
            if module.kind == ModuleKind::Orchestration {
                self.api.engine()?.modules().set_default(&module.hash.to_string(), self.api.engine()?.now())?;
            }
            let last = was_there.iter().find(|other| other.name == module.name).map(|other| other.hash);
            kept.push((module.clone(), last != Some(module.hash)));
        }
        Ok(kept)
    }
}

fn tell((module, is_new): &(Module, bool)) {
    let offers: Vec<&str> = module.offers.iter().map(|offer| offer.name.as_str()).collect();
    let what = if *is_new { "uploaded" } else { "unchanged" };
    out(format_args!("{what} {}@{}: {}", module.name, module.version, offers.join(", ")));
}

/// What to do next.
fn hint(kept: &[(Module, bool)], address: SocketAddr) {
    let orchestrations = kept.iter().filter(|(module, _)| module.kind == ModuleKind::Orchestration);
    match orchestrations.flat_map(|(module, _)| &module.offers).next() {
        Some(offer) => out(format_args!(
            "start it at http://{address}/ui/start?orchestration={}, or with `dacapo start {0} --input JSON`\n\
             change a file and save: it is built and uploaded again, and new starts take it",
            offer.name
        )),
        None => out("it offers activities only; `dacapo workers` and the page show who calls them"),
    }
}

/// Changes of files that a build is made of.
struct Changes {
    told: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Changes {
    fn of(path: &Path, data: &Path) -> Result<Self> {
        let cannot = |error: notify::Error| {
            CliError::host(format!("cannot watch {}: {error}; is it there, and may it be read?", path.display()))
        };
        let whole = path.canonicalize().map_err(|error| cannot(error.into()))?;
        let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
        let root = if whole.is_dir() { whole.clone() } else { whole.parent().unwrap_or(&whole).to_owned() };
        let (told, receiver) = mpsc::channel(1);
        let (inside, seen) = (root.clone(), Seen::default());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let counts = |path: &PathBuf| {
                // What the host writes beside the sources is none of them.
                let is_inside = || is_source(&inside, path) && !path.starts_with(&data);
                (if whole.is_dir() { is_inside() } else { *path == whole }) && seen.differs(path)
            };
            if !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(counts) {
                // One that is told and not yet heard stands for all.
                let _ = told.try_send(());
            }
        })
        .map_err(cannot)?;
        let depth = if path.is_dir() { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        watcher.watch(&root, depth).map_err(cannot)?;
        Ok(Self { told: receiver, _watcher: watcher })
    }

    /// Returns when something has changed and then nothing for a moment.
    async fn wait(&mut self) {
        if self.told.recv().await.is_none() {
            return std::future::pending().await;
        }
        while tokio::time::timeout(QUIET, self.told.recv()).await.is_ok_and(|told| told.is_some()) {}
    }
}

/// What files had in them when they were looked at last: a file that is only touched,
/// or written as it was, is no change.
#[derive(Default)]
struct Seen(std::sync::Mutex<BTreeMap<PathBuf, Option<Hash>>>);

impl Seen {
    fn differs(&self, path: &Path) -> bool {
        if path.is_dir() {
            return false;
        }
        let now = std::fs::read(path).ok().map(|bytes| Hash::of(&bytes));
        let mut seen = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.insert(path.to_owned(), now) != Some(now)
    }
}

/// Whether a build reads that file: not what cargo makes, and nothing hidden.
fn is_source(root: &Path, path: &Path) -> bool {
    let inside = path.strip_prefix(root).unwrap_or(path);
    let is_made = |part: Component<'_>| {
        let name = part.as_os_str().to_string_lossy();
        name == "target" || name == "Cargo.lock" || name.starts_with('.') || name.ends_with('~')
    };
    !inside.components().any(is_made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_and_editors_make_is_no_source() {
        let root = Path::new("/home/me/.projects/desk");
        let of = |path: &str| is_source(root, &root.join(path));
        assert!(of("src/lib.rs") && of("dacapo.toml") && of("activities/Cargo.toml"));
        for made in
            ["target/release/x.wasm", "a/target/x", ".git/index", "src/.lib.rs.swp", "src/lib.rs~", "Cargo.lock"]
        {
            assert!(!of(made), "{made}");
        }
    }
}

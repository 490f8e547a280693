//! Where guests run: wasmtime with everything fixed that could differ.
//!
//! [`Sandbox::load`] turns uploaded bytes into a module that was checked and
//! compiled (the compiled form is kept on disk); [`guest::Guest`] is one life of
//! it. The sandbox knows the core and nothing of stores or engines.

pub mod activity;
mod bindings;
mod cache;
mod context;
mod direct;
mod frames;
pub mod guest;
pub mod inspect;
pub mod interrupt;
mod layout;
mod log_stream;
pub mod outbound;
pub mod secrets;
pub mod settings;
pub mod snapshot;
#[doc(hidden)]
pub mod types;
mod wasi;

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Module};

use self::bindings::orchestration::OrchestrationPre;
pub use self::cache::shared_cache;
use self::cache::{Compiled, CompiledCache, Part};
use self::direct::{DirectActivities, DirectModule, Plain};
use self::guest::{Guest, GuestState};
use self::inspect::Refused;
use self::layout::Layout;
use self::settings::{SandboxSettings, TICK};
use crate::core::entity::fault_of_kind;
use crate::core::ids::{Hash, ModuleHash};
use crate::core::turn::SAVED_FORMAT;
use crate::store::{EntityOffer, ModuleKind, Offer};

/// Largest stack of guests with which attempts of activities begin on the runtime's own threads:
/// these have 2 MiB.
const MOST_STACK: usize = 1 << 20;

/// The engines and what is shared by all guests.
pub struct Sandbox {
    settings: Arc<SandboxSettings>,
    orchestrations: Engine,
    activities: Engine,
    cache: Option<CompiledCache>,
    inspects: bool,
    /// Stops the thread that counts epochs.
    running: Arc<AtomicBool>,
}

/// A checked and compiled module with orchestrations.
#[derive(Clone)]
pub struct OrchestrationModule {
    /// Its address.
    pub hash: ModuleHash,
    linked: Linked,
    settings: Arc<SandboxSettings>,
    /// Where the state of its guests is; none unless the sandbox inspects.
    layout: Option<Arc<Layout>>,
}

/// A compiled module with its imports: its guests are made of this.
#[derive(Clone)]
enum Linked {
    /// Any component.
    Component(OrchestrationPre<GuestState>),
    /// A component around one core module, see [`direct`].
    Direct(Arc<DirectModule>),
}

impl Linked {
    fn engine(&self) -> &Engine {
        match self {
            Self::Component(pre) => pre.engine(),
            Self::Direct(module) => module.engine(),
        }
    }
}

impl OrchestrationModule {
    /// Whether its guests are called without the component's runtime. That changes nothing for
    /// them; see `sandbox/direct`.
    pub fn is_called_directly(&self) -> bool {
        matches!(self.linked, Linked::Direct(_))
    }
}

impl std::fmt::Debug for OrchestrationModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OrchestrationModule({})", self.hash.short())
    }
}

/// What the check at upload found.
#[derive(Debug)]
pub struct Inspected {
    /// Hash of the component: its address.
    pub hash: ModuleHash,
    /// The component, which is kept.
    pub component: Vec<u8>,
    /// Which world it exports.
    pub kind: ModuleKind,
    /// What its `describe` said.
    pub offers: Vec<Offer>,
    /// The updates that it said its orchestrations answer.
    pub updates: Vec<Offer>,
    /// The queries that it said its orchestrations answer.
    pub queries: Vec<Offer>,
    /// The entity kinds that it offers.
    pub entities: Vec<EntityOffer>,
}

impl Sandbox {
    /// Makes the engines. Compiled modules are kept in `cache`, if given.
    ///
    /// # Errors
    /// If this machine cannot give the memory that the settings ask for.
    pub fn new(settings: SandboxSettings, cache: Option<PathBuf>) -> wasmtime::Result<Self> {
        Self::with(settings, cache, false)
    }

    /// A sandbox whose guests can be looked into and put back to an earlier state,
    /// see [`snapshot`]. They behave the same and run a little slower.
    ///
    /// # Errors
    /// If this machine cannot give the memory that the settings ask for.
    pub fn inspecting(settings: SandboxSettings, cache: Option<PathBuf>) -> wasmtime::Result<Self> {
        Self::with(settings, cache, true)
    }

    /// An inspecting sandbox beside this one, with at most so many guests and no activities.
    ///
    /// # Errors
    /// If this machine cannot give the memory that it asks for.
    pub fn inspecting_beside(&self, resident_guests: u32) -> wasmtime::Result<Self> {
        let resident_guests = resident_guests.min(self.settings.resident_guests);
        let settings = SandboxSettings { resident_guests, activities: 1, ..(*self.settings).clone() };
        let cache = self.cache.as_ref().map(CompiledCache::folder);
        Self::with(settings, cache, true)
    }

    /// What a stored snapshot of a guest here depends on beside its module: it is good
    /// where this is the same.
    pub fn make(&self) -> Hash {
        let mut engine = DefaultHasher::new();
        self.orchestrations.precompile_compatibility_hash().hash(&mut engine);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&SAVED_FORMAT.to_le_bytes()).update(&engine.finish().to_le_bytes());
        hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
        Hash(*hasher.finalize().as_bytes())
    }

    fn with(settings: SandboxSettings, cache: Option<PathBuf>, inspects: bool) -> wasmtime::Result<Self> {
        let mut config = settings::orchestration_config(&settings);
        config.guest_debug(inspects);
        let orchestrations = Engine::new(&config)?;
        let activities = Engine::new(&settings::activity_config(&settings))?;
        let running = Arc::new(AtomicBool::new(true));
        count_epochs(running.clone(), [orchestrations.clone(), activities.clone()]);
        Ok(Self {
            settings: Arc::new(settings),
            orchestrations,
            activities,
            cache: cache.map(CompiledCache::new),
            inspects,
            running,
        })
    }

    /// Checks uploaded bytes: size, form, world, imports, and what `describe` says.
    ///
    /// # Errors
    /// [`Refused`], with the reason.
    pub fn inspect(&self, bytes: &[u8]) -> Result<Inspected, Refused> {
        let component = inspect::to_component(bytes, self.settings.module_bytes)?.into_owned();
        let hash = ModuleHash::of(&component);
        // Of what is called directly only the types are needed here.
        let plain =
            [direct::GUEST, direct::ACTIVITIES].into_iter().find_map(|called| direct::plain(&component, called));
        let plain = plain.filter(|_| !self.inspects);
        let hollow = plain.and_then(|plain| self.hollow(hash, &component, &plain).ok());
        let is_direct = hollow.is_some();
        let compiled = match hollow {
            Some(hollow) => hollow,
            None => self.compile(&self.orchestrations, hash, &component).map_err(not_a_component)?,
        };
        let mut queries = Vec::new();
        let mut entities = Vec::new();
        let (kind, offers, updates) = match inspect::kind_of(&compiled, &self.orchestrations)? {
            ModuleKind::Orchestration => {
                let module = if is_direct { self.load(hash, &component) } else { self.link(hash, &compiled, None) };
                let module = module.map_err(not_a_component)?;
                let said = Guest::describe(&module).map_err(|error| Refused::Describe(format!("{:#}", error)))?;
                queries = said.queries.into_iter().map(offer).collect();
                let updates = said.updates.into_iter().map(offer).collect();
                entities = said.entities.into_iter().map(entity_offer).collect();
                (ModuleKind::Orchestration, said.orchestrations.into_iter().map(offer).collect(), updates)
            }
            ModuleKind::Activity => {
                let module = self.activity_module(hash, &component).map_err(not_a_component)?;
                let offers = module.describe().map_err(|error| Refused::Describe(format!("{error:#}")))?;
                (ModuleKind::Activity, offers, Vec::new())
            }
        };
        check_offers(kind, &offers, entities.is_empty())?;
        check_entities(&entities)?;
        Ok(Inspected { hash, component, kind, offers, updates, queries, entities })
    }

    /// Loads a module with orchestrations that was checked at upload.
    ///
    /// # Errors
    /// If the bytes are no such module.
    pub fn load(&self, hash: ModuleHash, component: &[u8]) -> wasmtime::Result<OrchestrationModule> {
        if let (false, Some(plain)) = (self.inspects, direct::plain(component, direct::GUEST)) {
            match self.load_direct(hash, component, &plain) {
                Ok(module) => return Ok(module),
                // Whatever the reason is, it goes the component's way, or fails there.
                Err(error) => tracing::debug!(module = %hash.short(), "not called directly: {error:#}"),
            }
        }
        let compiled = self.compile(&self.orchestrations, hash, component)?;
        let layout = self.inspects.then(|| Layout::of(component)).transpose()?;
        self.link(hash, &compiled, layout.map(Arc::new))
    }

    /// Loads a module of which the core module is enough. Its types are checked with the
    /// component's, before it is compiled for the first time.
    fn load_direct(
        &self,
        hash: ModuleHash,
        component: &[u8],
        plain: &Plain<'_>,
    ) -> wasmtime::Result<OrchestrationModule> {
        let engine = &self.orchestrations;
        let compiled = self.compiled::<Module>(engine, hash, Part::Core, || {
            let hollow = self.hollow(hash, component, plain)?;
            direct::check_exports(&hollow, plain.interface)?;
            self.link(hash, &hollow, None)?;
            Ok(plain.module.into())
        })?;
        let linked = Linked::Direct(Arc::new(DirectModule::new(engine, &compiled, plain.interface)?));
        Ok(OrchestrationModule { hash, linked, settings: self.settings.clone(), layout: None })
    }

    /// A component with the types of this one, and without its code.
    fn hollow(&self, hash: ModuleHash, component: &[u8], plain: &Plain<'_>) -> wasmtime::Result<Component> {
        self.compiled(&self.orchestrations, hash, Part::Types, || {
            let hollow = direct::hollow(component, plain);
            Ok(hollow.ok_or_else(|| wasmtime::format_err!("it cannot be read"))?.into())
        })
    }

    /// Loads a module with activities that was checked at upload.
    ///
    /// # Errors
    /// If the bytes are no such module.
    pub fn activity_module(&self, hash: ModuleHash, component: &[u8]) -> wasmtime::Result<activity::ActivityModule> {
        let compiled = self.compile(&self.activities, hash, component)?;
        let direct = self.direct_activities(hash, component, &compiled);
        let direct =
            direct.inspect_err(|error| tracing::debug!(module = %hash.short(), "not called directly: {error:#}"));
        activity::ActivityModule::new(&compiled, direct.ok().flatten(), hash, &self.settings)
    }

    /// The core module inside of one with activities, if that can be called by itself.
    fn direct_activities(
        &self,
        hash: ModuleHash,
        component: &[u8],
        compiled: &Component,
    ) -> wasmtime::Result<Option<DirectActivities>> {
        let plain = direct::plain(component, direct::ACTIVITIES);
        let Some(plain) = plain.filter(|_| self.settings.stack_bytes <= MOST_STACK) else { return Ok(None) };
        let module = self.compiled(&self.activities, hash, Part::Core, || Ok(plain.module.into()))?;
        DirectActivities::new(&module, compiled, plain.interface).map(Some)
    }

    /// Drops what was kept on disk of a module that is gone.
    pub fn forget(&self, hash: ModuleHash) {
        if let Some(cache) = &self.cache {
            cache.forget(hash);
        }
    }

    fn link(
        &self,
        hash: ModuleHash,
        compiled: &Component,
        layout: Option<Arc<Layout>>,
    ) -> wasmtime::Result<OrchestrationModule> {
        let mut linker = Linker::new(&self.orchestrations);
        context::add_to_linker(&mut linker)?;
        wasi::add_to_linker(&mut linker, compiled)?;
        let linked = Linked::Component(OrchestrationPre::new(linker.instantiate_pre(compiled)?)?);
        Ok(OrchestrationModule { hash, linked, settings: self.settings.clone(), layout })
    }

    fn compile(&self, engine: &Engine, hash: ModuleHash, component: &[u8]) -> wasmtime::Result<Component> {
        self.compiled(engine, hash, Part::Component, || Ok(component.into()))
    }

    /// What a part of a module is compiled to; from the cache, if there is one.
    fn compiled<'b, C: Compiled>(
        &self,
        engine: &Engine,
        hash: ModuleHash,
        part: Part,
        source: impl FnOnce() -> wasmtime::Result<Cow<'b, [u8]>>,
    ) -> wasmtime::Result<C> {
        match &self.cache {
            Some(cache) => cache.load_or_compile(engine, hash, part, source),
            None => C::compile(engine, &source()?),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
    }
}

/// Moves the epoch on by one each [`TICK`], as long as the sandbox lives. Budgets
/// are not part of what is replayed, so the wall's pace is good enough.
fn count_epochs(running: Arc<AtomicBool>, engines: [Engine; 2]) {
    std::thread::Builder::new()
        .name("dacapo-epochs".into())
        .spawn(move || {
            while running.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                engines.iter().for_each(Engine::increment_epoch);
            }
        })
        .expect("a thread can be started at start-up");
}

fn not_a_component(error: wasmtime::Error) -> Refused {
    Refused::NotAComponent(format!("{error:#}"))
}

fn offer(offer: bindings::orchestration::exports::dacapo::workflow::guest::Offer) -> Offer {
    Offer {
        name: offer.name,
        description: offer.description,
        input_schema: offer.input_schema,
        output_schema: offer.output_schema,
        default_retry: None,
    }
}

fn entity_offer(offered: bindings::orchestration::exports::dacapo::workflow::guest::EntityOffer) -> EntityOffer {
    EntityOffer { kind: offered.kind, operations: offered.operations.into_iter().map(offer).collect() }
}

fn check_entities(entities: &[EntityOffer]) -> Result<(), Refused> {
    let mut kinds = std::collections::BTreeSet::new();
    for EntityOffer { kind, .. } in entities {
        if let Some(fault) = fault_of_kind(kind) {
            return Err(Refused::Offer(format!("an entity that cannot be: {fault}")));
        }
        if !kinds.insert(kind) {
            return Err(Refused::Offer(format!("the entity kind {kind:?} twice")));
        }
    }
    Ok(())
}

fn check_offers(kind: ModuleKind, offers: &[Offer], needed: bool) -> Result<(), Refused> {
    let what = match kind {
        ModuleKind::Orchestration => "orchestration",
        ModuleKind::Activity => "activity",
    };
    if offers.is_empty() && needed {
        return Err(Refused::Offer(format!("no {what}")));
    }
    let mut names = std::collections::BTreeSet::new();
    for offer in offers {
        if offer.name.is_empty()
            || offer.name.len() > 200
            || offer.name.starts_with('@')
            || offer.name.chars().any(char::is_control)
        {
            return Err(Refused::Offer(format!(
                "the {what} name {:?}, which is not 1 to 200 plain characters that do not begin with '@'",
                offer.name
            )));
        }
        if !names.insert(&offer.name) {
            return Err(Refused::Offer(format!("the {what} {:?} twice", offer.name)));
        }
    }
    Ok(())
}

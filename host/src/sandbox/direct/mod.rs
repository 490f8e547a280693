//! A guest called directly: the core module inside its component, without the component's
//! runtime around it.
//!
//! A component that cargo builds for `wasm32-wasip2` is one core module, and two small ones that
//! join it to its imports. The component's runtime makes three instances of these, and each
//! string that crosses takes its way through it; for a guest that lives for six turns this was a
//! third of all instructions. So where [`shape`] finds that a component
//! is of that form and no other, the core module alone is instantiated, its imports are defined
//! here, and values are written to its memory and read from it as the canonical ABI says
//! ([`memory`], [`contract`]). The guest sees the same calls in the same order, its allocator is
//! asked for the same, its handles have the same numbers, and it is bounded by the same limits. So
//! a history goes on either way, and a test compares them. (What differs is a recursion that
//! ends just before the stack does: there are some frames less below an import.)
//!
//! Activities of that form are called this way as well, for as long as they ask for nothing of
//! the world ([`activity`]).
//!
//! Every other component (of JavaScript, of Python, made by hand), and every one in a sandbox
//! that inspects, is run by the component's runtime. That also checks the types of all of them,
//! of those called directly on a [`hollow`] copy.

mod activity;
mod contract;
mod handles;
mod hollow;
mod imports;
mod memory;
mod shape;
mod wasi;

use std::sync::Arc;

use wasmtime::component::Component;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::{
    AsContextMut as _, Caller, Engine, Extern, Instance, InstancePre, Linker, Memory, Module, ModuleExport,
};
use wasmtime::{Result, Store, StoreContextMut, TypedFunc, WasmParams, WasmResults, format_err};

use self::handles::Handles;
use self::memory::{Lift, Load, Lower};
use super::bindings::orchestration::exports::dacapo::workflow::guest::{Delivery, Description, Progress};
use super::guest::GuestState;
use super::types::{Failure, Payload};
use super::wasi::interface as wasi_interface;

pub(super) use self::activity::{DirectActivities, NeedsMore};
pub(super) use self::hollow::hollow;
pub(super) use self::shape::{ACTIVITIES, GUEST, Plain, plain};

/// The interface of the contract's imports.
const CONTEXT: &str = "dacapo:workflow/context@0.1.";

/// A core module that is instantiated without its component.
pub(super) struct DirectModule {
    pre: InstancePre<GuestState>,
    engine: Engine,
    passing: Passing,
    start: Export,
    resume: Export,
    query: Export,
    describe: Export,
}

/// A function of the contract, and what is called when its answer was read.
#[derive(Clone, Copy)]
struct Export {
    function: ModuleExport,
    post: Option<ModuleExport>,
}

/// What of a guest the host needs for each value that crosses.
pub(super) struct Parts {
    memory: Memory,
    realloc: TypedFunc<(u32, u32, u32, u32), u32>,
}

/// The state of a store in which something is called directly.
pub(super) trait Direct: 'static {
    fn direct(&self) -> &DirectState;
    fn direct_mut(&mut self) -> &mut DirectState;
}

impl Direct for GuestState {
    fn direct(&self) -> &DirectState {
        &self.direct
    }

    fn direct_mut(&mut self) -> &mut DirectState {
        &mut self.direct
    }
}

/// The part of a store's state that only guests have which are called directly.
#[derive(Default)]
pub(super) struct DirectState {
    /// None until the guest is there.
    parts: Option<Arc<Parts>>,
    /// Its allocator or clean-up runs, which may ask for nothing.
    alone: bool,
    handles: Handles,
}

/// A guest that is called directly.
pub(super) struct DirectGuest {
    instance: Instance,
    module: Arc<DirectModule>,
    /// Looked up for the first call, since it is called for each turn.
    resume: Option<Called<(u32, u32)>>,
}

/// An [`Export`] of one guest.
struct Called<P> {
    function: TypedFunc<P, u32>,
    post: Option<TypedFunc<u32, ()>>,
}

impl DirectState {
    /// The memory of a guest that is called directly.
    pub(super) fn memory(&self) -> Option<Memory> {
        self.parts.as_ref().map(|parts| parts.memory)
    }

    /// What an import needs, while the guest may call one.
    fn asked(&self) -> Result<&Arc<Parts>> {
        if self.alone {
            return Err(format_err!("an import was called by the guest's allocator or clean-up"));
        }
        self.parts.as_ref().ok_or_else(|| format_err!("an import was called before the guest was whole"))
    }
}

/// Calls a part of the guest that may ask for nothing.
fn alone<S: Direct, T>(
    store: &mut StoreContextMut<'_, S>,
    call: impl FnOnce(&mut StoreContextMut<'_, S>) -> Result<T>,
) -> Result<T> {
    store.data_mut().direct_mut().alone = true;
    let called = call(store);
    store.data_mut().direct_mut().alone = false;
    called
}

/// Runs what an import does with the guest's memory and state.
fn with<S: Direct, T>(asking: &mut Caller<'_, S>, ask: impl FnOnce(&Lift<'_>, &mut S) -> Result<T>) -> Result<T> {
    let memory = asking.data().direct().asked()?.memory;
    let (memory, state) = memory.data_and_store_mut(asking);
    ask(&Lift::new(memory), state)
}

/// Answers with what does not fit into one word, at the address that the guest gave.
fn answer<S: Direct, T: memory::Store>(asking: &mut Caller<'_, S>, value: &T, at: u32) -> Result<()> {
    Lower::of(asking.as_context_mut())?.answer(value, at)
}

/// What a module exports, by name.
struct Names<'m>(&'m Module);

impl Names<'_> {
    fn needed(&self, name: &str) -> Result<ModuleExport> {
        self.0.get_export_index(name).ok_or_else(|| format_err!("the core module exports no {name}"))
    }

    /// A function of the contract, which is exported as `interface`.
    fn export(&self, interface: &str, function: &str) -> Result<Export> {
        let name = format!("{interface}#{function}");
        let post = self.0.get_export_index(&format!("cabi_post_{name}"));
        Ok(Export { function: self.needed(&name)?, post })
    }

    /// Whatever the host needs for each value that crosses.
    fn passing(&self) -> Result<Passing> {
        Ok(Passing { memory: self.needed("memory")?, realloc: self.needed("cabi_realloc")? })
    }
}

/// Where a module has what values cross by.
struct Passing {
    memory: ModuleExport,
    realloc: ModuleExport,
}

impl Passing {
    /// From now on values can cross, in both directions.
    fn open<S: Direct>(&self, store: &mut Store<S>, instance: Instance) -> Result<()> {
        let Some(Extern::Memory(memory)) = instance.get_module_export(&mut *store, &self.memory) else {
            return Err(format_err!("the core module's memory is none"));
        };
        let realloc = function(store, instance, &self.realloc)?;
        store.data_mut().direct_mut().parts = Some(Arc::new(Parts { memory, realloc }));
        Ok(())
    }
}

impl DirectModule {
    /// Links the core module of a component whose contract is exported as `interface`.
    pub(super) fn new(engine: &Engine, module: &Module, interface: &str) -> Result<Self> {
        let mut linker = Linker::new(engine);
        let mut defined = std::collections::BTreeSet::new();
        for import in module.imports() {
            let (name, function) = (import.module(), import.name());
            if let Some(resource) = function.strip_prefix("[resource-drop]") {
                wasi::define_drop(&mut linker, name, function, resource)?;
            }
            if !defined.insert(name) {
                continue;
            }
            match wasi_interface(name) {
                Some(of_wasi) => wasi::define(&mut linker, of_wasi, name)?,
                None if name.starts_with(CONTEXT) => imports::define(&mut linker, name)?,
                None => {}
            }
        }
        linker.define_unknown_imports_as_traps(module)?;
        let names = Names(module);
        Ok(Self {
            passing: names.passing()?,
            start: names.export(interface, "start")?,
            resume: names.export(interface, "resume")?,
            query: names.export(interface, "query")?,
            describe: names.export(interface, "describe")?,
            pre: linker.instantiate_pre(module)?,
            engine: engine.clone(),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn instantiate(self: &Arc<Self>, store: &mut Store<GuestState>) -> Result<DirectGuest> {
        let instance = self.pre.instantiate(&mut *store)?;
        self.passing.open(store, instance)?;
        Ok(DirectGuest { instance, module: self.clone(), resume: None })
    }
}

/// Whether the functions that `component` exports as `interface` have the contract's types. That
/// they have the right words only is not enough: another contract's may be as long.
pub(super) fn check_exports(component: &Component, interface: &str) -> Result<()> {
    let ty = component.component_type();
    let types = ty.instance_type();
    let function = |name: &str| exported_function(component, interface, name);
    function("describe")?.typecheck::<(), (Description,)>(&types)?;
    function("start")?.typecheck::<(&str, &Payload), (Progress,)>(&types)?;
    function("resume")?.typecheck::<(&[Delivery],), (Progress,)>(&types)?;
    function("query")?.typecheck::<(&str, &Payload), (Answer,)>(&types)
}

/// What an activity or a query comes to.
type Answer = std::result::Result<Payload, Failure>;

fn exported_function(component: &Component, interface: &str, name: &str) -> Result<ComponentFunc> {
    let interface = component.get_export_index(None, interface);
    match component.get_export(interface.as_ref(), name) {
        Some((ComponentItem::ComponentFunc(function), _)) => Ok(function),
        _ => Err(format_err!("the component exports no function {name}")),
    }
}

fn function<S, P: WasmParams, R: WasmResults>(
    store: &mut Store<S>,
    instance: Instance,
    export: &ModuleExport,
) -> Result<TypedFunc<P, R>> {
    let found = instance.get_module_export(&mut *store, export).and_then(Extern::into_func);
    found.ok_or_else(|| format_err!("the core module exports something else than a function"))?.typed(store)
}

impl<P: WasmParams> Called<P> {
    fn of<S>(store: &mut Store<S>, instance: Instance, export: Export) -> Result<Self> {
        let post = export.post.map(|post| function(store, instance, &post)).transpose()?;
        Ok(Self { function: function(store, instance, &export.function)?, post })
    }

    /// Calls it, reads its answer and lets the guest clean up.
    fn call<S: Direct, T: Load>(&self, store: &mut Store<S>, words: P) -> Result<T> {
        let at = self.function.call(&mut *store, words)?;
        let memory = store.data().direct().asked()?.memory;
        let answer = memory::load(&Lift::new(memory.data(&*store)), at)?;
        if let Some(post) = &self.post {
            alone(&mut store.as_context_mut(), |store| post.call(store, at))?;
        }
        Ok(answer)
    }
}

impl DirectGuest {
    pub(super) fn start(
        &mut self,
        store: &mut Store<GuestState>,
        orchestration: &str,
        input: &Payload,
    ) -> Result<Progress> {
        let words = name_and_payload(store, orchestration, input)?;
        Called::of(store, self.instance, self.module.start)?.call(store, words)
    }

    pub(super) fn resume(&mut self, store: &mut Store<GuestState>, deliveries: &[Delivery]) -> Result<Progress> {
        let words = Lower::of(store.as_context_mut())?.list(deliveries)?;
        let called = match &self.resume {
            Some(called) => called,
            None => self.resume.insert(Called::of(store, self.instance, self.module.resume)?),
        };
        called.call(store, words)
    }

    pub(super) fn describe(&mut self, store: &mut Store<GuestState>) -> Result<Description> {
        Called::of(store, self.instance, self.module.describe)?.call(store, ())
    }

    pub(super) fn query(&mut self, store: &mut Store<GuestState>, name: &str, input: &Payload) -> Result<Answer> {
        let words = name_and_payload(store, name, input)?;
        Called::of(store, self.instance, self.module.query)?.call(store, words)
    }
}

/// The words of a name and of a payload, as they are passed.
type Words = (u32, u32, u32, u32, u32, u32);

fn name_and_payload<S: Direct>(store: &mut Store<S>, name: &str, payload: &Payload) -> Result<Words> {
    let mut guest = Lower::of(store.as_context_mut())?;
    let (name, name_len) = guest.bytes(name.as_bytes())?;
    let (media, media_len) = guest.bytes(payload.content_type.as_bytes())?;
    let (data, len) = guest.bytes(&payload.data)?;
    Ok((name, name_len, media, media_len, data, len))
}

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
//! Every other component (of JavaScript, of Python, made by hand), and every one in a sandbox
//! that inspects, is run by the component's runtime. That also checks the types of all of them,
//! of those called directly on a [`hollow`] copy.

mod contract;
mod handles;
mod hollow;
mod imports;
mod memory;
mod shape;
mod wasi;

use std::sync::Arc;

use wasmtime::component::{Component, types::ComponentItem};
use wasmtime::{AsContextMut as _, Engine, Extern, Instance, InstancePre, Linker, Memory, Module, ModuleExport};
use wasmtime::{Result, Store, StoreContextMut, TypedFunc, WasmParams, WasmResults, format_err};

use self::handles::Handles;
use self::memory::{Lift, Load, Lower};
use super::bindings::orchestration::exports::dacapo::workflow::guest::{Delivery, Description, Progress};
use super::guest::GuestState;
use super::types::{Failure, Payload};
use super::wasi::interface as wasi_interface;

pub(super) use self::hollow::hollow;
pub(super) use self::shape::{Plain, plain};

/// The interface of the contract's imports.
const CONTEXT: &str = "dacapo:workflow/context@0.1.";

/// A core module that is instantiated without its component.
pub(super) struct DirectModule {
    pre: InstancePre<GuestState>,
    engine: Engine,
    memory: ModuleExport,
    realloc: ModuleExport,
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
fn alone<T>(
    store: &mut StoreContextMut<'_, GuestState>,
    call: impl FnOnce(&mut StoreContextMut<'_, GuestState>) -> Result<T>,
) -> Result<T> {
    store.data_mut().direct.alone = true;
    let called = call(store);
    store.data_mut().direct.alone = false;
    called
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
        let named = |name: &str| module.get_export_index(name);
        let needed = |name: &str| named(name).ok_or_else(|| format_err!("the core module exports no {name}"));
        let export = |function: &str| {
            let name = format!("{interface}#{function}");
            Ok::<_, wasmtime::Error>(Export { function: needed(&name)?, post: named(&format!("cabi_post_{name}")) })
        };
        Ok(Self {
            memory: needed("memory")?,
            realloc: needed("cabi_realloc")?,
            start: export("start")?,
            resume: export("resume")?,
            query: export("query")?,
            describe: export("describe")?,
            pre: linker.instantiate_pre(module)?,
            engine: engine.clone(),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn instantiate(self: &Arc<Self>, store: &mut Store<GuestState>) -> Result<DirectGuest> {
        let instance = self.pre.instantiate(&mut *store)?;
        let Some(Extern::Memory(memory)) = instance.get_module_export(&mut *store, &self.memory) else {
            return Err(format_err!("the core module's memory is none"));
        };
        let realloc = function(store, instance, &self.realloc)?;
        store.data_mut().direct.parts = Some(Arc::new(Parts { memory, realloc }));
        Ok(DirectGuest { instance, module: self.clone(), resume: None })
    }
}

/// Whether the functions that `component` exports as `interface` have the contract's types. That
/// they have the right words only is not enough: another contract's may be as long.
pub(super) fn check_exports(component: &Component, interface: &str) -> Result<()> {
    type Answer = std::result::Result<Payload, Failure>;
    let ty = component.component_type();
    let types = ty.instance_type();
    let function = |name: &str| {
        let interface = component.get_export_index(None, interface);
        match component.get_export(interface.as_ref(), name) {
            Some((ComponentItem::ComponentFunc(function), _)) => Ok(function),
            _ => Err(format_err!("the component exports no function {name}")),
        }
    };
    function("describe")?.typecheck::<(), (Description,)>(&types)?;
    function("start")?.typecheck::<(&str, &Payload), (Progress,)>(&types)?;
    function("resume")?.typecheck::<(&[Delivery],), (Progress,)>(&types)?;
    function("query")?.typecheck::<(&str, &Payload), (Answer,)>(&types)
}

fn function<P: WasmParams, R: WasmResults>(
    store: &mut Store<GuestState>,
    instance: Instance,
    export: &ModuleExport,
) -> Result<TypedFunc<P, R>> {
    let found = instance.get_module_export(&mut *store, export).and_then(Extern::into_func);
    found.ok_or_else(|| format_err!("the core module exports something else than a function"))?.typed(store)
}

impl<P: WasmParams> Called<P> {
    fn of(store: &mut Store<GuestState>, instance: Instance, export: Export) -> Result<Self> {
        let post = export.post.map(|post| function(store, instance, &post)).transpose()?;
        Ok(Self { function: function(store, instance, &export.function)?, post })
    }

    /// Calls it, reads its answer and lets the guest clean up.
    fn call<T: Load>(&self, store: &mut Store<GuestState>, words: P) -> Result<T> {
        let at = self.function.call(&mut *store, words)?;
        let memory = store.data().direct.asked()?.memory;
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

    pub(super) fn query(
        &mut self,
        store: &mut Store<GuestState>,
        name: &str,
        input: &Payload,
    ) -> Result<std::result::Result<Payload, Failure>> {
        let words = name_and_payload(store, name, input)?;
        Called::of(store, self.instance, self.module.query)?.call(store, words)
    }
}

/// The words of a name and of a payload, as they are passed.
type Words = (u32, u32, u32, u32, u32, u32);

fn name_and_payload(store: &mut Store<GuestState>, name: &str, payload: &Payload) -> Result<Words> {
    let mut guest = Lower::of(store.as_context_mut())?;
    let (name, name_len) = guest.bytes(name.as_bytes())?;
    let (media, media_len) = guest.bytes(payload.content_type.as_bytes())?;
    let (data, len) = guest.bytes(&payload.data)?;
    Ok((name, name_len, media, media_len, data, len))
}

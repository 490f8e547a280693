//! The check at upload: is this a module, of which kind, and what does it want?
//!
//! Whatever a module imports beyond the contract and virtual WASI is refused
//! with the whole list, before it ever runs.

use wasmtime::Engine;
use wasmtime::component::{Component, types::ComponentItem};

use crate::store::ModuleKind;

/// Why bytes are not taken as a module.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Too many bytes.
    #[error("the module has {found} bytes, at most {limit} are taken; build it with opt-level = \"s\" and lto")]
    TooLarge {
        /// Bytes given.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not wasm, or broken.
    #[error("not a WebAssembly component: {0}; build it with cargo for wasm32-wasip2")]
    NotAComponent(String),
    /// A component of another world.
    #[error(
        "the component exports neither dacapo:workflow/guest nor dacapo:workflow/activities of version 0.1, found {found}; \
         end the crate with export_orchestrations!(..) or export_activities!(..)"
    )]
    WrongWorld {
        /// What it exports.
        found: String,
    },
    /// An orchestration that could learn something unrecorded, or wait.
    #[error(
        "an orchestration may not import {}; move that work to an activity",
        imports.join(", ")
    )]
    Forbidden {
        /// The imports at fault, by name.
        imports: Vec<String>,
    },
    /// Its `describe` did not answer.
    #[error("describe() of the module failed: {0}")]
    Describe(String),
    /// What it describes makes no sense.
    #[error("describe() of the module offers {0}")]
    Offer(String),
}

pub(super) const GUEST: &str = "dacapo:workflow/guest@0.1.";
pub(super) const ACTIVITIES: &str = "dacapo:workflow/activities@0.1.";

/// The component inside uploaded bytes: as given, or made from a core module
/// that carries the contract's types.
pub fn to_component(bytes: &[u8], limit: usize) -> Result<std::borrow::Cow<'_, [u8]>, Refused> {
    if bytes.len() > limit {
        return Err(Refused::TooLarge { found: bytes.len(), limit });
    }
    if wasmparser::Parser::is_component(bytes) {
        return Ok(bytes.into());
    }
    if !wasmparser::Parser::is_core_wasm(bytes) {
        let start: Vec<_> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
        return Err(Refused::NotAComponent(format!("expected the bytes 00 61 73 6d first, found {}", start.join(" "))));
    }
    let encode = || -> anyhow::Result<Vec<u8>> {
        wit_component::ComponentEncoder::default().module(bytes)?.validate(true).encode()
    };
    let component = encode().map_err(|error| Refused::NotAComponent(format!("a core module, and {error:#}")))?;
    if component.len() > limit {
        return Err(Refused::TooLarge { found: component.len(), limit });
    }
    Ok(component.into())
}

/// Which kind of module it is; refused if it is none, or wants too much.
pub(super) fn kind_of(component: &Component, engine: &Engine) -> Result<ModuleKind, Refused> {
    let exports: Vec<String> = component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect();
    if exports.iter().any(|name| name.starts_with(ACTIVITIES)) {
        return Ok(ModuleKind::Activity);
    }
    if !exports.iter().any(|name| name.starts_with(GUEST)) {
        let found = if exports.is_empty() { "no exports".to_owned() } else { exports.join(", ") };
        return Err(Refused::WrongWorld { found });
    }
    let imports: Vec<String> =
        component.component_type().imports(engine).flat_map(|(name, item)| forbidden(name, &item.ty, engine)).collect();
    if imports.is_empty() { Ok(ModuleKind::Orchestration) } else { Err(Refused::Forbidden { imports }) }
}

/// The names under `import` that an orchestration may not have.
fn forbidden(import: &str, item: &ComponentItem, engine: &Engine) -> Vec<String> {
    let contract = ["dacapo:workflow/context@0.1.", "dacapo:workflow/types@0.1."];
    if contract.iter().any(|name| import.starts_with(name)) {
        return Vec::new();
    }
    let Some(interface) = super::wasi::interface(import) else {
        return vec![import.to_owned()];
    };
    // `[method]pollable.block` is linked by the C library under standard output.
    // It may be there: all it can be given is an output stream, always ready.
    let waits = |function: &str| match interface {
        "io/poll" => function == "poll",
        "clocks/monotonic-clock" => function.starts_with("subscribe"),
        _ => false,
    };
    match interface.split_once('/') {
        Some(("cli" | "clocks" | "filesystem" | "io" | "random", _)) => match item {
            ComponentItem::ComponentInstance(instance) => instance
                .exports(engine)
                .filter(|(function, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)) && waits(function))
                .map(|(function, _)| format!("{import}#{function}"))
                .collect(),
            _ => Vec::new(),
        },
        _ => vec![import.to_owned()],
    }
}

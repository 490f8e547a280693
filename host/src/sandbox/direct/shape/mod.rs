//! Whether a component is no more than one core module, joined to its imports by their names.
//!
//! A guest that is built for wasm32-wasip2 is one core module in a component that wit-component has put around it.
//! Imports that need the module's memory, which exists only once the module does, go through a table: a shim module
//! calls its slots, and a fixup module fills them afterwards. All that says nothing that the names of the module's
//! own imports and exports do not say, so the host can link the module itself, provided that the component is of
//! exactly this shape. Any other is left to the component runtime: a "no" costs some speed, a wrong "yes" would be
//! another program.
//!
//! Only the shape is looked at here. That the parts fit by type follows if the component is also valid.

mod parts;
mod shim;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use wasmparser::{
    CanonicalOption, ComponentExternalKind, ComponentInstance, ComponentTypeRef, Encoding, Import, InstantiationArg,
    Parser, Payload, TypeRef,
};

use self::parts::{CoreFunc, Func, Instance, Item, Parts, all, at, few};
use self::shim::Shim;
use crate::sandbox::inspect;

/// An interface whose functions the host calls in the module itself.
#[derive(Clone, Copy)]
pub(in crate::sandbox) struct Contract {
    /// What its name starts with; any patch of this version is served alike.
    interface: &'static str,
    functions: &'static [&'static str],
}

/// What the host calls of orchestrations.
pub(in crate::sandbox) const GUEST: Contract =
    Contract { interface: inspect::GUEST, functions: &["describe", "start", "resume", "query"] };
/// What the host calls of activities: what they say of themselves they say as a component.
pub(in crate::sandbox) const ACTIVITIES: Contract = Contract { interface: inspect::ACTIVITIES, functions: &["run"] };

/// Names are looked up one after the other. No guest has as many as this, and with more it could take long.
const MANY: usize = 1000;

/// The one core module of a plain component, and what it is joined to.
///
/// That is not listed: each import is joined to the function of the same interface and name, and each function of an
/// exported interface is the module's export `INTERFACE#FUNCTION`.
pub(in crate::sandbox) struct Plain<'a> {
    /// The core module's bytes.
    pub(in crate::sandbox) module: &'a [u8],
    /// The exported interface that is called, with its version: what the names of its functions begin with.
    pub(in crate::sandbox) interface: &'a str,
}

/// The core module of a component in which all is joined by its own name and that exports what is to be called, or
/// none if anything is otherwise.
///
/// The component must have been validated, or be so before the module is run: this does not compare types.
pub(in crate::sandbox) fn plain(component: &[u8], contract: Contract) -> Option<Plain<'_>> {
    let parts = Parts::read(component)?;
    let (mains, others): (Vec<_>, Vec<_>) = (0..).zip(&parts.modules).partition(|(_, module)| has_memory(module));
    let [(index, module)] = mains[..] else { return None };
    let (main, arguments) = parts.instantiation(index)?;
    let shim = match others[..] {
        [] => None,
        [shim, fixup] => Some(parts.shim(shim, fixup)?),
        _ => return None,
    };
    let (imports, exports) = ends_of_main(module)?;
    let joints = Joints { parts: &parts, main, shim, exports };
    let joined =
        imports.len() < MANY && imports.iter().all(|&(from, name)| joints.import(arguments, from, name).is_some());
    let interface = joints.called(contract)?;
    (joined && joints.canonicals()).then_some(Plain { module, interface })
}

/// What a core module imports: from where, and by which name.
type Named<'a> = (&'a str, &'a str);

/// The parts of a component whose main module, and shim if it has one, are known.
struct Joints<'p, 'a> {
    parts: &'p Parts<'a>,
    /// The main module's instance.
    main: u32,
    shim: Option<Shim<'p, 'a>>,
    /// The names of what the main module exports.
    exports: HashSet<&'a str>,
}

impl<'a> Joints<'_, 'a> {
    /// Whether an import of the main module is joined to what it names.
    fn import(&self, arguments: &[InstantiationArg<'a>], from: &str, name: &str) -> Option<()> {
        let joined = match self.parts.core_func(self.parts.argument(arguments, from)?, name)? {
            CoreFunc::Alias((instance, slot)) => {
                let shim = self.shim.as_ref().filter(|shim| shim.instance == *instance)?;
                self.lowers(self.parts.core_func(shim.slots, slot)?, from, name)
            }
            CoreFunc::Drop(resource) => {
                let resource = (*at(&self.parts.types, *resource)?)?;
                self.is_imported(resource, from, name.strip_prefix("[resource-drop]")?)
            }
            lower @ CoreFunc::Lower(..) => self.lowers(lower, from, name),
        };
        joined.then_some(())
    }

    fn lowers(&self, func: &CoreFunc<'_>, from: &str, name: &str) -> bool {
        let CoreFunc::Lower(func, _) = func else { return false };
        matches!(at(&self.parts.funcs, *func), Some(Func::Alias(item)) if self.is_imported(*item, from, name))
    }

    fn is_imported(&self, (instance, own): Item<'_>, from: &str, name: &str) -> bool {
        let imported = |interface| same_interface(from, interface);
        own == name && matches!(at(&self.parts.instances, instance), Some(Instance::Imported(i)) if imported(i))
    }

    /// Whether all that is lifted and lowered uses the main module's memory, in the way that the host would.
    fn canonicals(&self) -> bool {
        let lifts = self.parts.funcs.iter().all(|func| match func {
            Func::Alias(_) => true,
            Func::Lift(func, options) => self.exported(*func).is_some_and(|name| {
                let memory = options.iter().any(|option| matches!(option, CanonicalOption::Memory(_)));
                let returns = options.iter().any(|option| matches!(option, CanonicalOption::PostReturn(_)));
                let post_return = format!("cabi_post_{name}");
                // The host finds that function by its name, so it must not be there unused.
                let returns_by_name = returns == self.exports.contains(&post_return[..]);
                name.contains('#') && memory && returns_by_name && self.usual(options, Some(&post_return))
            }),
        });
        let lowers = self.parts.core_funcs.iter().all(|func| match func {
            CoreFunc::Lower(_, options) => self.usual(options, None),
            CoreFunc::Alias(_) | CoreFunc::Drop(_) => true,
        });
        lifts && lowers
    }

    fn usual(&self, options: &[CanonicalOption], post_return: Option<&str>) -> bool {
        options.iter().all(|option| match *option {
            CanonicalOption::UTF8 => true,
            CanonicalOption::Memory(memory) => at(&self.parts.core_memories, memory) == Some(&(self.main, "memory")),
            CanonicalOption::Realloc(func) => self.exported(func) == Some("cabi_realloc"),
            CanonicalOption::PostReturn(func) => post_return.is_some() && self.exported(func) == post_return,
            _ => false,
        })
    }

    /// The name of a core function that the main module exports.
    fn exported(&self, func: u32) -> Option<&'a str> {
        match at(&self.parts.core_funcs, func)? {
            CoreFunc::Alias((instance, name)) if *instance == self.main => Some(name),
            _ => None,
        }
    }

    /// The name of the interface that is called, if all exported ones lead to the main module's exports of their
    /// names, and one is that.
    fn called(&self, contract: Contract) -> Option<&'a str> {
        (self.parts.exports.len() < MANY / 10).then_some(())?;
        let mut found = Vec::new();
        for &(interface, instance) in &self.parts.exports {
            let Instance::Other(ComponentInstance::Instantiate { component_index, args }) =
                at(&self.parts.instances, instance)?
            else {
                return None;
            };
            (args.len() < MANY).then_some(())?;
            let names = passed_on(at(&self.parts.components, *component_index)?)?;
            for name in &names {
                let argument = args.iter().find(|argument| argument.name.strip_prefix(PASSED) == Some(name))?;
                let Func::Lift(func, _) = at(&self.parts.funcs, argument.index)? else { return None };
                (self.exported(*func)? == format!("{interface}#{name}")).then_some(())?;
            }
            if interface.starts_with(contract.interface) && contract.functions.iter().all(|name| names.contains(name)) {
                found.push(interface);
            }
        }
        let [found] = found[..] else { return None };
        Some(found)
    }
}

/// What the names of functions start with that are given to the component which makes an interface of them.
const PASSED: &str = "import-func-";

/// The functions that such a component exports, if it only gives types and its own imports of their names.
fn passed_on(component: &[u8]) -> Option<Vec<&str>> {
    let (mut funcs, mut names) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(component) {
        match payload.ok()? {
            Payload::Version { encoding: Encoding::Component, .. } | Payload::CustomSection(_) | Payload::End(_) => {}
            Payload::ComponentTypeSection(_) => {}
            Payload::ComponentImportSection(imports) => {
                for import in all(imports)? {
                    match import.ty {
                        ComponentTypeRef::Func(_) => funcs.push(import.name.name.strip_prefix(PASSED)?),
                        ComponentTypeRef::Type(_) => {}
                        _ => return None,
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in all(exports)? {
                    match export.kind {
                        ComponentExternalKind::Func => {
                            let name = export.name.name;
                            (*at(&funcs, export.index)? == name).then_some(())?;
                            funcs.push(name);
                            names.push(name);
                        }
                        ComponentExternalKind::Type => {}
                        _ => return None,
                    }
                }
            }
            _ => return None,
        }
    }
    Some(names)
}

/// The main module's imports and exports by name, if the imports are functions, and if nothing runs before the host
/// calls it: what a start function imports through the shim would trap in the component, as the fixup comes later.
fn ends_of_main(module: &[u8]) -> Option<(Vec<Named<'_>>, HashSet<&str>)> {
    let (mut found, mut exported) = (Vec::new(), HashSet::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                few(imports.count())?;
                for import in imports.into_imports() {
                    let Import { module, name, ty: TypeRef::Func(_) } = import.ok()? else { return None };
                    found.push((module, name));
                }
            }
            Payload::ExportSection(exports) => exported.extend(all(exports)?.iter().map(|export| export.name)),
            Payload::MemorySection(memories) => {
                let [memory] = all(memories)?[..] else { return None };
                let usual = !memory.memory64 && !memory.shared && memory.page_size_log2.is_none();
                usual.then_some(())?;
            }
            Payload::Version { encoding: Encoding::Component, .. } | Payload::StartSection { .. } => return None,
            _ => {}
        }
    }
    Some((found, exported))
}

fn has_memory(module: &[u8]) -> bool {
    Parser::new(0).parse_all(module).any(|payload| matches!(payload, Ok(Payload::MemorySection(_))))
}

/// Whether a core import means an imported interface: it may be of another patch, as wit-component joins these.
fn same_interface(core: &str, interface: &str) -> bool {
    let compatible = |(name, version), (other, other_version)| {
        name == other && line(version).is_some_and(|line_of_one| Some(line_of_one) == line(other_version))
    };
    core == interface || core.split_once('@').zip(interface.split_once('@')).is_some_and(|(a, b)| compatible(a, b))
}

/// The major and minor number of a version that has only a patch number besides.
fn line(version: &str) -> Option<(&str, &str)> {
    let mut numbers = version.split('.').filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let line = (numbers.next()?, numbers.next()?);
    (numbers.next().is_some() && version.split('.').count() == 3).then_some(line)
}

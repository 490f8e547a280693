//! The index spaces of a component: what its sections define, alias and put together.

use wasmparser::{
    CanonicalFunction, CanonicalOption, Chunk, ComponentAlias, ComponentExport, ComponentExternalKind,
    ComponentInstance, ComponentTypeRef, Encoding, Export, ExternalKind, FromReader, Instance as CoreInstance,
    InstantiationArg, Parser, Payload, SectionLimited,
};

/// An export of the instance with this index, in the index space of the one who refers to it.
pub(super) type Item<'a> = (u32, &'a str);

pub(super) enum Instance<'a> {
    Imported(&'a str),
    Other(ComponentInstance<'a>),
    /// What an export adds to the index space; nothing in a plain component refers to it.
    Exported,
}

pub(super) enum Func<'a> {
    Alias(Item<'a>),
    Lift(u32, Box<[CanonicalOption]>),
}

pub(super) enum CoreFunc<'a> {
    Alias(Item<'a>),
    Lower(u32, Box<[CanonicalOption]>),
    Drop(u32),
}

/// The index spaces of a component, without those inside its modules and components.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub(super) modules: Vec<&'a [u8]>,
    pub(super) components: Vec<&'a [u8]>,
    /// None: a type that is not another instance's export.
    pub(super) types: Vec<Option<Item<'a>>>,
    pub(super) instances: Vec<Instance<'a>>,
    pub(super) funcs: Vec<Func<'a>>,
    pub(super) core_instances: Vec<CoreInstance<'a>>,
    pub(super) core_funcs: Vec<CoreFunc<'a>>,
    pub(super) core_memories: Vec<Item<'a>>,
    pub(super) core_tables: Vec<Item<'a>>,
    /// Exported instances by name.
    pub(super) exports: Vec<(&'a str, u32)>,
    /// Items of all sections so far.
    items: u32,
}

impl<'a> Parts<'a> {
    pub(super) fn read(component: &'a [u8]) -> Option<Self> {
        let mut parts = Self::default();
        let mut parser = Parser::new(0);
        let mut position = 0;
        loop {
            let Chunk::Parsed { consumed, payload } = parser.parse(component.get(position..)?, true).ok()? else {
                return None;
            };
            position += consumed;
            match payload {
                // What is nested is stepped over: it has index spaces of its own.
                Payload::ModuleSection { unchecked_range: range, .. } => {
                    position = range.end;
                    parts.modules.push(component.get(range)?);
                }
                Payload::ComponentSection { unchecked_range: range, .. } => {
                    position = range.end;
                    parts.components.push(component.get(range)?);
                }
                Payload::End(_) => return Some(parts),
                payload => parts.section(payload)?,
            }
        }
    }

    /// The items of one more section.
    fn all<T: FromReader<'a>>(&mut self, section: SectionLimited<'a, T>) -> Option<Vec<T>> {
        self.items = self.items.saturating_add(section.count());
        few(self.items)?;
        all(section)
    }

    fn section(&mut self, payload: Payload<'a>) -> Option<()> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } | Payload::CustomSection(_) => {}
            Payload::ComponentTypeSection(types) => {
                let types = self.all(types)?;
                self.types.extend(types.iter().map(|_| None));
            }
            Payload::ComponentImportSection(imports) => {
                for import in self.all(imports)? {
                    let ComponentTypeRef::Instance(_) = import.ty else { return None };
                    self.instances.push(Instance::Imported(import.name.name));
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                self.all(aliases)?.into_iter().try_for_each(|one| self.alias(one))?
            }
            Payload::ComponentCanonicalSection(funcs) => {
                self.all(funcs)?.into_iter().try_for_each(|one| self.canonical(one))?
            }
            Payload::InstanceSection(instances) => {
                let instances = self.all(instances)?;
                self.core_instances.extend(instances);
            }
            Payload::ComponentInstanceSection(instances) => {
                let instances = self.all(instances)?;
                self.instances.extend(instances.into_iter().map(Instance::Other));
            }
            Payload::ComponentExportSection(exports) => {
                self.all(exports)?.iter().try_for_each(|one| self.export(one))?
            }
            // Start functions, values, and what is not known here.
            _ => return None,
        }
        Some(())
    }

    fn alias(&mut self, alias: ComponentAlias<'a>) -> Option<()> {
        match alias {
            ComponentAlias::InstanceExport { kind, instance_index, name } => match kind {
                ComponentExternalKind::Func => self.funcs.push(Func::Alias((instance_index, name))),
                ComponentExternalKind::Type => self.types.push(Some((instance_index, name))),
                _ => return None,
            },
            ComponentAlias::CoreInstanceExport { kind, instance_index, name } => match kind {
                ExternalKind::Func => self.core_funcs.push(CoreFunc::Alias((instance_index, name))),
                ExternalKind::Memory => self.core_memories.push((instance_index, name)),
                ExternalKind::Table => self.core_tables.push((instance_index, name)),
                _ => return None,
            },
            ComponentAlias::Outer { .. } => return None,
        }
        Some(())
    }

    fn canonical(&mut self, canonical: CanonicalFunction) -> Option<()> {
        match canonical {
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                self.funcs.push(Func::Lift(core_func_index, options));
            }
            CanonicalFunction::Lower { func_index, options } => {
                self.core_funcs.push(CoreFunc::Lower(func_index, options));
            }
            CanonicalFunction::ResourceDrop { resource } => self.core_funcs.push(CoreFunc::Drop(resource)),
            _ => return None,
        }
        Some(())
    }

    fn export(&mut self, export: &ComponentExport<'a>) -> Option<()> {
        match export.kind {
            ComponentExternalKind::Instance => {
                self.exports.push((export.name.name, export.index));
                self.instances.push(Instance::Exported);
            }
            ComponentExternalKind::Type => self.types.push(None),
            _ => return None,
        }
        Some(())
    }

    /// The only instance of a module, and what it was given.
    pub(super) fn instantiation(&self, module: u32) -> Option<(u32, &[InstantiationArg<'a>])> {
        let mut found = (0..).zip(&self.core_instances).filter_map(|(index, instance)| match instance {
            CoreInstance::Instantiate { module_index, args } if *module_index == module => Some((index, &args[..])),
            _ => None,
        });
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// What an instance was given by this name, if that was put together from single exports.
    pub(super) fn argument(&self, arguments: &[InstantiationArg<'_>], name: &str) -> Option<&[Export<'a>]> {
        let argument = arguments.iter().find(|argument| argument.name == name)?;
        match at(&self.core_instances, argument.index)? {
            CoreInstance::FromExports(exports) => Some(exports),
            CoreInstance::Instantiate { .. } => None,
        }
    }

    pub(super) fn core_func(&self, exports: &[Export<'a>], name: &str) -> Option<&CoreFunc<'a>> {
        let export = exports.iter().find(|export| export.name == name && export.kind == ExternalKind::Func)?;
        at(&self.core_funcs, export.index)
    }
}

/// The item of that index.
pub(super) fn at<T>(items: &[T], index: u32) -> Option<&T> {
    items.get(usize::try_from(index).ok()?)
}

/// More items than this are in no guest. This is read before anything has checked how many there
/// are, and each takes more memory than it has bytes.
const MOST: u32 = 100_000;

pub(super) fn few(items: u32) -> Option<()> {
    (items <= MOST).then_some(())
}

/// The items of a section, if all of them can be read.
pub(super) fn all<'a, T: FromReader<'a>>(section: SectionLimited<'a, T>) -> Option<Vec<T>> {
    few(section.count())?;
    section.into_iter().collect::<Result<_, _>>().ok()
}

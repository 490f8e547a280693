//! The shim that passes calls on to a table, and the fixup that fills it.

use wasmparser::{
    Element, ElementItems, ElementKind, Encoding, Export, ExternalKind, FuncType, FunctionBody, Operator, Parser,
    Payload, Table, TableInit, TypeRef, TypeSectionReader,
};

use super::parts::{Parts, all, at, few};

/// The name of the table that the shim calls through and the fixup fills.
const SLOTS: &str = "$imports";

/// The instance through which imports are called that need the main module's memory.
pub(super) struct Shim<'p, 'a> {
    pub(super) instance: u32,
    /// What the fixup fills the table with, by slot.
    pub(super) slots: &'p [Export<'a>],
}

impl<'a> Parts<'a> {
    /// The shim's instance, if it and the fixup do nothing but pass each call on, and to the table that is filled.
    pub(super) fn shim(&self, shim: (u32, &&[u8]), fixup: (u32, &&[u8])) -> Option<Shim<'_, 'a>> {
        let (instance, []) = self.instantiation(shim.0)? else { return None };
        let (_, arguments) = self.instantiation(fixup.0)?;
        let slots = self.argument(arguments, "")?;
        let table = slots.iter().find(|export| export.name == SLOTS && export.kind == ExternalKind::Table)?;
        let filled = *at(&self.core_tables, table.index)? == (instance, SLOTS);
        // With equal signatures, no call through the table can trap for being of another type.
        (filled && signatures_of_shim(shim.1)? == signatures_of_fixup(fixup.1)?).then_some(Shim { instance, slots })
    }
}

/// The signatures that a module declares.
fn signatures(section: TypeSectionReader<'_>) -> Option<Vec<FuncType>> {
    few(section.count())?;
    section.into_iter_err_on_gc_types().collect::<Result<_, _>>().ok()
}

/// The signatures of the shim's functions, if function K is exported as "K" and only calls slot K.
fn signatures_of_shim(module: &[u8]) -> Option<Vec<FuncType>> {
    let (mut types, mut funcs, mut size, mut slot) = (Vec::new(), Vec::new(), None, 0);
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::Version { encoding: Encoding::Module, .. } | Payload::CustomSection(_) | Payload::End(_) => {}
            Payload::TypeSection(section) => types = signatures(section)?,
            Payload::FunctionSection(section) => funcs = all(section)?,
            Payload::TableSection(section) => {
                let [Table { ty, init: TableInit::RefNull }] = &all(section)?[..] else { return None };
                size = Some(ty.initial);
            }
            Payload::ExportSection(section) => {
                let own = |export: &Export<'_>| match export.kind {
                    ExternalKind::Func => export.name == export.index.to_string(),
                    kind => kind == ExternalKind::Table && export.name == SLOTS,
                };
                all(section)?.iter().all(own).then_some(())?;
            }
            Payload::CodeSectionStart { .. } => {}
            Payload::CodeSectionEntry(body) => {
                let func = *at(&funcs, slot)?;
                calls_slot(&body, slot, func, at(&types, func)?)?;
                slot += 1;
            }
            _ => return None,
        }
    }
    (size == Some(u64::from(slot))).then_some(())?;
    funcs.into_iter().map(|func| at(&types, func).cloned()).collect()
}

/// Whether a function passes its parameters to a slot of the table and does nothing else.
fn calls_slot(body: &FunctionBody<'_>, slot: u32, own: u32, ty: &FuncType) -> Option<()> {
    let mut code = body.get_operators_reader().ok()?;
    let parameters = u32::try_from(ty.params().len()).ok()?;
    let mut plain = body.get_locals_reader().ok()?.get_count() == 0;
    for parameter in 0..parameters {
        plain &= matches!(code.read().ok()?, Operator::LocalGet { local_index } if local_index == parameter);
    }
    plain &= matches!(code.read().ok()?, Operator::I32Const { value } if u32::try_from(value) == Ok(slot));
    plain &= matches!(code.read().ok()?, Operator::CallIndirect { type_index, table_index: 0 } if type_index == own);
    plain &= matches!(code.read().ok()?, Operator::End);
    (plain && code.eof()).then_some(())
}

/// The signatures of the fixup's imports, if they are named after the slots that it puts them in, and it does no more.
fn signatures_of_fixup(module: &[u8]) -> Option<Vec<FuncType>> {
    let (mut types, mut funcs, mut tables, mut filled) = (Vec::new(), Vec::new(), 0, None);
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::Version { encoding: Encoding::Module, .. } | Payload::CustomSection(_) | Payload::End(_) => {}
            Payload::TypeSection(section) => types = signatures(section)?,
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.ok()?;
                    match (import.module, import.ty) {
                        ("", TypeRef::Func(ty)) if import.name == funcs.len().to_string() => funcs.push(ty),
                        ("", TypeRef::Table(_)) if import.name == SLOTS => tables += 1,
                        _ => return None,
                    }
                }
            }
            Payload::ElementSection(section) => {
                let [segment] = &all(section)?[..] else { return None };
                filled = Some(slots_filled(segment)?);
            }
            _ => return None,
        }
    }
    let in_order = (0..).zip(&funcs).map(|(slot, _)| slot).eq(filled?);
    (in_order && tables == 1).then_some(())?;
    funcs.into_iter().map(|func| at(&types, func).cloned()).collect()
}

/// The functions that a segment puts into the first table, from its first slot on.
fn slots_filled(segment: &Element<'_>) -> Option<Vec<u32>> {
    let ElementKind::Active { table_index: None | Some(0), offset_expr } = &segment.kind else { return None };
    let mut offset = offset_expr.get_operators_reader();
    let first = matches!(offset.read().ok()?, Operator::I32Const { value: 0 });
    let only = matches!(offset.read().ok()?, Operator::End);
    let ElementItems::Functions(items) = &segment.items else { return None };
    (first && only).then(|| all(items.clone()))?
}

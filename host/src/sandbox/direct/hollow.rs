//! A component with all its types and none of its main module's code, which is compiled in no
//! time: it serves to have the component's runtime check the types.

use wasm_encoder::{
    CodeSection, Component, ExportKind, ExportSection, Function, FunctionSection, Module, ModuleSection, RawSection,
    SectionId,
};
use wasmparser::{Chunk, ExternalKind, Parser, Payload, TypeRef};

use super::shape::Plain;

/// The component around `plain` with its module made hollow; none if it cannot be read.
pub(in crate::sandbox) fn hollow(component: &[u8], plain: &Plain<'_>) -> Option<Vec<u8>> {
    let mut made = Component::new();
    let (mut parser, mut position) = (Parser::new(0), 0);
    loop {
        let Chunk::Parsed { consumed, payload } = parser.parse(component.get(position..)?, true).ok()? else {
            return None;
        };
        position += consumed;
        if let Payload::End(_) = payload {
            return Some(made.finish());
        }
        let Some((id, range)) = payload.as_section() else { continue };
        position = range.end;
        let data = component.get(range)?;
        if data.as_ptr() == plain.module.as_ptr() {
            made.section(&ModuleSection(&hollow_module(data)?));
        } else {
            made.section(&RawSection { id, data });
        }
    }
}

/// The module with its imports, exports and types. Of its own functions the exported ones are
/// there, and trap: to compile all of them, thousands, takes longer than it looks.
fn hollow_module(module: &[u8]) -> Option<Module> {
    let (functions, exports) = exported(module)?;
    let dropped = [SectionId::Custom, SectionId::Start, SectionId::Element, SectionId::DataCount, SectionId::Data];
    let mut made = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::FunctionSection(_) => {
                made.section(&functions);
            }
            Payload::ExportSection(_) => {
                made.section(&exports);
            }
            Payload::CodeSectionStart { .. } => {
                let mut code = CodeSection::new();
                (0..functions.len()).for_each(|_| {
                    let mut function = Function::new([]);
                    function.instructions().unreachable().end();
                    code.function(&function);
                });
                made.section(&code);
            }
            Payload::CodeSectionEntry(_) => {}
            payload => {
                if let Some((id, range)) = payload.as_section()
                    && dropped.iter().all(|dropped| *dropped as u8 != id)
                {
                    made.section(&RawSection { id, data: module.get(range)? });
                }
            }
        }
    }
    Some(made)
}

/// The module's own functions that it exports, by their types, and all of its exports with the
/// numbers that these functions have among themselves.
fn exported(module: &[u8]) -> Option<(FunctionSection, ExportSection)> {
    let (mut imported, mut types) = (0, Vec::new());
    let (mut functions, mut exports) = (FunctionSection::new(), ExportSection::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imported += u32::from(matches!(import.ok()?.ty, TypeRef::Func(_)));
                }
            }
            Payload::FunctionSection(section) => types = section.into_iter().collect::<Result<Vec<_>, _>>().ok()?,
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.ok()?;
                    let kind = match export.kind {
                        ExternalKind::Func => ExportKind::Func,
                        ExternalKind::Table => ExportKind::Table,
                        ExternalKind::Memory => ExportKind::Memory,
                        ExternalKind::Global => ExportKind::Global,
                        _ => return None,
                    };
                    let mut index = export.index;
                    if kind == ExportKind::Func && index >= imported {
                        functions.function(*types.get((index - imported) as usize)?);
                        index = imported + functions.len() - 1;
                    }
                    exports.export(export.name, kind, index);
                }
            }
            _ => {}
        }
    }
    Some((functions, exports))
}

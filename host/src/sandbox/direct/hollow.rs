//! A component with all its types and none of its main module's code, which is compiled in no
//! time: it serves to have the component's runtime check the types.

use wasm_encoder::{CodeSection, Component, Function, Module, ModuleSection, RawSection, SectionId};
use wasmparser::{Chunk, Parser, Payload};

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

/// The module with its imports, exports and types: each of its functions traps.
fn hollow_module(module: &[u8]) -> Option<Module> {
    let dropped = [SectionId::Custom, SectionId::Element, SectionId::DataCount, SectionId::Code, SectionId::Data];
    let mut made = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.ok()?;
        if let Payload::CodeSectionStart { count, .. } = payload {
            let mut code = CodeSection::new();
            (0..count).for_each(|_| {
                let mut function = Function::new([]);
                function.instructions().unreachable().end();
                code.function(&function);
            });
            made.section(&code);
        } else if let Some((id, range)) = payload.as_section()
            && !matches!(payload, Payload::CodeSectionEntry(_))
            && dropped.iter().all(|dropped| *dropped as u8 != id)
        {
            made.section(&RawSection { id, data: module.get(range)? });
        }
    }
    Some(made)
}

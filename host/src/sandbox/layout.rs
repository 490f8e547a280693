//! What of a module decides whether a guest's state can be copied out and back.
//!
//! Between turns the state of a guest is its memories and its mutable globals,
//! provided that its code changes nothing else: tables and passive segments. Its
//! dead stack is known by name where the compiler left one.

use wasmparser::{BinaryReaderError, Operator, Parser, Payload};

/// Read once for each module of an inspecting sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// What the code changes that a snapshot has not; none: nothing.
    pub(super) beyond: Option<&'static str>,
    /// Where the stack of the one module with a memory is.
    pub(super) stack: Option<Stack>,
}

/// A stack that grows from `top` down to address 0, below all data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stack {
    /// The index of the global that points to its end.
    pub(super) pointer: u32,
    /// Where that points between turns: all below is dead.
    pub(super) top: u32,
}

impl Layout {
    /// Reads a component with all its core modules.
    pub(super) fn of(component: &[u8]) -> Result<Self, BinaryReaderError> {
        let mut layout = Self::default();
        let mut cores: Vec<Core> = Vec::new();
        let mut imported_globals = 0;
        for payload in Parser::new(0).parse_all(component) {
            match payload? {
                Payload::Version { encoding: wasmparser::Encoding::Module, .. } => {
                    cores.push(Core::default());
                    imported_globals = 0;
                }
                payload => {
                    let Some(core) = cores.last_mut() else { continue };
                    core.read(payload, &mut imported_globals, &mut layout.beyond)?;
                }
            }
        }
        cores.retain(|core| core.has_memory);
        if let [core] = &cores[..] {
            layout.stack = core.stack();
        }
        Ok(layout)
    }
}

#[derive(Default)]
struct Core {
    has_memory: bool,
    /// First values of its own globals, where they are plain 32-bit constants.
    globals: Vec<(u32, u32)>,
    lowest_data: Option<u32>,
    pointer: Option<u32>,
}

impl Core {
    fn read(
        &mut self,
        payload: Payload<'_>,
        imported_globals: &mut u32,
        beyond: &mut Option<&'static str>,
    ) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if let wasmparser::TypeRef::Global(_) = import?.ty {
                        *imported_globals += 1;
                    }
                }
            }
            Payload::MemorySection(memories) => self.has_memory |= memories.count() > 0,
            Payload::GlobalSection(globals) => {
                for (index, global) in (*imported_globals..).zip(globals) {
                    if let Some(value) = constant(&global?.init_expr)? {
                        self.globals.push((index, value));
                    }
                }
            }
            Payload::DataSection(segments) => {
                for segment in segments {
                    if let wasmparser::DataKind::Active { offset_expr, .. } = segment?.kind {
                        // An offset that is no constant is taken for the lowest.
                        let offset = constant(&offset_expr)?.unwrap_or(0);
                        self.lowest_data = Some(self.lowest_data.map_or(offset, |lowest| lowest.min(offset)));
                    }
                }
            }
            Payload::CodeSectionEntry(body) if beyond.is_none() => {
                let mut operators = body.get_operators_reader()?;
                while beyond.is_none() && !operators.eof() {
                    *beyond = beyond_memory(&operators.read()?);
                }
            }
            Payload::CustomSection(section) => {
                if let wasmparser::KnownCustom::Name(names) = section.as_known() {
                    self.pointer = named_stack_pointer(names);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn stack(&self) -> Option<Stack> {
        let pointer = self.pointer?;
        let top = self.globals.iter().find(|(index, _)| *index == pointer)?.1;
        // Only where it lies below everything else: its end is then address 0.
        self.lowest_data.is_none_or(|lowest| lowest >= top).then_some(Stack { pointer, top })
    }
}

fn constant(expression: &wasmparser::ConstExpr<'_>) -> Result<Option<u32>, BinaryReaderError> {
    Ok(match expression.get_operators_reader().read()? {
        Operator::I32Const { value } => Some(value as u32),
        _ => None,
    })
}

fn beyond_memory(operator: &Operator<'_>) -> Option<&'static str> {
    match operator {
        Operator::TableSet { .. }
        | Operator::TableGrow { .. }
        | Operator::TableFill { .. }
        | Operator::TableCopy { .. }
        | Operator::TableInit { .. } => Some("its code changes tables"),
        Operator::DataDrop { .. } | Operator::ElemDrop { .. } => Some("its code drops segments"),
        _ => None,
    }
}

fn named_stack_pointer(names: wasmparser::NameSectionReader<'_>) -> Option<u32> {
    for subsection in names {
        if let Ok(wasmparser::Name::Global(globals)) = subsection {
            return globals.into_iter().flatten().find(|naming| naming.name == "__stack_pointer").map(|n| n.index);
        }
    }
    None
}

//! Where a guest is: its own lines of source, from the backtrace that wasmtime
//! takes when a guest is stopped. Inlined functions are frames of their own.

use wasmtime::WasmBacktrace;

use crate::core::divergence::SourceLine;

/// The guest's own source lines at the time of `error`, the innermost first: what
/// the language, the SDK and other crates do below and between is left out.
pub(super) fn source_lines(error: &wasmtime::Error) -> Vec<SourceLine> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    let symbols = backtrace.frames().iter().flat_map(|frame| frame.symbols());
    let lines = symbols.filter_map(|symbol| {
        let (function, file, line) = (symbol.name().unwrap_or("?"), symbol.file()?, symbol.line()?);
        let own = line > 0 && !is_machinery(function) && !is_others(file);
        own.then(|| SourceLine { function: readable(function), file: file.to_owned(), line })
    });
    let mut lines: Vec<SourceLine> = lines.collect();
    // What the SDK's macros put around an orchestration stands in the guest's file, too.
    if lines.last().is_some_and(|outer| outer.function.starts_with("export_")) {
        lines.pop();
        if lines.len() > 1 && lines.last().is_some_and(|outer| outer.function == "{async_block#0}") {
            lines.pop();
        }
    }
    lines
}

/// The innermost frames of the guest's own, for people.
pub(super) fn where_it_was(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return "no frame is known".to_owned();
    };
    let frames: Vec<String> = backtrace
        .frames()
        .iter()
        .flat_map(|frame| {
            let symbols = frame.symbols().iter().map(|symbol| {
                let name = symbol.name().unwrap_or("?").to_owned();
                match (symbol.file(), symbol.line()) {
                    (Some(file), Some(line)) => format!("{name} ({file}:{line})"),
                    _ => name,
                }
            });
            let symbols: Vec<_> = symbols.collect();
            if symbols.is_empty() { vec![frame.func_name().unwrap_or("?").to_owned()] } else { symbols }
        })
        .filter(|frame| !is_machinery(frame))
        .take(4)
        .collect();
    if frames.is_empty() { "no frame is known".to_owned() } else { format!("in {}", frames.join(", called by ")) }
}

fn is_machinery(frame: &str) -> bool {
    let prefixes = [
        "std::", "core::", "alloc::", "<alloc::", "<core::", "<std::", "__rust", "rust_", "abort", "dlmalloc", "__rdl",
    ];
    prefixes.iter().any(|prefix| frame.trim_start_matches('_').starts_with(prefix) || frame.starts_with(prefix))
}

/// Sources of the standard library, of registries and of the SDK.
fn is_others(file: &str) -> bool {
    ["/rustc/", "/rustlib/src/", "/registry/src/", "/git/checkouts/", "/guest-sdk/", "/dacapo-sdk/"]
        .iter()
        .any(|part| file.contains(part) || file.starts_with(&part[1..]))
}

/// `trip_booking::trip_booking` for what an async function becomes.
fn readable(function: &str) -> String {
    let mut name = function;
    while let Some(outer) = name.strip_suffix("::{{closure}}").or_else(|| name.strip_suffix("::{closure#0}")) {
        name = outer;
    }
    name.to_owned()
}

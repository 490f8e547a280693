//! The one place that writes to stdout and stderr.
//!
//! Results go to stdout, everything else to stderr. Text that guests or callers
//! chose is shown without its control characters, so that it cannot move the
//! cursor of whoever looks at it.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

/// A line on stdout. Whoever reads it may leave early.
pub(crate) fn out(line: impl Display) {
    write_all(format!("{line}\n").as_bytes());
}

/// Bytes on stdout, as they are.
pub(crate) fn write_all(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // Nobody reads on, or nothing can be written: there is nobody to tell.
        let read_enough = error.kind() == io::ErrorKind::BrokenPipe;
        std::process::exit(if read_enough { 0 } else { 5 });
    }
}

/// A line on stderr.
pub(crate) fn err(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// JSON on stdout: indented for people, one line for programs.
pub(crate) fn json(value: &Value) {
    let text =
        if io::stdout().is_terminal() { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    out(text.expect("a JSON value can be written"));
}

/// `text` without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// What a list says of an instance: why it failed, or its own status.
pub(crate) fn note(row: &Value) -> String {
    let name = if row["error"].is_null() { "custom_status" } else { "error" };
    field(row, name)
}

/// `text` on one line, at most `width` characters.
pub(crate) fn brief(text: &str, width: usize) -> String {
    let line = clean(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if line.chars().count() <= width {
        return line;
    }
    line.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
}

/// Rows in aligned columns under a heading; the last column is as wide as it is.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| brief(&cell, 200)).collect());
    }

    /// Writes it to stdout.
    pub(crate) fn print(&self) {
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row: &Vec<String>| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            out(cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

/// A field of a JSON object as people read it.
pub(crate) fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

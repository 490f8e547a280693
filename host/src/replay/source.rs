//! The text of source lines, where the sources are at hand.
//!
//! A module names the files it was built from, not what was in them: a file that
//! was changed since then shows its new text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::core::divergence::{Divergence, Report, SourceLine};

/// Finds and reads sources. Cheap to ask again.
#[derive(Debug, Default)]
pub struct Sources {
    base: PathBuf,
    files: HashMap<String, Option<Vec<String>>>,
}

impl Sources {
    /// Sources as seen from a folder.
    pub fn from(base: &Path) -> Self {
        Self { base: base.to_owned(), files: HashMap::new() }
    }

    /// Sources as seen from where this process is.
    pub fn here() -> Self {
        Self::from(&std::env::current_dir().unwrap_or_default())
    }

    /// `file:line in function`, with the file as one would write it here.
    pub fn place(&self, source: &SourceLine) -> String {
        let file = Path::new(&source.file);
        let file = file.strip_prefix(&self.base).unwrap_or(file).display().to_string();
        SourceLine { file, ..source.clone() }.to_string()
    }

    /// The line's text without its indentation. A line that goes on with what an
    /// earlier one began (`.await?`) has that one's text before it.
    pub fn text(&mut self, source: &SourceLine) -> Option<String> {
        let lines = self.lines(source)?;
        let at = (source.line as usize).checked_sub(1)?;
        let line = lines.get(at).filter(|line| !line.trim().is_empty())?;
        let text = line.trim();
        if !text.starts_with(['.', ')', '}']) {
            return Some(text.to_owned());
        }
        let further_out = |earlier: &&String| !earlier.trim().is_empty() && indentation(earlier) < indentation(line);
        let begun = lines[..at].iter().rev().find(further_out)?.trim();
        Some(format!("{begun} … {text}"))
    }

    fn lines(&mut self, source: &SourceLine) -> Option<&[String]> {
        let base = &self.base;
        let lines = self.files.entry(source.file.clone()).or_insert_with(|| {
            let text = std::fs::read_to_string(base.join(&source.file)).ok()?;
            Some(text.lines().map(|line| line.replace('\t', "    ")).collect())
        });
        lines.as_deref()
    }

    /// A file's lines around one, with their numbers.
    pub fn around(&mut self, source: &SourceLine, before: usize, after: usize) -> Vec<(u32, String)> {
        let from = (source.line as usize).saturating_sub(before + 1);
        let lines = self.lines(source).unwrap_or_default();
        (1u32..).zip(lines.iter().cloned()).skip(from).take(before + after + 1).collect()
    }

    /// The whole report on a difference.
    pub fn report(&mut self, divergence: &Divergence) -> String {
        self.tell(&divergence.in_words())
    }

    /// A report with the source lines as they are here.
    pub fn tell(&mut self, report: &Report) -> String {
        report.text(&mut |source| (self.place(source), self.text(source)))
    }
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

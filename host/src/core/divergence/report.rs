//! A difference in words: what travels from where a history was replayed to
//! whoever reads about it, and looks up the source lines where the sources are.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Divergence, SourceLine, shown};
use crate::core::event::Origin;

/// The report on one difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The instance whose history it is.
    pub instance: String,
    /// The event's number, from 1.
    pub event: u32,
    /// Its turn's number, from 1.
    pub turn: u32,
    /// What the history has there.
    pub recorded: String,
    /// What the guest did instead.
    pub asked: String,
    /// What differs, first of all.
    pub differs: String,
    /// Where in the guest's source it was asked, the innermost line first.
    pub source: Vec<SourceLine>,
    /// It was asked somewhere, and the module does not say where.
    pub no_lines: bool,
    /// The module that was recorded and the one that was replayed, if they are two.
    pub modules: Option<(String, String)>,
    /// What can be done.
    pub repairs: Vec<String>,
}

impl Divergence {
    /// This difference in words.
    pub fn in_words(&self) -> Report {
        let asked_by_guest = self.asked.as_ref().is_some_and(|asked| asked.origin() == Origin::Guest);
        Report {
            instance: self.instance.clone(),
            event: self.event,
            turn: self.turn,
            recorded: shown(&self.recorded, 400),
            asked: shown(&self.asked, 400),
            differs: self.what_differs(),
            source: self.source.clone(),
            no_lines: self.source.is_empty() && asked_by_guest,
            modules: self.modules.clone(),
            repairs: self.repairs().into(),
        }
    }
}

impl Report {
    /// The whole report, for people: several lines, none of them empty. `show` has
    /// a source line as people find it, and its text where that is at hand.
    pub fn text(&self, show: &mut dyn FnMut(&SourceLine) -> (String, Option<String>)) -> String {
        let mut text = format!("replay of {} diverged at event {} (turn {})\n", self.instance, self.event, self.turn);
        let mut row = |name: &str, value: String| writeln!(text, "  {name:<9} {value}").expect("a string takes it");
        row("recorded", self.recorded.clone());
        row("asked", self.asked.clone());
        row("differs", self.differs.clone());
        match self.source.split_first() {
            Some((source, outer)) => {
                let (place, text) = show(source);
                row("at", place);
                text.into_iter().for_each(|text| row("", format!("    {text}")));
                outer.iter().take(3).for_each(|outer| row("", format!("called by {}", show(outer).0)));
            }
            None if self.no_lines => {
                row("at", "unknown: build the module with debug = \"line-tables-only\"".to_owned());
            }
            None => {}
        }
        if let Some((recorded, replayed)) = &self.modules {
            row("module", format!("recorded with {recorded}, replayed with {replayed}"));
        }
        text.push_str("likely repairs\n");
        for (number, repair) in (1..).zip(&self.repairs) {
            writeln!(text, "  {number}. {repair}").expect("a string takes it");
        }
        text.pop();
        text
    }

    /// What reports on one and the same change have in common: what differs, and
    /// where in the module that is.
    pub fn kind(&self) -> (String, Option<&SourceLine>) {
        let of_recorded = self.recorded.split(' ').next().unwrap_or_default();
        let of_asked = self.asked.split(' ').next().unwrap_or_default();
        // Values and numbers are those of one history.
        let field = self.differs.split(':').next().unwrap_or_default();
        let field = field.split(" recorded as").next().unwrap_or_default();
        (format!("{of_recorded} {of_asked} {field}"), self.source.first())
    }
}

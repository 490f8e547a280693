//! What an exploration found, in numbers and as the shortest schedule.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::replay::recording::Recording;

/// The result of an exploration.
#[derive(Debug, Default)]
pub struct Report {
    /// Different worlds that were seen.
    pub worlds: u64,
    /// Of them, those in which every instance had ended.
    pub ends: u64,
    /// Schedules that were covered: ways from the beginning to where nothing more can
    /// happen, each one an order of steps.
    pub schedules: f64,
    /// Schedules that were cut off, by a bound or since an assertion was broken.
    pub schedules_cut: f64,
    /// Steps taken.
    pub steps_run: u64,
    /// Steps whose world was known from the other order.
    pub steps_looked_up: u64,
    /// Steps taken that led to a world which was known.
    pub met_again: u64,
    /// Turns that guests ran.
    pub turns_run: u64,
    /// Turns that need not be run: the same history had been told the same.
    pub turns_known: u64,
    /// Worlds from which nothing was tried, because of a bound.
    pub bounded: u64,
    /// The assertion that does not hold, and how to break it.
    pub violation: Option<Violation>,
}

/// A broken assertion.
#[derive(Debug)]
pub struct Violation {
    /// What it said.
    pub what: String,
    /// The steps that lead there, a line each.
    pub schedule: Vec<String>,
    /// The model as it was then.
    pub model: String,
    /// The instances' histories up to there, with the module.
    pub recordings: Vec<Recording>,
}

impl Report {
    /// Whether every schedule within failures and crashes was covered, and none
    /// broke an assertion.
    pub fn is_proof(&self) -> bool {
        self.violation.is_none() && self.bounded == 0
    }

    /// # Panics
    /// If an assertion was broken, with the schedule; or if a bound was reached,
    /// so that nothing is proved.
    #[track_caller]
    pub fn assert_holds(&self) {
        assert!(self.violation.is_none(), "{self}");
        assert!(self.bounded == 0, "a bound was reached before everything was seen\n{self}");
    }

    /// The broken assertion.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn expect_violation(&self) -> &Violation {
        self.violation.as_ref().unwrap_or_else(|| panic!("no assertion was broken\n{self}"))
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "worlds": self.worlds,
            "ends": self.ends,
            "schedules": self.schedules,
            "schedules_cut": self.schedules_cut,
            "steps_run": self.steps_run,
            "steps_looked_up": self.steps_looked_up,
            "met_again": self.met_again,
            "turns_run": self.turns_run,
            "turns_known": self.turns_known,
            "bounded": self.bounded,
            "violation": self.violation.as_ref().map(|violation| json!({
                "what": violation.what,
                "schedule": violation.schedule,
                "model": violation.model,
            })),
        })
    }
}

impl Violation {
    /// Writes the histories as recordings that `dacapo replay` opens: `path` for a
    /// single instance, else `path` with each instance's id before its extension.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, path: &Path) -> std::io::Result<Vec<PathBuf>> {
        let single = self.recordings.len() == 1;
        let write = |recording: &Recording| {
            let path = if single { path.to_owned() } else { beside(path, &recording.instance) };
            std::fs::write(&path, recording.encode()).map(|()| path)
        };
        self.recordings.iter().map(write).collect()
    }
}

fn beside(path: &Path, instance: &str) -> PathBuf {
    // An instance id may be anything; a file name may not.
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push("-");
    name.push(instance.chars().map(safe).collect::<String>());
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(violation) = &self.violation {
            writeln!(f, "violated: {}", violation.what)?;
            for (number, line) in violation.schedule.iter().enumerate() {
                writeln!(f, "{:>4}  {line}", number + 1)?;
            }
            writeln!(f, "      the model is then {}", violation.model)?;
        }
        let (worlds, ends) = (count(self.worlds as f64), count(self.ends as f64));
        let (covered, cut) = (count(self.schedules), count(self.schedules_cut));
        writeln!(f, "{covered} schedules covered, {cut} cut off; {worlds} worlds, {ends} of them ends")?;
        let [run, looked_up, again] = [self.steps_run, self.steps_looked_up, self.met_again].map(|n| count(n as f64));
        writeln!(
            f,
            "{run} steps taken; pruned: {again} led to a world that was known, {looked_up} more were looked up"
        )?;
        let [run, known] = [self.turns_run, self.turns_known].map(|n| count(n as f64));
        writeln!(f, "{run} turns run by guests, {known} known from before")?;
        match (self.bounded, &self.violation) {
            (0, None) => write!(f, "every schedule within the bounds on failures and crashes was covered"),
            (0, Some(_)) => write!(f, "no shorter schedule breaks an assertion"),
            (bounded, _) => {
                write!(f, "{} worlds were cut off by a bound: not everything was seen", count(bounded as f64))
            }
        }
    }
}

/// Exact with separators as long as that can be read, else the magnitude.
fn count(number: f64) -> String {
    if number >= 1e9 {
        return format!("{number:.1e}");
    }
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

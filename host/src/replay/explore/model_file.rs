//! A model in a file, for `dacapo explore`: what activities need, take, put and
//! return, without a line of Rust.
//!
//! The world is a bag of names. An activity *needs* and *takes* names, else it
//! fails with `Missing`; it *puts* names there; it *returns* a value, or what a
//! recording has for a call of that name and input. `{input}` in a name is the
//! call's input, `{input.field}` a part of it. See `host/docs/exploration.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Call, Explorer, World, failure};
use crate::core::event::Event;
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::replay::recording::Recording;
use crate::replay::subject::{Subject, SubjectError};

/// The file. Unknown fields are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// What there is at the beginning.
    #[serde(default)]
    pub world: Vec<String>,
    /// What runs; without it, what the command line says.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Other modules by the names under which they are called: a project, a crate or a
    /// `.wasm` file, read against the file's folder.
    #[serde(default)]
    pub modules: BTreeMap<String, PathBuf>,
    /// What comes at any moment.
    #[serde(default)]
    pub events: Vec<RaisedEvent>,
    /// Updates that come at any moment.
    #[serde(default)]
    pub updates: Vec<Asked>,
    /// Instances that are asked to end, at any moment.
    #[serde(default)]
    pub cancels: Vec<String>,
    /// Instances that somebody ends, at any moment.
    #[serde(default)]
    pub terminates: Vec<String>,
    /// Activities by name; `*` stands for those without a rule of their own.
    #[serde(default)]
    pub activities: BTreeMap<String, Rule>,
    /// A recording, read against the file's folder: its results are returned where
    /// a rule says nothing.
    pub recording: Option<PathBuf>,
    /// What must hold where all instances have ended.
    #[serde(default)]
    pub at_end: AtEnd,
}

/// An instance to run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// What it runs.
    pub orchestration: String,
    /// Its input.
    #[serde(default)]
    pub input: Value,
}

/// An event to raise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaisedEvent {
    /// For whom.
    pub instance: String,
    /// Its name.
    pub name: String,
    /// What it carries.
    #[serde(default)]
    pub value: Value,
}

/// An update to send.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Whom.
    pub instance: String,
    /// Its name.
    pub name: String,
    /// Its input.
    #[serde(default)]
    pub input: Value,
}

/// What an activity does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Must be there.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Must be there, and is there no more.
    #[serde(default)]
    pub takes: Vec<String>,
    /// Is there no more, if it was.
    #[serde(default)]
    pub removes: Vec<String>,
    /// Is there from now on.
    #[serde(default)]
    pub puts: Vec<String>,
    /// True: what one call has done is not done again when it is repeated.
    #[serde(default)]
    pub idempotent: bool,
    /// The result.
    pub returns: Option<Value>,
    /// The results of the first call, the second, and so on; the last one stays.
    pub returns_each: Option<Vec<Value>>,
    /// It fails so.
    pub fails: Option<Fails>,
}

/// A failure.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fails {
    /// What retry policies match.
    #[serde(default)]
    pub r#type: String,
    /// For people.
    pub message: String,
    /// No retry policy may try again.
    #[serde(default)]
    pub non_retryable: bool,
}

/// What must hold at the end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtEnd {
    /// Of the instances.
    #[serde(default)]
    pub outcomes: Expected,
    /// Names that must be there.
    #[serde(default)]
    pub there: Vec<String>,
    /// Names that must not be there.
    #[serde(default)]
    pub gone: Vec<String>,
    /// Names that must not be there if an instance failed.
    #[serde(default)]
    pub gone_if_failed: Vec<String>,
}

/// How instances are to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// However; only a trap is a fault.
    #[default]
    Any,
    /// At least one completes.
    OneCompletes,
    /// All of them complete.
    AllComplete,
}

/// The world of a [`ModelFile`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names {
    /// How often each name is there.
    there: BTreeMap<String, u32>,
    /// Calls of each activity and input, by their keys.
    calls: BTreeMap<String, Vec<String>>,
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct ModelFileError {
    path: String,
    why: String,
}

type Recorded = BTreeMap<(String, Vec<u8>), Vec<Outcome>>;

impl ModelFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// If it cannot be read, or has a mistake; the error names the line.
    pub fn read(path: &Path) -> Result<Self, ModelFileError> {
        let error = |why: String| ModelFileError { path: path.display().to_string(), why };
        let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
        let mut file: Self = toml::from_str(&text).map_err(|e| error(e.to_string().trim_end().to_owned()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        file.recording = file.recording.map(|recording| folder.join(recording));
        file.modules.values_mut().for_each(|module| *module = folder.join(&*module));
        Ok(file)
    }

    /// What there is at the beginning.
    pub fn names(&self) -> Names {
        let mut names = Names::default();
        self.world.iter().for_each(|name| names.put(name));
        names
    }

    /// Gives the explorer this file's activities, events and assertions.
    ///
    /// # Errors
    /// If the recording or a module that it names cannot be used.
    pub fn prepare(self, mut explorer: Explorer<Names>) -> Result<Explorer<Names>, ModelFileError> {
        let recorded = self.recording.as_deref().map(results_of).transpose()?;
        for (name, module) in &self.modules {
            let error = |why: SubjectError| ModelFileError { path: module.display().to_string(), why: why.to_string() };
            explorer = explorer.module(name, &Subject::open(module).map_err(error)?);
        }
        for event in &self.events {
            explorer = explorer.event(&event.instance, &event.name, &event.value);
        }
        for Asked { instance, name, input } in &self.updates {
            explorer = explorer.update(instance, name, input);
        }
        explorer = self.cancels.iter().fold(explorer, |explorer, instance| explorer.cancel(instance));
        explorer = self.terminates.iter().fold(explorer, |explorer, instance| explorer.terminate(instance));
        let recorded = std::rc::Rc::new(recorded.unwrap_or_default());
        for (name, rule) in self.activities.iter().filter(|(name, _)| *name != "*") {
            let (rule, recorded) = (rule.clone(), recorded.clone());
            explorer = explorer.activity(name, move |names, call| names.act(&rule, &recorded, call));
        }
        let rest = self.activities.get("*").cloned().or_else(|| (!recorded.is_empty()).then(Rule::default));
        if let Some(rule) = rest {
            explorer = explorer.any_activity(move |names, call| names.act(&rule, &recorded, call));
        }
        let at_end = self.at_end;
        Ok(explorer.at_end(move |world| at_end.check(world)))
    }
}

impl AtEnd {
    fn check(&self, world: &World<'_, Names>) {
        let mut failed = Vec::new();
        let mut completed = 0;
        for (id, end) in world.ends() {
            match end {
                Ok(_) => completed += 1,
                Err(why) => {
                    let host = matches!(why.kind, FailureKind::Trapped | FailureKind::Exhausted);
                    assert!(!host, "{id} was ended by the host: {why}");
                    failed.push(format!("{id} failed: {why}"));
                }
            }
        }
        let why = failed.join("; ");
        match self.outcomes {
            Expected::Any => {}
            Expected::OneCompletes => assert!(completed > 0, "no instance completed: {why}"),
            Expected::AllComplete => assert!(failed.is_empty(), "not all completed: {why}"),
        }
        let there = |name: &String| world.model.there.contains_key(name);
        let all = |names: &[String], wanted: bool| names.iter().find(|name| there(name) != wanted).cloned();
        assert!(all(&self.there, true).is_none(), "at the end {:?} is not there", all(&self.there, true));
        assert!(all(&self.gone, false).is_none(), "at the end {:?} is there", all(&self.gone, false));
        if !failed.is_empty() {
            let left = all(&self.gone_if_failed, false);
            assert!(left.is_none(), "{why}, and {left:?} is there");
        }
    }
}

impl Names {
    fn put(&mut self, name: &str) {
        *self.there.entry(name.to_owned()).or_default() += 1;
    }

    fn take(&mut self, name: &str) {
        if let Some(count) = self.there.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.there.remove(name);
            }
        }
    }

    fn act(&mut self, rule: &Rule, recorded: &Recorded, call: &Call) -> Result<Value, Failure> {
        let input = call.payload.to_json().unwrap_or_default();
        let (number, repeated) = self.count(call);
        if !(repeated && rule.idempotent) {
            let named = |names: &[String]| names.iter().map(|name| fill(name, &input)).collect::<Vec<_>>();
            let (needs, takes) = (named(&rule.needs), named(&rule.takes));
            if let Some(missing) = needs.iter().chain(&takes).find(|name| !self.there.contains_key(*name)) {
                return Err(failure("Missing", format!("{missing} is not there")));
            }
            takes.iter().chain(&named(&rule.removes)).for_each(|name| self.take(name));
            named(&rule.puts).iter().for_each(|name| self.put(name));
        }
        if let Some(Fails { r#type, message, non_retryable }) = &rule.fails {
            return Err(Failure { non_retryable: *non_retryable, ..failure(r#type, fill(message, &input)) });
        }
        if let Some(each) = rule.returns_each.as_ref().filter(|each| !each.is_empty()) {
            return Ok(each[number.min(each.len() - 1)].clone());
        }
        match (&rule.returns, recorded.get(&(call.name.clone(), call.payload.data.to_vec()))) {
            (None, Some(outcomes)) => {
                let outcome = outcomes[number.min(outcomes.len() - 1)].clone();
                outcome.map(|result: Payload| result.to_json().unwrap_or_default())
            }
            (returns, _) => Ok(returns.clone().unwrap_or_default()),
        }
    }

    /// Which call of that name and input it is, from 0, and whether it is repeated.
    fn count(&mut self, call: &Call) -> (usize, bool) {
        let calls = self.calls.entry(format!("{}({})", call.name, call.payload)).or_default();
        let key = call.idempotency_key();
        match calls.iter().position(|known| *known == key) {
            Some(number) => (number, true),
            None => {
                calls.push(key);
                (calls.len() - 1, false)
            }
        }
    }
}

/// Replaces `{input}` and `{input.field}`.
fn fill(text: &str, input: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut filled = text.replace("{input}", &plain(input));
    for (field, value) in input.as_object().into_iter().flatten() {
        filled = filled.replace(&format!("{{input.{field}}}"), &plain(value));
    }
    filled
}

/// What each call of a recording came back with, in the order of the calls.
fn results_of(path: &Path) -> Result<Recorded, ModelFileError> {
    let error = |why: String| ModelFileError { path: path.display().to_string(), why };
    let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    let recording = Recording::decode(&bytes).map_err(|e| error(e.to_string()))?;
    let records = recording.records().map_err(|e| error(e.to_string()))?;
    let mut calls = BTreeMap::new();
    let mut results = BTreeMap::new();
    for event in records.iter().flat_map(|record| &record.events) {
        match event {
            Event::ActivityScheduled(call) => {
                calls.insert(call.operation, (call.name.clone(), call.input.data.to_vec()));
            }
            Event::ActivityCompleted { operation, result, .. } => drop(results.insert(*operation, Ok(result.clone()))),
            Event::ActivityFailed { operation, failure, .. } => drop(results.insert(*operation, Err(failure.clone()))),
            _ => {}
        }
    }
    let mut recorded = Recorded::new();
    for (operation, outcome) in results {
        if let Some(call) = calls.remove(&operation) {
            recorded.entry(call).or_default().push(outcome);
        }
    }
    Ok(recorded)
}

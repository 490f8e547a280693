//! Verification: is everything in a store or a recording what was written?
//!
//! Four things are checked. The *chain*: each turn carries the hash of the one
//! before, the last one's is in the instance's row. The *rows*: what lists and
//! start-up rely on must be what the histories say. The *indexes*: they must fit the
//! rows, and every row must belong to something. And, if asked, the *replay*:
//! each history is run again in the sandbox, up to the recorded outcome. Nothing
//! is changed; what is wrong is named and the rest is checked all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::check::in_parallel;
use super::recording::Recording;
use super::{Replayed, Unwatched, replay};
use crate::core::event::{Event, Origin};
use crate::core::ids::{ExecutionNumber, Hash, InstanceId, ModuleHash};
use crate::core::namespace::shown;
use crate::core::summary::Summary;
use crate::core::turn::{TurnRecord, module_of};
use crate::sandbox::{OrchestrationModule, Sandbox};
use crate::store::{History, ModuleKind, Store, StoreError};

/// Ids read at once.
const PAGE: usize = 1000;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The instance, a module, or a file.
    pub of: String,
    /// Which life of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution: Option<ExecutionNumber>,
    /// The first event at fault, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<u32>,
    /// What is wrong.
    pub problem: String,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Instances, or files.
    pub instances: u64,
    /// Executions.
    pub executions: u64,
    /// Turns whose chain was walked.
    pub turns: u64,
    /// Events in them.
    pub events: u64,
    /// Modules whose bytes were hashed.
    pub modules: u64,
    /// Executions that were replayed.
    pub replayed: u64,
    /// Executions that were not, because their module has been removed.
    pub not_replayed: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Adds what was seen elsewhere.
    pub fn add(&mut self, other: Self) {
        self.instances += other.instances;
        self.executions += other.executions;
        self.turns += other.turns;
        self.events += other.events;
        self.modules += other.modules;
        self.replayed += other.replayed;
        self.not_replayed += other.not_replayed;
        self.findings.extend(other.findings);
    }

    fn find(&mut self, of: &str, execution: Option<ExecutionNumber>, event: Option<u32>, problem: impl ToString) {
        self.findings.push(Finding { of: of.to_owned(), execution, event, problem: problem.to_string() });
    }
}

/// Verifies everything in `store`; replays it in `sandbox`, if one is given.
///
/// # Errors
/// If the store cannot be listed at all.
pub fn verify_store(store: &dyn Store, sandbox: Option<&Sandbox>) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let modules = Loaded { store, sandbox, known: verify_modules(store, &mut verified), ready: Mutex::default() };
    verify_indexes(store, &mut verified);
    let mut after = None;
    loop {
        let page = store.ids(after.as_ref(), PAGE)?;
        after = page.last().cloned();
        let last = page.len() < PAGE;
        for found in in_parallel(page, |id| verify_instance(&modules, &id)) {
            verified.add(found);
        }
        if last {
            return Ok(verified);
        }
    }
}

/// Verifies a recording's bytes, which came from `name`.
pub fn verify_recording(
    name: &str,
    bytes: &[u8],
    sandbox: Option<&Sandbox>,
    module: impl Fn(&ModuleHash) -> Option<Vec<u8>>,
) -> Verified {
    let mut verified = Verified { instances: 1, ..Verified::default() };
    let recording = match Recording::decode(bytes) {
        Ok(recording) => recording,
        Err(error) => {
            verified.find(name, None, None, error);
            return verified;
        }
    };
    let execution = Some(recording.execution);
    let Some(records) = walk(name, recording.execution, &recording.turns, &mut verified) else { return verified };
    if module_of(&records) != Some(recording.module_hash) {
        verified.find(name, execution, Some(1), "its head names another module than its history");
    }
    if let Some(sandbox) = sandbox {
        let bytes = recording.module.clone().or_else(|| module(&recording.module_hash));
        match bytes.map(|bytes| sandbox.inspect(&bytes).map(|found| (found.hash, found.component))) {
            None => verified.not_replayed += 1,
            Some(Err(refused)) => verified.find(name, execution, None, refused),
            Some(Ok((hash, component))) => match sandbox.load(hash, &component) {
                Ok(module) => verify_replay(name, recording.execution, &module, &records, &mut verified),
                Err(error) => verified.find(name, execution, None, format!("its module cannot be loaded: {error:#}")),
            },
        }
    }
    verified
}

/// The store's modules, each loaded once.
struct Loaded<'s> {
    store: &'s dyn Store,
    sandbox: Option<&'s Sandbox>,
    known: BTreeSet<ModuleHash>,
    ready: Mutex<BTreeMap<ModuleHash, Arc<OrchestrationModule>>>,
}

impl Loaded<'_> {
    fn load(&self, sandbox: &Sandbox, hash: ModuleHash) -> Result<Arc<OrchestrationModule>, String> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = ready.get(&hash) {
            return Ok(module.clone());
        }
        let bytes = self.store.module_bytes(&hash).map_err(|error| error.to_string())?.unwrap_or_default();
        let module = sandbox.load(hash, &bytes).map_err(|error| format!("its module cannot be loaded: {error:#}"))?;
        Ok(ready.entry(hash).or_insert(Arc::new(module)).clone())
    }
}

fn verify_modules(store: &dyn Store, verified: &mut Verified) -> BTreeSet<ModuleHash> {
    let modules = match store.modules() {
        Ok(modules) => modules,
        Err(error) => {
            verified.find("modules", None, None, error);
            return BTreeSet::new();
        }
    };
    let mut known = BTreeSet::new();
    for module in modules {
        let name = format!("module {}@{}", shown(&module.name), module.version);
        verified.modules += 1;
        match store.module_bytes(&module.hash) {
            Ok(Some(bytes)) if bytes.len() as u64 == module.size => {
                if module.kind == ModuleKind::Orchestration {
                    known.insert(module.hash);
                }
            }
            Ok(Some(bytes)) => {
                let problem = format!("it has {} bytes, its row says {}", bytes.len(), module.size);
                verified.find(&name, None, None, problem);
            }
            Ok(None) => verified.find(&name, None, None, "its bytes are missing"),
            Err(error) => verified.find(&name, None, None, error),
        }
    }
    known
}

fn verify_indexes(store: &dyn Store, verified: &mut Verified) {
    match store.check_indexes() {
        Ok(findings) => {
            findings.into_iter().for_each(|finding| verified.find(&finding.of, None, None, finding.problem));
        }
        Err(error) => verified.find("the indexes", None, None, error),
    }
}

fn verify_instance(modules: &Loaded<'_>, id: &InstanceId) -> Verified {
    let mut verified = Verified { instances: 1, ..Verified::default() };
    let name = &*shown(id.as_str());
    let summary = match modules.store.summary(id) {
        Ok(Some(summary)) => summary,
        // It was removed since the ids were read.
        Ok(None) => return verified,
        Err(error) => {
            verified.find(name, None, None, error);
            return verified;
        }
    };
    let mut begun = false;
    for execution in 1..=summary.execution {
        match modules.store.history(id, Some(execution)) {
            Ok(Some(history)) => {
                begun = true;
                verify_execution(modules, &history, &summary, &mut verified);
            }
            // A fork begins with the execution that it shares.
            Ok(None) if !begun && execution < summary.execution => {}
            Ok(None) => verified.find(name, Some(execution), None, "its history is missing"),
            Err(error) => {
                begun = true;
                verified.find(name, Some(execution), None, error);
            }
        }
    }
    verified
}

fn verify_execution(modules: &Loaded<'_>, history: &History, row: &Summary, verified: &mut Verified) {
    let (name, execution) = (&*shown(history.instance.as_str()), history.execution);
    let Some(records) = walk(name, execution, &history.turns, verified) else { return };
    if records.first().and_then(begins_as) != Some(&history.instance) {
        verified.find(name, Some(execution), Some(1), "it begins as another instance");
    }
    let is_current = execution == row.execution;
    let now = summarized(&records, &history.turns);
    if is_current && now.as_ref() != Some(row) && !has_gone_on(modules.store, history) {
        verified.find(name, Some(execution), None, "its row is not what its history says");
    }
    // Answers to its letters may follow.
    let ended = |record: &TurnRecord| record.events.last().is_some_and(|event| event.origin() == Origin::Outcome);
    let ends = records.iter().any(ended);
    if !is_current && !ends {
        verified.find(name, Some(execution), None, "it has no outcome, and a later execution follows it");
    }
    let Some(hash) = module_of(&records) else { return };
    let is_there = modules.known.contains(&hash);
    if !is_there && is_current && !row.status.is_final() {
        verified.find(name, Some(execution), None, format!("its module {} is missing", hash.short()));
    }
    let Some(sandbox) = modules.sandbox else { return };
    if !is_there {
        verified.not_replayed += 1;
        return;
    }
    match modules.load(sandbox, hash) {
        Ok(module) => verify_replay(name, execution, &module, &records, verified),
        Err(error) => verified.find(name, Some(execution), None, error),
    }
}

fn begins_as(first: &TurnRecord) -> Option<&InstanceId> {
    match first.events.first() {
        Some(Event::ExecutionStarted(started)) => Some(&started.instance),
        _ => None,
    }
}

/// Whether a running instance took a turn while it was looked at.
fn has_gone_on(store: &dyn Store, history: &History) -> bool {
    store.history(&history.instance, None).ok().flatten().is_some_and(|now| now.turns.len() != history.turns.len())
}

/// Walks the chain; the turns, if all of it holds.
fn walk(
    name: &str,
    execution: ExecutionNumber,
    turns: &[Arc<[u8]>],
    verified: &mut Verified,
) -> Option<Vec<TurnRecord>> {
    verified.executions += 1;
    let (mut records, mut previous, mut event) = (Vec::with_capacity(turns.len()), Hash::ZERO, 1);
    for bytes in turns {
        let record = match TurnRecord::decode(bytes) {
            Ok(record) => record,
            Err(why) => {
                verified.find(name, Some(execution), Some(event), why);
                return None;
            }
        };
        if record.previous != previous {
            let (expected, found) = (previous.short(), record.previous.short());
            let problem = format!("its turn follows {found}, the one before it is {expected}");
            verified.find(name, Some(execution), Some(event), problem);
            return None;
        }
        previous = Hash::of(bytes);
        event += record.events.len() as u32;
        records.push(record);
    }
    verified.turns += records.len() as u64;
    verified.events += u64::from(event) - 1;
    match records.first().and_then(|first| first.events.first()) {
        Some(Event::ExecutionStarted(started)) if started.execution == execution => Some(records),
        Some(Event::ExecutionStarted(started)) => {
            let problem = format!("it begins as execution {} of {}", started.execution, started.instance);
            verified.find(name, Some(execution), Some(1), problem);
            None
        }
        _ => {
            verified.find(name, Some(execution), Some(1), "it does not begin with execution-started");
            None
        }
    }
}

/// The row that a history makes.
fn summarized(records: &[TurnRecord], turns: &[Arc<[u8]>]) -> Option<Summary> {
    let mut both = records.iter().zip(turns);
    let (first, bytes) = both.next()?;
    let mut row = Summary::of_first(first, Hash::of(bytes))?;
    both.for_each(|(record, bytes)| row.apply(record, Hash::of(bytes)));
    Some(row)
}

fn verify_replay(
    name: &str,
    execution: ExecutionNumber,
    module: &OrchestrationModule,
    records: &[TurnRecord],
    verified: &mut Verified,
) {
    let Replayed { divergence, error, events, .. } = replay(module, records, &mut Unwatched);
    verified.replayed += 1;
    if let Some(found) = divergence {
        verified.find(name, Some(execution), Some(found.event), found);
    } else if let Some(error) = error {
        verified.find(name, Some(execution), Some(events + 1), error);
    }
}

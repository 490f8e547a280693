//! What is counted rather than timed: instructions. The same program on the same input
//! takes the same number of them, whatever else the machine does, so a few percent more
//! are a change of the program.
//!
//! [`count`] runs this program again under valgrind's callgrind, which knows no AVX-512;
//! so the modules are compiled under it too. [`run`] is what runs there: everything but
//! the work itself is outside of [`counted`], and not counted.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Settings, Workload, workload};
use crate::core::event::Event;
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::payload::Payload;
use crate::core::turn::{Limits, Recorder, SealedTurn, TurnRecord};
use crate::replay::life::Life;
use crate::replay::{Unwatched, replay};
use crate::sandbox::guest::Guest;
use crate::sandbox::settings::SandboxSettings;
use crate::sandbox::{OrchestrationModule, Sandbox};
use crate::store::redb::{Options, RedbStore};
use crate::store::{Batch, Store as _, TurnCommit};

/// What can be counted.
pub const COUNTED: &[Workload] = &[
    workload("turn", "an instance's turns, live, from a result to the sealed bytes"),
    workload("replay", "the history of that instance in the sandbox"),
    workload("guests", "instances of six turns from their first guest to its end"),
    workload("commit", "the turns of those instances made durable, 64 a commit"),
];

/// More instructions than before by more than this are too many.
const TOO_MANY: f64 = 1.05;

const CALLS: u32 = 500;
const INSTANCES: u32 = 64;

/// What a run was found to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Which workload.
    pub counted: String,
    /// What there is one of for each `instructions`.
    pub unit: String,
    /// Instructions of one such.
    pub instructions: f64,
}

impl Counted {
    /// Whether that is too many after `before`.
    pub fn is_worse_than(&self, before: &Self) -> bool {
        self.instructions > before.instructions * TOO_MANY
    }
}

/// How often the workload did what is counted.
#[derive(Serialize, Deserialize)]
struct Done {
    unit: String,
    times: u32,
}

/// Counts one workload: runs this very program under callgrind.
///
/// # Errors
/// If valgrind is not there, or the workload fails.
pub fn count(name: &str, settings: &Settings) -> anyhow::Result<Counted> {
    std::fs::create_dir_all(&settings.folder)?;
    std::fs::write(module_file(&settings.folder), &settings.module)?;
    let found = settings.folder.join("callgrind.out");
    let work = format!("--toggle-collect={}::counted*", module_path!());
    let out = format!("--callgrind-out-file={}", found.display());
    // The first compiles the module, much faster than it would be where all is counted.
    valgrind(&["--tool=none"], name, settings)?;
    let done = valgrind(&["--tool=callgrind", "--collect-atstart=no", &work, &out], name, settings)?;
    let done: Done = serde_json::from_slice(&done).context("the counted run said nothing of what it did")?;
    let text = std::fs::read_to_string(&found).with_context(|| format!("cannot read {}", found.display()))?;
    let all = text.lines().find_map(|line| line.strip_prefix("summary: ")).and_then(|n| n.trim().parse::<u64>().ok());
    let all = all.filter(|all| *all > 0).context("callgrind counted nothing")?;
    Ok(Counted {
        counted: name.to_owned(),
        unit: done.unit,
        instructions: (all as f64 / f64::from(done.times)).round(),
    })
}

fn valgrind(tool: &[&str], name: &str, settings: &Settings) -> anyhow::Result<Vec<u8>> {
    let this = std::env::current_exe()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet"]).args(tool).arg(this).args(["bench", "--counted", name, "--data"]).arg(&settings.folder);
    let ran = valgrind.stdin(Stdio::null()).output().context("cannot run valgrind; install it")?;
    let said = String::from_utf8_lossy(&ran.stderr);
    anyhow::ensure!(ran.status.success(), "the counted run failed: {}", said.trim());
    Ok(ran.stdout)
}

fn module_file(folder: &Path) -> std::path::PathBuf {
    folder.join("counted.wasm")
}

/// One counted workload, in the folder that [`count`] has made. Says what it did.
///
/// # Errors
/// If what it computed is wrong.
pub fn run(name: &str, folder: &Path) -> anyhow::Result<String> {
    let module = load(folder)?;
    let (unit, times) = match name {
        "turn" => ("turn", counted(|| live(&module, "sequence", &json!(CALLS), "long"))?.len()),
        "replay" => {
            let turns = live(&module, "sequence", &json!(CALLS), "long")?;
            let records: Vec<TurnRecord> = turns.into_iter().map(|turn| turn.record).collect();
            let replayed = counted(|| replay(&module, &records, &mut Unwatched));
            anyhow::ensure!(replayed.matched(), "the replay differs: {replayed:?}");
            ("event", replayed.events as usize)
        }
        "guests" => ("turn", counted(|| hello5(&module))?.len()),
        "commit" => {
            let turns = hello5(&module)?;
            let file = folder.join("counted.redb");
            let _ = std::fs::remove_file(&file);
            // What another thread folds is not counted.
            let options = Options { fold_beside: false, ..Options::default() };
            let store = RedbStore::open_with(&file, options)?;
            let epoch = store.claim()?;
            counted(|| turns.chunks(64).try_for_each(|turns| store.commit(epoch, &Batch { turns: turns.to_vec() })))?;
            ("turn", turns.len())
        }
        other => anyhow::bail!("unknown workload {other:?}"),
    };
    Ok(serde_json::to_string(&Done { unit: unit.to_owned(), times: times as u32 })?)
}

/// All that is counted. Not inlined: callgrind finds it by its name.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

fn load(folder: &Path) -> anyhow::Result<OrchestrationModule> {
    let bytes = std::fs::read(module_file(folder))?;
    // One guest at a time: address space is short under valgrind.
    let settings = SandboxSettings { resident_guests: 2, activities: 1, ..SandboxSettings::default() };
    let sandbox = Sandbox::new(settings, Some(folder.join("compiled")))?;
    let inspected = sandbox.inspect(&bytes)?;
    Ok(sandbox.load(inspected.hash, &inspected.component)?)
}

fn hello5(module: &OrchestrationModule) -> anyhow::Result<Vec<TurnCommit>> {
    let mut turns = Vec::new();
    for number in 0..INSTANCES {
        let name = format!("hello-{number}");
        let (instance, ran) = (InstanceId::new(&name)?, live(module, "hello5", &json!("Ada"), &name)?);
        turns.extend((1..).zip(ran).map(|(turn, sealed)| TurnCommit {
            instance: instance.clone(),
            execution: 1,
            turn,
            bytes: sealed.bytes,
        }));
    }
    Ok(turns)
}

/// Runs an instance to its end, each call answered in the next turn.
fn live(
    module: &OrchestrationModule,
    name: &str,
    input: &serde_json::Value,
    id: &str,
) -> anyhow::Result<Vec<SealedTurn>> {
    let (id, at) = (InstanceId::new(id)?, TimestampMs(1_700_000_000_000));
    let life = Life::start(&id, name, module.hash, Payload::json(input.to_string()), at);
    let (recorder, first) = Recorder::start(life.execution.started.clone(), Limits::default(), at);
    let mut guest = Guest::new(module, recorder).map_err(|(trouble, _)| trouble)?;
    let mut turns = vec![first];
    loop {
        let asked = turns.last().and_then(|turn| turn.record.events.last()).cloned();
        let recorder = guest.recorder_mut();
        recorder.begin(at.plus(turns.len() as u64));
        match asked {
            Some(Event::ActivityScheduled(call)) => recorder.deliver(Event::ActivityCompleted {
                operation: call.operation,
                attempt: 1,
                result: Payload::json("\"hello\""),
            }),
            Some(Event::ExecutionStarted(_)) => {}
            Some(Event::Completed { .. }) => return Ok(turns),
            other => anyhow::bail!("the instance stands at {other:?}"),
        }
        guest.run_turn()?;
        turns.push(guest.recorder_mut().seal());
    }
}

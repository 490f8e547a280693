//! Attempts of activities, called directly for as long as they ask for nothing of the world.
//!
//! Most of what an attempt costs is the component around its module, and a WASI that is made for
//! it alone; an activity that only computes needs neither. So an attempt may begin here. It is
//! told of its task, of time, randomness and its environment, all of which changes nothing, and
//! its log lines are kept until it ends. If it asks for anything else, or takes longer than a
//! moment, it ends with [`NeedsMore`]: nothing of it was let out, so it can be begun anew as a
//! component with all that it is granted.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Caller, ExternType, InstancePre, Linker, Module, Result, StoreLimits, Trap, bail};
use wasmtime_wasi::clocks::{HostMonotonicClock, MonotonicClock, wall_clock};

use super::imports::define_log;
use super::memory::{Fields, Layout, Lower, Store, larger, record};
use super::wasi::{Seed, Tells, define_told};
use super::{
    Answer, Called, Direct, DirectState, Export, Names, Passing, answer, exported_function, name_and_payload, with,
};
use crate::core::task::Task;
use crate::sandbox::activity::info_of;
use crate::sandbox::bindings::activity::dacapo::workflow::activity_context::TaskInfo;
use crate::sandbox::types::{LogLine, Payload, Tag};
use crate::sandbox::wasi::{interface as wasi_interface, refuse_random};
use crate::store::Grants;

/// The interface of the contract's imports.
const CONTEXT: &str = "dacapo:workflow/activity-context@0.1.";

/// Ticks after which an attempt takes too long: nothing else runs on its thread meanwhile.
const MOMENT: u64 = 2;

/// Bytes of log lines that are kept until an attempt ends.
const MOST_LOGGED: usize = 256 << 10;

/// What an attempt gets only as a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::sandbox) enum NeedsMore {
    /// It asked for something that only components are served.
    #[error("the attempt needs more of the world")]
    World,
    /// Its moment is over.
    #[error("the attempt needs more time")]
    Time,
}

/// A core module with activities, which is instantiated without its component.
pub(in crate::sandbox) struct DirectActivities {
    pre: InstancePre<Attempt>,
    passing: Passing,
    run: Export,
}

/// What the store of one attempt holds.
struct Attempt {
    direct: DirectState,
    task: Arc<Task>,
    grants: Arc<Grants>,
    limits: StoreLimits,
    /// Shown when it has ended.
    lines: Vec<LogLine>,
    /// Bytes of those.
    logged: usize,
    /// Drawn when it is first asked for.
    seed: Option<Seed>,
    /// Begun when it is first read.
    clock: Option<MonotonicClock>,
}

impl Direct for Attempt {
    fn direct(&self) -> &DirectState {
        &self.direct
    }

    fn direct_mut(&mut self) -> &mut DirectState {
        &mut self.direct
    }
}

impl Attempt {
    fn clock(&mut self) -> &MonotonicClock {
        self.clock.get_or_insert_with(MonotonicClock::new)
    }
}

/// As what a component is told of what it is granted.
impl Tells for Attempt {
    fn wall_clock(&self) -> Duration {
        wall_clock().now()
    }

    fn wall_clock_resolution(&self) -> Duration {
        wall_clock().resolution()
    }

    fn monotonic_clock(&mut self) -> u64 {
        self.clock().now()
    }

    fn monotonic_clock_resolution(&mut self) -> u64 {
        self.clock().resolution()
    }

    fn random(&mut self, len: u64) -> Result<Arc<[u8]>> {
        // A component may ask for more at once.
        refuse_random(len).map_err(|_| NeedsMore::World)?;
        let mut bytes = vec![0; len as usize];
        fill(&mut bytes);
        Ok(bytes.into())
    }

    fn random_word(&mut self) -> u64 {
        random_word()
    }

    fn seed(&mut self) -> Seed {
        *self.seed.get_or_insert_with(|| Seed { low: random_word(), high: random_word() })
    }

    /// Every variable that it is granted; one that is granted a secret begins as a component, and
    /// so does one that is granted a folder.
    fn environment(&self) -> Vec<Tag> {
        let traceparent = self.task.traceparent.iter().map(|value| ("TRACEPARENT", value));
        let granted = self.grants.env.iter().map(|(name, value)| (name.as_str(), value));
        traceparent.chain(granted).map(|(name, value)| Tag { name: name.to_owned(), value: value.clone() }).collect()
    }
}

impl DirectActivities {
    /// Links the core module of `component`, which exports its activities as `interface`.
    pub(in crate::sandbox) fn new(module: &Module, component: &Component, interface: &str) -> Result<Self> {
        let types = component.component_type();
        exported_function(component, interface, "run")?
            .typecheck::<(&str, &Payload), (Answer,)>(&types.instance_type())?;
        let mut linker = Linker::new(module.engine());
        linker.allow_shadowing(true);
        for import in module.imports() {
            let ExternType::Func(ty) = import.ty() else { bail!("the core module imports more than functions") };
            linker.func_new(import.module(), import.name(), ty, |_, _, _| Err(NeedsMore::World.into()))?;
        }
        let names: std::collections::BTreeSet<_> = module.imports().map(|import| import.module()).collect();
        for name in names {
            match wasi_interface(name) {
                Some(interface) => define_told(&mut linker, interface, name)?,
                None if name.starts_with(CONTEXT) => define_context(&mut linker, name)?,
                None => {}
            }
        }
        let names = Names(module);
        let (passing, run) = (names.passing()?, names.export(interface, "run")?);
        Ok(Self { pre: linker.instantiate_pre(module)?, passing, run })
    }

    /// One attempt, and what it logged. It is granted no secret and no folder.
    ///
    /// # Errors
    /// [`NeedsMore`], or why it trapped.
    pub(in crate::sandbox) fn run(
        &self,
        task: &Arc<Task>,
        grants: &Arc<Grants>,
        limits: StoreLimits,
    ) -> (Result<Answer>, Vec<LogLine>) {
        let (task, grants) = (task.clone(), grants.clone());
        let attempt = Attempt {
            direct: DirectState::default(),
            task,
            grants,
            limits,
            lines: Vec::new(),
            logged: 0,
            seed: None,
            clock: None,
        };
        let mut store = wasmtime::Store::new(self.pre.module().engine(), attempt);
        store.limiter(|attempt| &mut attempt.limits);
        store.set_epoch_deadline(MOMENT);
        let answer = self.call(&mut store).map_err(|error| match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => NeedsMore::Time.into(),
            _ => error,
        });
        (answer, std::mem::take(&mut store.data_mut().lines))
    }

    fn call(&self, store: &mut wasmtime::Store<Attempt>) -> Result<Answer> {
        let instance = self.pre.instantiate(&mut *store)?;
        self.passing.open(store, instance)?;
        let task = store.data().task.clone();
        let words = name_and_payload(store, &task.name, &task.input.clone().into())?;
        Called::of(store, instance, self.run)?.call(store, words)
    }
}

record!(TaskInfo {
    idempotency_key: String,
    instance: String,
    execution: u32,
    operation: u32,
    attempt: u32,
    deadline: Option<u64>,
    last_heartbeat: Option<Payload>,
} store);

type Asking<'a> = Caller<'a, Attempt>;

fn define_context(linker: &mut Linker<Attempt>, name: &str) -> Result<()> {
    linker.func_wrap(name, "info", |mut asking: Asking<'_>, at: u32| {
        let info = with(&mut asking, |_, attempt| Ok(info_of(&attempt.task)))?;
        answer(&mut asking, &info, at)
    })?;
    define_log(linker, name, |attempt: &mut Attempt, line| {
        let fields = line.fields.iter().map(|field| field.name.len() + field.value.len());
        attempt.logged += size_of::<LogLine>() + line.target.len() + line.message.len() + fields.sum::<usize>();
        attempt.lines.push(line);
        if attempt.logged > MOST_LOGGED { Err(NeedsMore::World.into()) } else { Ok(()) }
    })
}

fn random_word() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives randomness");
}

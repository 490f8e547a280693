//! Exploration: an orchestration under every order of what can happen to it.
//!
//! The real guest runs in the real sandbox; the world outside is a *model* that
//! activities change. An [`Explorer`] takes every order in which activities take
//! effect and their results come back, alone and together in one turn, every race
//! with timers and events, failures and crashes of the host, within bounds that
//! the [`Report`] names. What must hold is said in plain assertions; the first
//! schedule that breaks one is the shortest there is.
//!
//! ```no_run
//! use dacapo::replay::explore::{Explorer, failure};
//! use dacapo::replay::subject::Subject;
//! use std::collections::BTreeSet;
//!
//! type Files = BTreeSet<String>;
//!
//! let crate_folder = Subject::open("examples/exploration/orchestration")?;
//! Explorer::new(&crate_folder)
//!     .activity("files.remove", |files: &mut Files, call| {
//!         let file: String = call.input();
//!         if files.remove(&file) { Ok(()) } else { Err(failure("Gone", file)) }
//!     })
//!     .instance("one", "exploration", ["B1", "B2"])
//!     .instance("two", "exploration", ["B1", "B2"])
//!     .failures(0)
//!     .at_end(|world| assert!(world.ends().any(|(_, end)| end.is_ok()), "nobody won"))
//!     .explore(["B1", "B2"].map(str::to_owned).into())?
//!     .assert_holds();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is taken as one step
//! An activity *takes effect* (the closure runs on the model, as a whole), and
//! later a *turn* is told of it. A *crash* throws every guest away; what had taken
//! effect and was not yet recorded is run again. A *failure* comes before the
//! effect or after it. The *clock* moves to the next time that something is due,
//! at any moment. A guest is made again by replay for each turn, so a crash that
//! repeats nothing is behind every step. Instances may signal and call each other:
//! what one has sent reaches the other later, at any moment
//! ([`neighbours`](super::neighbours)).
//!
//! # What makes it small
//! A turn depends on the instance's history and on what it is told, and on nothing
//! else: it is run once and remembered. Worlds that are equal (histories, what is
//! under way, model, clock; of an instance that has ended, its end alone) are one.
//! Two steps that do not touch each other lead to the same world in either order:
//! the second order is looked up, not run ([`Reductions`]).

mod describe;
mod invariant;
pub mod model_file;
mod report;
mod search;
mod step;
mod turns;
mod world;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::invariant::World;
pub use self::report::{Report, Violation};
use self::turns::Turns;
use self::world::State;
use super::subject::{Subject, SubjectError, Subjects};
use crate::core::event::Event;
use crate::core::ids::{InstanceId, OperationId};
use crate::core::payload::{Failure, FailureKind, Outcome, Payload};
use crate::core::retry::RetryPolicy;
use crate::replay::life::Inbound;

/// What an explored world's model must be: copied at each branch, hashed to
/// recognise equal worlds, printed with a violation.
pub trait Model: Clone + Hash + Debug + 'static {}

impl<M: Clone + Hash + Debug + 'static> Model for M {}

/// One attempt of an activity, as a model's closure sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// The instance that called.
    pub instance: InstanceId,
    /// Which life of it.
    pub execution: u32,
    /// Which of its operations.
    pub operation: OperationId,
    /// From 1. A repetition after a crash has the number of the attempt it repeats.
    pub attempt: u32,
    /// `service.method`.
    pub name: String,
    /// The argument.
    pub payload: Payload,
}

impl Call {
    /// The argument, decoded.
    ///
    /// # Panics
    /// If it is not of that type.
    pub fn input<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.payload.data)
            .unwrap_or_else(|error| panic!("the input of {} is {}: {error}", self.name, self.payload))
    }

    /// The same for every attempt of one call: `instance/execution/operation`.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}/{}", self.instance, self.execution, self.operation)
    }
}

/// An application's failure, for models: `error_type` is what retry policies match.
pub fn failure(error_type: &str, message: impl Into<String>) -> Failure {
    Failure { error_type: error_type.to_owned(), ..Failure::retryable(FailureKind::Application, message) }
}

/// How far is gone. Beyond a bound the report says that it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Steps of one schedule.
    pub depth: u32,
    /// Worlds that are looked at: about a kilobyte of memory each.
    pub worlds: usize,
    /// Failures injected in one schedule.
    pub failures: u32,
    /// Crashes of the host in one schedule.
    pub crashes: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { depth: 200, worlds: 200_000, failures: 1, crashes: 1 }
    }
}

/// What keeps an exploration small. All of it is on unless a measurement turns it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reductions {
    /// Equal worlds are one. Without it, an exploration is a tree of schedules.
    pub recognise: bool,
    /// A turn of one history with the same news is run once.
    pub remember_turns: bool,
    /// The second order of two steps that do not touch each other is looked up.
    pub commute: bool,
}

impl Default for Reductions {
    fn default() -> Self {
        Self { recognise: true, remember_turns: true, commute: true }
    }
}

type Activity<M> = Box<dyn Fn(&mut M, &Call) -> Outcome>;
type WorldCheck<M> = Box<dyn Fn(&World<'_, M>)>;
type HistoryCheck = Box<dyn Fn(&str, &[&Event])>;
type AnswerCheck<M> = Box<dyn Fn(&World<'_, M>, Outcome)>;

/// A query and what must hold of its answer.
struct QueryCheck<M> {
    instance: String,
    name: String,
    input: Payload,
    check: AnswerCheck<M>,
}

/// What is to happen, under which rules, and what must hold. See the module's page.
pub struct Explorer<M> {
    subjects: Subjects,
    activities: BTreeMap<String, Activity<M>>,
    any_activity: Option<Activity<M>>,
    default_retry: BTreeMap<String, RetryPolicy>,
    instances: Vec<(String, String, Payload)>,
    inputs: Vec<(String, Inbound)>,
    bounds: Bounds,
    reductions: Reductions,
    waiting_is_an_end: bool,
    always: Vec<WorldCheck<M>>,
    at_end: Vec<WorldCheck<M>>,
    history: Vec<HistoryCheck>,
    queries: Vec<QueryCheck<M>>,
}

impl<M> Debug for Explorer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explorer")
            .field("subjects", &self.subjects)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

impl<M: Model> Explorer<M> {
    /// Explores orchestrations of that module.
    pub fn new(subject: &Subject) -> Self {
        Self {
            subjects: Subjects::new(subject.clone()),
            activities: BTreeMap::new(),
            any_activity: None,
            default_retry: BTreeMap::new(),
            instances: Vec::new(),
            inputs: Vec::new(),
            bounds: Bounds::default(),
            reductions: Reductions::default(),
            waiting_is_an_end: false,
            always: Vec::new(),
            at_end: Vec::new(),
            history: Vec::new(),
            queries: Vec::new(),
        }
    }

    /// Another module, whose orchestrations are called by its name.
    #[must_use]
    pub fn module(mut self, name: &str, subject: &Subject) -> Self {
        self.subjects.add(name, subject.clone());
        self
    }

    /// What an activity does to the model and returns. A call of an activity that
    /// has no closure is a violation.
    #[must_use]
    pub fn activity<T: Serialize>(
        mut self,
        name: &str,
        act: impl Fn(&mut M, &Call) -> Result<T, Failure> + 'static,
    ) -> Self {
        self.activities.insert(name.to_owned(), speaking_json(act));
        self
    }

    /// What activities do that have no closure of their own.
    #[must_use]
    pub fn any_activity<T: Serialize>(mut self, act: impl Fn(&mut M, &Call) -> Result<T, Failure> + 'static) -> Self {
        self.any_activity = Some(speaking_json(act));
        self
    }

    /// The activity's own retry policy, for calls that give none.
    #[must_use]
    pub fn default_retry(mut self, activity: &str, policy: RetryPolicy) -> Self {
        self.default_retry.insert(activity.to_owned(), policy);
        self
    }

    /// An instance that runs beside the others from the beginning.
    #[must_use]
    pub fn instance(mut self, id: &str, orchestration: &str, input: impl Serialize) -> Self {
        let input = Payload::of(&input).expect("an input is JSON");
        self.instances.push((id.to_owned(), orchestration.to_owned(), input));
        self
    }

    /// An event that comes at any moment, once. Events of the same name come in
    /// the order given here. (The instance may be one that another one calls.)
    #[must_use]
    pub fn event(mut self, instance: &str, name: &str, value: impl Serialize) -> Self {
        let value = Payload::of(&value).expect("a value is JSON");
        self.inputs.push((instance.to_owned(), Inbound::Event(name.to_owned(), value)));
        self
    }

    /// An update that comes at any moment, once; see [`World::updates`].
    #[must_use]
    pub fn update(mut self, instance: &str, name: &str, input: impl Serialize) -> Self {
        let input = Payload::of(&input).expect("an input is JSON");
        let key = format!("update {}", self.inputs.len() + 1);
        self.inputs.push((instance.to_owned(), Inbound::Update(key, name.to_owned(), input)));
        self
    }

    /// A request to end that comes at any moment, once.
    #[must_use]
    pub fn cancel(mut self, instance: &str) -> Self {
        self.inputs.push((instance.to_owned(), Inbound::Cancel("explored".to_owned())));
        self
    }

    /// Somebody ends the instance, at any moment.
    #[must_use]
    pub fn terminate(mut self, instance: &str) -> Self {
        self.inputs.push((instance.to_owned(), Inbound::Terminate("explored".to_owned())));
        self
    }

    /// Sets every bound. See [`Bounds`].
    #[must_use]
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Failures injected in one schedule, before or after the effect; 1 unless set.
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        self.bounds.failures = failures;
        self
    }

    /// Crashes of the host in one schedule; 1 unless set.
    #[must_use]
    pub fn crashes(mut self, crashes: u32) -> Self {
        self.bounds.crashes = crashes;
        self
    }

    /// What keeps it small, for measurements.
    #[must_use]
    pub fn reductions(mut self, reductions: Reductions) -> Self {
        self.reductions = reductions;
        self
    }

    /// An instance may wait for ever; without this, that is a violation.
    #[must_use]
    pub fn may_wait_for_ever(mut self) -> Self {
        self.waiting_is_an_end = true;
        self
    }

    /// An assertion over every world.
    #[must_use]
    pub fn always(mut self, check: impl Fn(&World<'_, M>) + 'static) -> Self {
        self.always.push(Box::new(check));
        self
    }

    /// An assertion over every world in which all instances have ended.
    #[must_use]
    pub fn at_end(mut self, check: impl Fn(&World<'_, M>) + 'static) -> Self {
        self.at_end.push(Box::new(check));
        self
    }

    /// An assertion over an instance's history, after each of its turns.
    #[must_use]
    pub fn history(mut self, check: impl Fn(&str, &[&Event]) + 'static) -> Self {
        self.history.push(Box::new(check));
        self
    }

    /// A query that is asked in every world in which the instance has begun, and an
    /// assertion over what it answers. That it fails is a violation.
    #[must_use]
    pub fn query<T: DeserializeOwned>(
        mut self,
        instance: &str,
        name: &str,
        input: impl Serialize,
        check: impl Fn(&World<'_, M>, T) + 'static,
    ) -> Self {
        let what = format!("the answer of {instance} to {name}");
        let check: AnswerCheck<M> = Box::new(move |world, answer| match answer {
            Ok(answer) => check(world, invariant::decode(&what, &answer)),
            Err(failure) => panic!("{what} is a failure: {failure}"),
        });
        let input = Payload::of(&input).expect("an input is JSON");
        self.queries.push(QueryCheck { instance: instance.to_owned(), name: name.to_owned(), input, check });
        self
    }

    /// Explores from a world with this model.
    ///
    /// # Errors
    /// If an instance cannot be started: its id or its orchestration.
    pub fn explore(self, model: M) -> Result<Report, SubjectError> {
        let mut turns = Turns::new(self.reductions);
        let first = State::first(&self, &mut turns, model)?;
        Ok(search::search(&self, first, turns))
    }
}

fn speaking_json<M, T: Serialize>(act: impl Fn(&mut M, &Call) -> Result<T, Failure> + 'static) -> Activity<M> {
    Box::new(move |model, call| act(model, call).map(|result| Payload::of(&result).expect("a result is JSON")))
}

//! Commits that overlap, on a store whose syncs end when the test says so, and how.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::time::Duration;

use super::*;
use crate::core::event::Started;
use crate::core::turn::{Limits, Recorder};
use crate::engine::{EngineSettings, SystemClock};
use crate::store::redb::RedbStore;
use crate::store::schedule::Schedule;

/// How long something is waited for that is to come at once: a test that would hang fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a sync that has begun is to end.
type End = Sender<Result<(), StoreError>>;

/// Commits of a real store, whose syncs wait for the test.
struct Gated {
    inner: RedbStore,
    begun: Mutex<Sender<End>>,
}

impl Gated {
    fn new(folder: &Path) -> (Self, Receiver<End>) {
        let inner = RedbStore::open(&folder.join("journal.redb")).unwrap();
        let (begun, syncs) = channel();
        (Self { inner, begun: Mutex::new(begun) }, syncs)
    }
}

impl Store for Gated {
    fn commit(&self, epoch: Epoch, batch: &Batch) -> Result<(), StoreError> {
        self.inner.commit(epoch, batch)
    }

    fn append(&self, epoch: Epoch, batch: &Batch) -> Result<u64, StoreError> {
        self.inner.append(epoch, batch)
    }

    fn sync(&self, number: u64) -> Result<(), StoreError> {
        let (end, ended) = channel();
        self.begun.lock().unwrap().send(end).unwrap();
        ended.recv().expect("whoever drops it wants a panic")?;
        self.inner.sync(number)
    }

    fn purge(&self, epoch: Epoch, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        self.inner.purge(epoch, instances)
    }

    fn put_schedule(&self, epoch: Epoch, name: &str, schedule: Option<&Schedule>) -> Result<(), StoreError> {
        self.inner.put_schedule(epoch, name, schedule)
    }

    crate::hand_on_to_inner_store!();
}

/// What a caller was answered: whose turn it was, and why it is not durable.
type Answer = (&'static str, Option<String>);

/// A committer at work, as it is where syncs are slow.
struct Bench {
    groups: Groups,
    syncs: Receiver<End>,
    answers: Receiver<Answer>,
    answer: Sender<Answer>,
    /// Why the engine was stopped.
    stops: Receiver<String>,
    /// Whether it ended by itself, and did not panic.
    ended: Receiver<bool>,
    _runtime: tokio::runtime::Runtime,
    folder: PathBuf,
}

impl Bench {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dacapo-commits-{test}-{}", std::process::id()));
        let _of_a_run_before = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let (store, syncs) = Gated::new(&folder);
        let epoch = store.claim().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (handle, settings) = (runtime.handle().clone(), EngineSettings::default());
        let release = Release {
            activities: Activities::new(handle, clock.clone(), &settings, Arc::new(|_, _, _| {})),
            workers: vec![WorkerLink(channel().0)],
            released: vec![Arc::default()],
            show_log: Arc::new(|_, _, _| {}),
            schedules: Arc::default(),
            spans: settings.spans.clone(),
            clock,
        };
        let (groups, gathered) = sync_channel(GROUPS_AHEAD);
        let ((stop, stops), (answer, answers)) = (channel(), channel());
        let (end, ended) = channel();
        std::thread::spawn(move || {
            let stop = Mutex::new(stop);
            let stop = |why: &str| stop.lock().unwrap().send(why.to_owned()).unwrap();
            let slow = 10 * SLOW_SYNC_US;
            let run = || run_from(&store, epoch, &gathered, &release, &stop, slow);
            let by_itself = catch_unwind(AssertUnwindSafe(run)).is_ok();
            // All of it is gone before the folder is.
            drop((store, release));
            end.send(by_itself).unwrap();
        });
        Self { groups, syncs, answers, answer, stops, ended, _runtime: runtime, folder }
    }

    /// Hands a first turn of `name` over, and waits until its commit is being synced.
    fn begin(&self, name: &'static str) -> End {
        let answer = self.answer.clone();
        self.begin_with(
            name,
            Box::new(move |durable| answer.send((name, durable.err().map(|e| e.to_string()))).unwrap()),
        )
    }

    fn begin_with(&self, name: &str, reply: Reply) -> End {
        let started = Box::new(Started::of_test(name, [7; 32]));
        let (recorder, sealed) = Recorder::start(started, Limits::default(), TimestampMs(1));
        let about = About::of(&recorder.execution, &sealed.record);
        let (instance, execution) = (recorder.execution.started.instance.clone(), 1);
        let turn = Outbound {
            instance,
            execution,
            turn: 1,
            sealed,
            logs: Vec::new(),
            replies: vec![reply],
            due: None,
            adopted: None,
            posts: Vec::new(),
            about,
        };
        self.groups.send(Group { worker: 0, turns: vec![turn], replies: Vec::new(), of: 0 }).unwrap();
        self.syncs.recv_timeout(PATIENCE).expect("its sync begins while others wait")
    }

    /// What callers are answered until nobody is left, why the engine was stopped, and whether
    /// the committer ended by itself.
    fn end(self) -> (Vec<Answer>, Vec<String>, bool) {
        drop((self.groups, self.answer));
        let ended = self.ended.recv_timeout(PATIENCE).expect("the committer ends with its queue");
        std::fs::remove_dir_all(self.folder).unwrap();
        (self.answers.iter().collect(), self.stops.iter().collect(), ended)
    }
}

fn io(why: &str) -> Result<(), StoreError> {
    Err(StoreError::Io(why.to_owned()))
}

#[test]
fn commits_that_are_synced_at_once_are_let_out_in_their_order() {
    let bench = Bench::new("order");
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| bench.begin(name));
    // Those behind the first are durable before it.
    for sync in [d, c, b] {
        sync.send(Ok(())).unwrap();
    }
    assert!(bench.answers.try_recv().is_err(), "nothing is let out before what is in front of it is durable");
    a.send(Ok(())).unwrap();
    let (answers, stops, ended) = bench.end();
    assert_eq!(answers, ["a", "b", "c", "d"].map(|name| (name, None)));
    assert!(stops.is_empty() && ended);
}

#[test]
fn behind_a_sync_that_fails_nothing_is_let_out() {
    let bench = Bench::new("failed");
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| bench.begin(name));
    d.send(Ok(())).unwrap();
    c.send(io("the last one")).unwrap();
    b.send(io("the disk is gone")).unwrap();
    a.send(Ok(())).unwrap();
    let (answers, stops, ended) = bench.end();
    let whys: Vec<_> = answers.iter().map(|(name, why)| (*name, why.as_deref().unwrap_or("durable"))).collect();
    assert_eq!(whys[0], ("a", "durable"), "{whys:?}");
    for (answer, name) in whys[1..].iter().zip(["b", "c", "d"]) {
        assert!(answer.0 == name && answer.1.contains("the disk is gone"), "{whys:?}");
    }
    assert_eq!((whys.len(), stops.len(), ended), (4, 1, true), "whoever failed first says why, once: {stops:?}");
}

#[test]
fn a_sync_that_panics_has_failed() {
    let bench = Bench::new("sync-panicked");
    let [a, b, c] = ["a", "b", "c"].map(|name| bench.begin(name));
    drop(b);
    c.send(Ok(())).unwrap();
    a.send(Ok(())).unwrap();
    let (answers, stops, ended) = bench.end();
    let [("a", None), ("b", Some(of_b)), ("c", Some(of_c))] = &answers[..] else { panic!("{answers:?}") };
    assert!(of_b.contains("it panicked") && of_c.contains("it panicked"), "{answers:?}");
    assert!(stops.len() == 1 && ended, "{stops:?}");
}

#[test]
fn behind_a_commit_whose_letting_out_panics_nothing_is_let_out() {
    let bench = Bench::new("panicked");
    let a = bench.begin_with("a", Box::new(|_| panic!("on purpose")));
    let b = bench.begin("b");
    b.send(Ok(())).unwrap();
    a.send(Ok(())).unwrap();
    let (answers, stops, ended) = bench.end();
    let [("b", Some(why))] = &answers[..] else { panic!("{answers:?}") };
    assert!(why.contains("panicked") && !ended, "{why}");
    assert_eq!(stops.len(), 1, "{stops:?}");
}

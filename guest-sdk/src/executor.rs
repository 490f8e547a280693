//! The executor: tasks, the operations they wait for, and the order in which
//! they run. It owns every future of the guest between turns.
//!
//! Invariants, on which replay rests:
//! - deliveries wake in the order of the list, tasks run first in, first out;
//! - only what was woken is polled;
//! - once the root task has ended nothing runs and nothing is dropped, so no
//!   request follows the outcome.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use futures::future::LocalBoxFuture;
use rustc_hash::FxBuildHasher;

use crate::error::{Failure, Result};
use crate::imports;
use crate::payload::Payload;

thread_local! {
    /// A component instance runs one orchestration, on one thread.
    static EXECUTOR: Executor = const { Executor::new() };
}

pub(crate) type QueryHandler = Rc<dyn Fn(Payload) -> Result<Payload>>;

/// Nothing here is walked through, so a map's order is no matter. Its hashes are the
/// same in every run.
struct Executor {
    next_task: Cell<u64>,
    tasks: RefCell<HashMap<u64, Task, FxBuildHasher>>,
    ready: RefCell<VecDeque<u64>>,
    operations: RefCell<HashMap<u32, Slot, FxBuildHasher>>,
    cancellation: RefCell<Cancellation>,
    queries: RefCell<BTreeMap<String, QueryHandler>>,
    outcome: RefCell<Option<Result<Payload>>>,
    ended: Cell<bool>,
}

struct Task {
    /// None while it is being polled.
    future: Option<LocalBoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
}

/// An operation that somebody waits for, or that waits to be looked at.
enum Slot {
    Waiting(Option<Waker>),
    Completed(Result<Payload, Failure>),
}

struct Cancellation {
    reason: Option<String>,
    next_waiter: u64,
    waiters: BTreeMap<u64, Waker>,
}

impl Executor {
    const fn new() -> Self {
        Self {
            next_task: Cell::new(0),
            tasks: RefCell::new(HashMap::with_hasher(FxBuildHasher)),
            ready: RefCell::new(VecDeque::new()),
            operations: RefCell::new(HashMap::with_hasher(FxBuildHasher)),
            cancellation: RefCell::new(Cancellation { reason: None, next_waiter: 0, waiters: BTreeMap::new() }),
            queries: RefCell::new(BTreeMap::new()),
            outcome: RefCell::new(None),
            ended: Cell::new(false),
        }
    }
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            // Gone only while the thread ends (natively), when nobody will run.
            let _ = EXECUTOR.try_with(|e| e.ready.borrow_mut().push_back(self.task));
        }
    }
}

/// Makes `root` the orchestration of this component instance.
pub(crate) fn start(root: LocalBoxFuture<'static, Result<Payload>>) {
    add_task(Box::pin(async move {
        let outcome = root.await;
        EXECUTOR.with(|e| {
            e.ended.set(true);
            *e.outcome.borrow_mut() = Some(outcome);
        });
    }));
}

/// Runs until no task is ready. The outcome, if the root task has ended.
pub(crate) fn run() -> Option<Result<Payload>> {
    while !has_ended() {
        let next = EXECUTOR.with(|e| e.ready.borrow_mut().pop_front());
        let Some(id) = next else { break };
        poll_task(id);
    }
    EXECUTOR.with(|e| e.outcome.borrow_mut().take())
}

/// True also while the thread ends (natively), when nobody will run.
pub(crate) fn has_ended() -> bool {
    EXECUTOR.try_with(|e| e.ended.get()).unwrap_or(true)
}

fn poll_task(id: u64) {
    let taken = EXECUTOR.with(|e| {
        let mut tasks = e.tasks.borrow_mut();
        let task = tasks.get_mut(&id)?;
        Some((task.future.take()?, Arc::clone(&task.waker)))
    });
    // Ended or aborted since it was woken.
    let Some((mut future, task_waker)) = taken else {
        return;
    };
    task_waker.queued.store(false, Ordering::Relaxed);
    let waker = Waker::from(task_waker);
    let poll = future.as_mut().poll(&mut TaskContext::from_waker(&waker));
    if has_ended() {
        // Leaked with all other tasks: dropping would record cancellations.
        std::mem::forget(future);
        return;
    }
    // Dropped here, outside of any borrow: destructors may ask the executor.
    let _done = EXECUTOR.with(|e| {
        let mut tasks = e.tasks.borrow_mut();
        match (tasks.get_mut(&id), poll) {
            (Some(task), Poll::Pending) => {
                task.future = Some(future);
                None
            }
            _ => {
                tasks.remove(&id);
                Some(future)
            }
        }
    });
}

fn add_task(future: LocalBoxFuture<'static, ()>) -> u64 {
    EXECUTOR.with(|e| {
        let id = e.next_task.replace(e.next_task.get() + 1);
        let waker = Arc::new(TaskWaker { task: id, queued: AtomicBool::new(true) });
        let task = Task { future: Some(future), waker };
        e.tasks.borrow_mut().insert(id, task);
        e.ready.borrow_mut().push_back(id);
        id
    })
}

// ---- operations ----

/// Somebody will ask for the outcome of this operation.
pub(crate) fn expect_operation(id: u32) {
    EXECUTOR.with(|e| e.operations.borrow_mut().insert(id, Slot::Waiting(None)));
}

/// Takes the outcome of an operation, or leaves a waker for it.
pub(crate) fn poll_operation(id: u32, cx: &mut TaskContext<'_>) -> Poll<Result<Payload, Failure>> {
    EXECUTOR.with(|e| {
        let mut operations = e.operations.borrow_mut();
        if let Some(Slot::Waiting(waker)) = operations.get_mut(&id) {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match operations.remove(&id) {
            Some(Slot::Completed(outcome)) => Poll::Ready(outcome),
            _ => {
                operations.insert(id, Slot::Waiting(Some(cx.waker().clone())));
                Poll::Pending
            }
        }
    })
}

/// Nobody asks for the outcome of this operation, which goes on.
pub(crate) fn forget_operation(id: u32) {
    EXECUTOR.with(|e| e.operations.borrow_mut().remove(&id));
}

/// Nobody waits for this operation any more. The host hears of it if it has not
/// completed.
pub(crate) fn abandon_operation(id: u32) {
    if has_ended() {
        return;
    }
    let slot = EXECUTOR.with(|e| e.operations.borrow_mut().remove(&id));
    // One whose outcome has come is cancelled as well: if it waited for an event,
    // nobody has taken that, and the host gives it to the next wait.
    if slot.is_some() {
        imports::cancel(id);
    }
}

/// Stores an outcome and wakes who waits for it. False if nobody ever asked for
/// it, or it has an outcome already.
pub(crate) fn complete_operation(id: u32, outcome: Result<Payload, Failure>) -> bool {
    let woken = EXECUTOR.with(|e| {
        let mut operations = e.operations.borrow_mut();
        match operations.get_mut(&id) {
            Some(slot @ Slot::Waiting(_)) => {
                let before = std::mem::replace(slot, Slot::Completed(outcome));
                Some(before)
            }
            _ => None,
        }
    });
    match woken {
        Some(Slot::Waiting(waker)) => {
            if let Some(waker) = waker {
                waker.wake();
            }
            true
        }
        _ => false,
    }
}

// ---- cancellation ----

/// Somebody asks the orchestration to end. The first reason stays.
pub(crate) fn request_cancellation(reason: String) {
    let waiters = EXECUTOR.with(|e| {
        let mut cancellation = e.cancellation.borrow_mut();
        cancellation.reason.get_or_insert(reason);
        std::mem::take(&mut cancellation.waiters)
    });
    waiters.into_values().for_each(Waker::wake);
}

pub(crate) fn cancellation_reason() -> Option<String> {
    EXECUTOR.with(|e| e.cancellation.borrow().reason.clone())
}

/// Completes with the reason when the orchestration is asked to end; see
/// [`Context::cancelled`](crate::Context::cancelled).
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug, Default)]
pub struct Cancelled {
    waiter: Option<u64>,
}

impl Future for Cancelled {
    type Output = String;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<String> {
        EXECUTOR.with(|e| {
            let mut cancellation = e.cancellation.borrow_mut();
            if let Some(reason) = &cancellation.reason {
                return Poll::Ready(reason.clone());
            }
            let waiter = *self.waiter.get_or_insert(cancellation.next_waiter);
            cancellation.next_waiter = cancellation.next_waiter.max(waiter + 1);
            cancellation.waiters.insert(waiter, cx.waker().clone());
            Poll::Pending
        })
    }
}

impl futures::future::FusedFuture for Cancelled {
    fn is_terminated(&self) -> bool {
        false
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            let _ = EXECUTOR.try_with(|e| e.cancellation.borrow_mut().waiters.remove(&waiter));
        }
    }
}

// ---- queries ----

pub(crate) fn set_query(name: String, handler: QueryHandler) {
    EXECUTOR.with(|e| e.queries.borrow_mut().insert(name, handler));
}

/// The handler of that name, or the names that there are.
pub(crate) fn query(name: &str) -> Result<QueryHandler, Vec<String>> {
    EXECUTOR.with(|e| {
        let queries = e.queries.borrow();
        queries.get(name).cloned().ok_or_else(|| queries.keys().cloned().collect())
    })
}

// ---- spawned tasks ----

/// The result of a spawned task; see [`Context::spawn`](crate::Context::spawn).
/// Dropping it lets the task go on.
#[derive(Debug)]
pub struct JoinHandle<T> {
    task: u64,
    result: Rc<RefCell<Joined<T>>>,
}

#[derive(Debug)]
struct Joined<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

pub(crate) fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    let result = Rc::new(RefCell::new(Joined { value: None, waker: None }));
    let sink = Rc::clone(&result);
    let task = add_task(Box::pin(async move {
        let value = future.await;
        let waker = {
            let mut joined = sink.borrow_mut();
            joined.value = Some(value);
            joined.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }));
    JoinHandle { task, result }
}

impl<T> JoinHandle<T> {
    /// Ends the task where it waits: its operations are cancelled.
    pub fn abort(self) {
        // A task that aborts itself is dropped when its poll returns.
        let _task = EXECUTOR.with(|e| e.tasks.borrow_mut().remove(&self.task));
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.result.borrow().value.is_some()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<T> {
        let mut joined = self.result.borrow_mut();
        match joined.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                joined.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

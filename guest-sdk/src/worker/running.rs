//! What a worker has: its heartbeats, its leases, its reports.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::api::{Api, Problem, Task, failure_json, to_wire};
use crate::activity::ActivityHost;
use crate::error::Result;
use crate::payload::Payload;

/// Every task that runs, by token.
#[derive(Default)]
pub(super) struct Tasks {
    all: Mutex<HashMap<String, Arc<Running>>>,
    beaten: Arc<Notify>,
}

/// One task that runs.
pub(super) struct Running {
    /// The host's answer to a heartbeat: stop.
    is_cancelled: AtomicBool,
    beat: Mutex<Beat>,
    beaten: Arc<Notify>,
    heartbeat_ms: Option<u64>,
}

#[derive(Default)]
struct Beat {
    is_due: bool,
    progress: Option<Payload>,
}

/// What became of a task.
pub(super) struct Report {
    pub(super) token: String,
    pub(super) outcome: Result<Payload>,
}

impl Tasks {
    pub(super) fn begin(&self, task: &Task) -> Arc<Running> {
        let running = Arc::new(Running {
            is_cancelled: AtomicBool::new(false),
            beat: Mutex::default(),
            beaten: self.beaten.clone(),
            heartbeat_ms: task.heartbeat_ms,
        });
        self.all().insert(task.token.clone(), running.clone());
        running
    }

    fn end(&self, token: &str) {
        self.all().remove(token);
    }

    /// Heartbeats that are to be sent.
    fn take_beats(&self) -> Vec<Value> {
        let mut beats = Vec::new();
        for (token, running) in &*self.all() {
            let mut beat = lock(&running.beat);
            if std::mem::take(&mut beat.is_due) {
                beats.push(json!({ "token": token, "progress": beat.progress.take().as_ref().map(to_wire) }));
            }
        }
        beats
    }

    /// Takes what the host says: those that are not to go on learn it.
    fn hear(&self, said: Vec<super::api::Said>) {
        let all = self.all();
        for said in said {
            if matches!(said.answer.as_str(), "cancelled" | "lost")
                && let Some(running) = all.get(&said.token)
            {
                running.is_cancelled.store(true, Ordering::Release);
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Running>>> {
        lock(&self.all)
    }
}

impl Running {
    pub(super) fn host(running: &Arc<Self>) -> impl ActivityHost + use<> {
        HostOf(running.clone())
    }
}

struct HostOf(Arc<Running>);

impl ActivityHost for HostOf {
    /// Sent in the background; the answer is that to an earlier one.
    fn heartbeat(&self, progress: Option<Payload>) -> bool {
        let mut beat = lock(&self.0.beat);
        beat.is_due = true;
        beat.progress = progress.or(beat.progress.take());
        drop(beat);
        self.0.beaten.notify_one();
        self.0.is_cancelled.load(Ordering::Acquire)
    }
}

/// Sends heartbeats as they come, in batches, and renews the leases of tasks that
/// send none.
pub(super) async fn send_heartbeats(api: Api, tasks: Arc<Tasks>, lease: Duration) {
    let mut renewal = tokio::time::interval(lease / 3);
    renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
    loop {
        let (what, told) = tokio::select! {
            () = tasks.beaten.notified() => {
                // A loop that reports each step is not to fill the network.
                tokio::time::sleep(pause_between(&tasks)).await;
                ("heartbeat", tasks.take_beats())
            }
            _ = renewal.tick() => {
                let renew = |token: &String| json!({ "token": token, "lease_ms": lease_ms });
                ("extend", tasks.all().keys().map(renew).collect())
            }
        };
        if told.is_empty() {
            continue;
        }
        // One that is lost on the way is followed by another.
        if let Ok(said) = api.tell(what, told).await {
            tasks.hear(said);
        }
    }
}

fn pause_between(tasks: &Tasks) -> Duration {
    let shortest = tasks.all().values().filter_map(|running| running.heartbeat_ms).min();
    Duration::from_millis(shortest.map_or(200, |ms| (ms / 10).min(200)))
}

/// Reports what ended, in batches, until nothing more comes. A host that does not
/// answer is told again for a while; after that the leases are over anyway.
pub(super) async fn send_reports(api: Api, tasks: Arc<Tasks>, mut reports: mpsc::UnboundedReceiver<Report>) {
    while let Some(first) = reports.recv().await {
        let mut batch = vec![first];
        while let Ok(more) = reports.try_recv() {
            batch.push(more);
        }
        let tokens: Vec<String> = batch.iter().map(|report| report.token.clone()).collect();
        let (mut completed, mut failed) = (Vec::new(), Vec::new());
        for Report { token, outcome } in batch {
            match outcome {
                Ok(output) => completed.push(json!({ "token": token, "output": to_wire(&output) })),
                Err(error) => failed.push(failure_json(&token, error)),
            }
        }
        // What an attempt said last reaches the next one with its failure.
        if !failed.is_empty() {
            tell(&api, "heartbeat", tasks.take_beats()).await;
        }
        tokio::join!(tell(&api, "complete", completed), tell(&api, "fail", failed));
        tokens.iter().for_each(|token| tasks.end(token));
    }
}

async fn tell(api: &Api, what: &str, told: Vec<Value>) {
    if told.is_empty() {
        return;
    }
    for attempt in 0..8u32 {
        match api.tell(what, told.clone()).await {
            Ok(_) => return,
            Err(Problem::Unreachable(_)) => tokio::time::sleep(Duration::from_millis(100 << attempt)).await,
            Err(problem) => {
                tracing::error!(?problem, "a report was refused; the task is given out again");
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

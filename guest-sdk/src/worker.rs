//! Serves activities natively, from a process of its own, against a host's worker
//! API: the same traits and implementations as in a component, with threads,
//! sockets and files as the operating system has them. Needs the feature `worker`.
//!
//! A [`Worker`] runs on the tokio runtime that it is started in. It claims no more
//! tasks than it may run at the same time, keeps their leases alive while they run,
//! sends heartbeats in batches in the background, and hands back what it has not
//! finished when it stops.

mod api;
mod running;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::api::{Api, Claim, Problem};
use self::running::{Report, Running, Tasks};
use crate::activity::{ActivityContext, ActivitySet, BoxFuture, IntoActivitySet};
use crate::error::{Error, Result};
use crate::payload::Payload;

pub use self::api::WorkerError;

/// A worker that is being put together.
///
/// ```no_run
/// # use dacapo_sdk::{ActivityContext, Result, activities, worker::Worker};
/// #[activities(service = "greeter")]
/// trait Greeter {
///     async fn greet(&self, ctx: ActivityContext, name: String) -> Result<String>;
/// }
///
/// struct Polite;
///
/// impl Greeter for Polite {
///     async fn greet(&self, ctx: ActivityContext, name: String) -> Result<String> {
///         ctx.heartbeat(&"thinking of something nice")?;
///         Ok(format!("Good day, {name}"))
///     }
/// }
///
/// # async fn f(stop: impl Future<Output = ()>) -> Result<(), dacapo_sdk::worker::WorkerError> {
/// Worker::new("http://127.0.0.1:7007")
///     .serve(GreeterActivities(Polite))
///     .queue("greetings")
///     .concurrency(16)
///     .run_until(stop)
///     .await
/// # }
/// ```
#[must_use = "a worker does nothing until it is run"]
pub struct Worker {
    host: String,
    token: Option<String>,
    ca: Option<Vec<u8>>,
    name: String,
    queues: Vec<String>,
    set: ActivitySet,
    concurrency: usize,
    lease: Duration,
    grace: Duration,
    around: Vec<Around>,
}

/// One attempt, on its way through the interceptors.
#[derive(Debug)]
pub struct Attempt {
    /// `service.method`.
    pub name: String,
    /// What the attempt is told; also its heartbeats.
    pub ctx: ActivityContext,
    /// The argument.
    pub input: Payload,
    /// What interceptors of the host gave along.
    pub headers: std::collections::BTreeMap<String, String>,
}

/// The rest of the way: the next interceptor, or the activity.
pub type Next = Box<dyn FnOnce(Attempt) -> BoxFuture + Send>;

type Around = Arc<dyn Fn(Attempt, Next) -> BoxFuture + Send + Sync>;

/// How long a claim waits at the host.
const CLAIM_WAIT: Duration = Duration::from_secs(20);
/// The longest pause before a host that does not answer is asked again.
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl Worker {
    /// A worker for the host at `host`, such as `http://127.0.0.1:7007`.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            token: std::env::var("DACAPO_TOKEN").ok().filter(|token| !token.is_empty()),
            ca: None,
            name: format!("process {}", std::process::id()),
            queues: Vec::new(),
            set: ActivitySet::default(),
            concurrency: 8,
            lease: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            around: Vec::new(),
        }
    }

    /// The token with the scope `worker` that the host asks for; the variable
    /// `DACAPO_TOKEN` unless told otherwise.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The certificate, in PEM, that the host's must lead to; the public ones unless
    /// told otherwise.
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Its name, for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Serves these too.
    pub fn serve(mut self, activities: impl IntoActivitySet) -> Self {
        self.set = self.set.and(activities);
        self
    }

    /// Serves this queue too; without any, the default one.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queues.push(queue.into());
        self
    }

    /// Tasks at the same time; 8 unless told otherwise.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = tasks.max(1);
        self
    }

    /// After so long without a word the host gives its tasks to others; 30 seconds
    /// unless told otherwise.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// How long what runs may take when it stops; 10 seconds unless told otherwise.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Runs `around` around every attempt: it may look at it, change it, refuse it
    /// with an error, and do the same with its outcome. The first one given is the
    /// outermost. One that fails or panics fails the attempt.
    ///
    /// ```no_run
    /// # use dacapo_sdk::worker::Worker;
    /// let worker = Worker::new("http://127.0.0.1:7007").around(|attempt, next| async move {
    ///     println!("{} begins", attempt.ctx.idempotency_key());
    ///     next(attempt).await
    /// });
    /// ```
    pub fn around<F>(mut self, around: impl Fn(Attempt, Next) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Payload>> + Send + 'static,
    {
        self.around.push(Arc::new(move |attempt, next| Box::pin(around(attempt, next))));
        self
    }

    /// Works until `stop` is ready: then it claims nothing more, lets what runs end
    /// (for [`grace`](Self::grace) at most), reports it and takes its leave. A host
    /// that does not answer is asked again until it does.
    ///
    /// # Errors
    /// The host refuses the registration or the token, or serves another version of the
    /// API; or the token or the certificate given cannot be one.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let mut stop = pin!(stop);
        let api = Api::new(&self.host, self.token.as_deref(), self.ca.as_deref())?;
        let mut work = Work::new(&self, api.clone());
        let mut pause = Pause::default();
        let mut id = None;
        let mut claim: Option<api::Answering<Vec<api::Task>>> = None;
        loop {
            if id.is_none() {
                let registered = tokio::select! {
                    biased;
                    () = &mut stop => return Ok(()),
                    registered = api.register(&self.name, &self.queues, &self.set) => registered,
                };
                match registered {
                    Ok(worker) => id = Some(worker),
                    Err(Problem::Refused(error)) => return Err(error),
                    Err(Problem::Unreachable(_) | Problem::UnknownWorker) => {
                        tokio::select! {
                            () = &mut stop => return Ok(()),
                            () = pause.wait() => continue,
                        }
                    }
                }
            }
            let free = self.concurrency.saturating_sub(work.running());
            if claim.is_none() && free > 0 {
                let asked = Claim { max: free, wait_ms: ms(CLAIM_WAIT), lease_ms: ms(self.lease) };
                claim = Some(api.claim(id.as_deref().unwrap_or_default(), asked));
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = work.one_ended(), if work.running() > 0 => {}
                answer = answered(&mut claim), if claim.is_some() => {
                    claim = None;
                    match answer {
                        Ok(tasks) => {
                            pause = Pause::default();
                            tasks.into_iter().for_each(|task| work.begin(task));
                        }
                        Err(Problem::UnknownWorker) => id = None,
                        Err(Problem::Refused(error)) => return Err(error),
                        Err(Problem::Unreachable(_)) => pause.wait().await,
                    }
                }
            }
        }
        work.finish(self.grace).await;
        if let Some(id) = id {
            // Whatever a claim under way still brings is given out again with this.
            let _ = api.unregister(&id).await;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("host", &self.host).field("name", &self.name).finish_non_exhaustive()
    }
}

async fn answered<T>(claim: &mut Option<api::Answering<T>>) -> Result<T, Problem> {
    match claim {
        Some(claim) => claim.await,
        None => std::future::pending().await,
    }
}

/// What a worker has under way.
struct Work {
    set: Arc<ActivitySet>,
    around: Arc<[Around]>,
    tasks: Arc<Tasks>,
    attempts: JoinSet<()>,
    reports: mpsc::UnboundedSender<Report>,
    reporting: tokio::task::JoinHandle<()>,
    beating: tokio::task::JoinHandle<()>,
}

impl Work {
    fn new(worker: &Worker, api: Api) -> Self {
        let tasks = Arc::new(Tasks::default());
        // Its bound is the worker's concurrency: only what runs is reported.
        let (reports, taken) = mpsc::unbounded_channel();
        Self {
            set: Arc::new(worker.set.clone()),
            around: worker.around.clone().into(),
            reporting: tokio::spawn(running::send_reports(api.clone(), tasks.clone(), taken)),
            beating: tokio::spawn(running::send_heartbeats(api, tasks.clone(), worker.lease)),
            tasks,
            attempts: JoinSet::new(),
            reports,
        }
    }

    fn running(&self) -> usize {
        self.attempts.len()
    }

    async fn one_ended(&mut self) {
        let _ = self.attempts.join_next().await;
    }

    fn begin(&mut self, task: api::Task) {
        let running = self.tasks.begin(&task);
        let attempt = Attempt {
            name: task.name.clone(),
            ctx: ActivityContext::new(task.info(), Running::host(&running)),
            input: task.input(),
            headers: task.headers.clone(),
        };
        let outcome = tokio::spawn(through(self.around.clone(), 0, self.set.clone(), attempt));
        let (reports, token) = (self.reports.clone(), task.token);
        let aborted = outcome.abort_handle();
        self.attempts.spawn(async move {
            let _stops = AbortOnDrop(aborted);
            let outcome = outcome.await.unwrap_or_else(|stopped| Err(panicked(&task.name, stopped)));
            let _ = reports.send(Report { token, outcome });
        });
    }

    /// Lets what runs end, and reports it.
    async fn finish(mut self, grace: Duration) {
        let all = async { while self.attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(tasks = self.attempts.len(), "tasks were cut off; they are given out again");
            self.attempts.shutdown().await;
        }
        drop(self.reports);
        let _ = self.reporting.await;
        self.beating.abort();
    }
}

/// An attempt that is cut off stops.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Through the interceptors from `at` on, and to the activity.
fn through(around: Arc<[Around]>, at: usize, set: Arc<ActivitySet>, attempt: Attempt) -> BoxFuture {
    match around.get(at).cloned() {
        Some(interceptor) => {
            let next: Next = Box::new(move |attempt| through(around, at + 1, set, attempt));
            interceptor(attempt, next)
        }
        None => Box::pin(async move { set.run(&attempt.name, attempt.ctx, attempt.input).await }),
    }
}

fn panicked(name: &str, stopped: tokio::task::JoinError) -> Error {
    let text = stopped.try_into_panic().map(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    });
    match text {
        Ok(text) => Error::new(format!("the activity {name} panicked: {text}")).with_type("Panic"),
        Err(_) => Error::new(format!("the activity {name} was stopped")).with_type("Stopped"),
    }
}

/// Longer and longer waits.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Pause {
    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(MAX_PAUSE);
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

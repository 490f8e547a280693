//! What the host asks of a component with activities: the exports of the
//! activity world, over the set that `export_activities!` builds.

use std::future::Future;

use crate::activity::{Activity, ActivityContext, ActivityHost, ActivityInfo, ActivitySet};
use crate::bindings::activity::dacapo::workflow::activity_context as host;
use crate::bindings::activity::exports::dacapo::workflow::activities::ActivityOffer;
use crate::bindings::types as wit;
use crate::error::Result;
use crate::logging;
use crate::payload::Payload;
use crate::time::Timestamp;

/// The export `describe`.
pub fn describe(set: &ActivitySet) -> Vec<ActivityOffer> {
    prepare();
    set.activities.iter().map(offer).collect()
}

fn offer(activity: &Activity) -> ActivityOffer {
    ActivityOffer {
        name: activity.name.clone(),
        description: activity.description.clone(),
        input_schema: activity.input_schema.clone(),
        output_schema: activity.output_schema.clone(),
        default_retry: activity.default_retry.clone().map(Into::into),
    }
}

/// The export `run`: one attempt.
pub fn run(set: &ActivitySet, name: &str, input: wit::Payload) -> Result<wit::Payload, wit::Failure> {
    prepare();
    let ctx = ActivityContext::new(task_info(), Component);
    let outcome = block_on(set.run(name, ctx, input.into()));
    outcome.map(Into::into).map_err(|error| error.into_failure().into())
}

fn prepare() {
    #[cfg(target_family = "wasm")]
    logging::install(host::log);
    #[cfg(not(target_family = "wasm"))]
    let _ = (logging::install, host::log);
}

fn task_info() -> ActivityInfo {
    let info = host::info();
    ActivityInfo {
        idempotency_key: info.idempotency_key,
        instance: info.instance,
        execution: info.execution,
        operation: info.operation,
        attempt: info.attempt,
        deadline: info.deadline.map(Timestamp::from_unix_ms),
        last_heartbeat: info.last_heartbeat.map(Into::into),
    }
}

/// The host of a component.
struct Component;

impl ActivityHost for Component {
    fn heartbeat(&self, progress: Option<Payload>) -> bool {
        host::heartbeat(progress.map(Into::into).as_ref())
    }
}

#[cfg(all(feature = "http", target_os = "wasi"))]
fn block_on(attempt: impl Future<Output = Result<Payload>>) -> Result<Payload> {
    wstd::runtime::block_on(attempt)
}

/// Without a reactor a future can only wait for what it woke itself.
#[cfg(not(all(feature = "http", target_os = "wasi")))]
fn block_on(attempt: impl Future<Output = Result<Payload>>) -> Result<Payload> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut attempt = std::pin::pin!(attempt);
    loop {
        if let Poll::Ready(outcome) = attempt.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            let message = "the activity waits for something that nothing here can complete; \
                for HTTP and timers enable the feature \"http\" of dacapo-sdk";
            return Err(crate::Error::new(message).with_type("WaitsForever").non_retryable());
        }
    }
}

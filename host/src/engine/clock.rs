//! Time, as the engine sees it: the only place that reads the machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::core::ids::TimestampMs;

/// Where the engine gets its time. A test can own it.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> TimestampMs;

    /// How long a thread may sleep that has something to do at `due`.
    fn until(&self, due: TimestampMs) -> Duration;

    /// Calls `wake` whenever time has moved otherwise than by passing.
    fn on_jump(&self, wake: Box<dyn Fn() + Send + Sync>);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> TimestampMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimestampMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn until(&self, due: TimestampMs) -> Duration {
        Duration::from_millis(due.since(self.now()))
    }

    fn on_jump(&self, _wake: Box<dyn Fn() + Send + Sync>) {}
}

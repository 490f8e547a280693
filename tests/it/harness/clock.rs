//! Time in the test's hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dacapo::core::ids::TimestampMs;
use dacapo::engine::Clock;

use super::lock;

type Waker = Box<dyn Fn() + Send + Sync>;

/// Time that stands still until it is moved.
#[derive(Default)]
pub(crate) struct ManualClock {
    now: AtomicU64,
    wakers: Mutex<Vec<Waker>>,
}

impl ManualClock {
    pub(crate) fn at(now: u64) -> Arc<Self> {
        Arc::new(Self { now: AtomicU64::new(now), wakers: Mutex::default() })
    }

    /// Moves time on, and lets the engine know.
    pub(crate) fn advance(&self, ms: u64) {
        self.advance_quietly(ms);
        lock(&self.wakers).iter().for_each(|wake| wake());
    }

    /// Moves time on to `time`, if it is not there.
    pub(crate) fn advance_to(&self, time: u64) {
        self.advance(time.saturating_sub(self.now().0));
    }

    /// Moves time on; the engine sees it when it next looks.
    pub(crate) fn advance_quietly(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.now.load(Ordering::SeqCst))
    }

    fn until(&self, due: TimestampMs) -> Duration {
        if due <= self.now() { Duration::ZERO } else { Duration::from_secs(3600) }
    }

    fn on_jump(&self, wake: Waker) {
        lock(&self.wakers).push(wake);
    }
}

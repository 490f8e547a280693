//! How fast a generation is folded beside commits.
//!
//! Folded in one go it would keep a core busy for as long as it takes, and commits and turns
//! would queue up meanwhile: the slowest of many are those that come just then. So the thread
//! that folds rests in between, as long as it is ahead of the generation that fills behind
//! it, and nobody waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Between two rests, at least.
const WORK: Duration = Duration::from_millis(1);

/// Work that is rested for, at most: whoever comes then waits for the rest of that rest.
const MOST_WORK: Duration = Duration::from_millis(4);

/// A rest, in times of the work before it: a machine that has nothing else to do folds at a
/// fourth of its speed.
const RESTS: u32 = 3;

/// How far it is to be when the next generation is full, in parts of its own. It is ahead
/// when it is further than its share of that: from its first work on, since a start without
/// rests is as long as anything else that turns queue up for.
const AT_FULL: f64 = 1.1;

/// Those who wait for the tables, or for all to be folded.
#[derive(Debug, Default)]
pub(super) struct Waiting(AtomicUsize);

/// Somebody waits for as long as this is there.
pub(super) struct Waits<'w>(&'w Waiting);

impl Waiting {
    pub(super) fn begin(&self) -> Waits<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waits(self)
    }

    pub(super) fn is_anybody(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a thread that folds has rested last.
pub(super) struct Pace<'w> {
    waiting: &'w Waiting,
    since: Instant,
}

impl<'w> Pace<'w> {
    pub(super) fn new(waiting: &'w Waiting) -> Self {
        Self { waiting, since: Instant::now() }
    }

    /// Rests, if it has worked for a while, has `folded` more of its generation (0 to 1) than it
    /// needs to have while so much of the next one has been `filled`, and nobody waits.
    pub(super) fn rest(&mut self, folded: f64, filled: impl FnOnce() -> f64) {
        let worked = self.since.elapsed();
        if worked < WORK {
            return;
        }
        if let Some(rest) = rest_after(worked, folded, filled()).filter(|_| !self.waiting.is_anybody()) {
            std::thread::sleep(rest);
        }
        self.since = Instant::now();
    }
}

/// How long one rests that has worked for so long and is so far.
fn rest_after(worked: Duration, folded: f64, filled: f64) -> Option<Duration> {
    (folded > AT_FULL * filled).then(|| worked.min(MOST_WORK) * RESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ahead_rests_and_who_is_not_does_not() {
        assert_eq!(rest_after(WORK, 0.5, 0.2), Some(3 * WORK));
        assert_eq!(rest_after(WORK, 0.001, 0.0), Some(3 * WORK), "also at its beginning");
        assert_eq!(rest_after(Duration::from_secs(1), 0.5, 0.2), Some(3 * MOST_WORK), "whoever comes waits no longer");
        assert_eq!(rest_after(WORK, 0.5, 0.5), None, "it is to be done before the next one is full");
        assert_eq!(rest_after(WORK, 1.0, 1.5), None);
    }

    #[test]
    fn somebody_waits_for_as_long_as_he_says() {
        let waiting = Waiting::default();
        let (one, other) = (waiting.begin(), waiting.begin());
        drop(one);
        assert!(waiting.is_anybody());
        drop(other);
        assert!(!waiting.is_anybody());
    }
}

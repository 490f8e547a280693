//! When a failed attempt is tried again: arithmetic without a clock.
//!
//! The algorithm is numbered and the number is recorded with each execution
//! ([`super::event::Started::retry_algorithm`]), so that a host which computes
//! differently still treats running instances as before. Algorithm 1 is
//! exponential back-off with subtractive jitter: attempt *n+1* starts
//! `min(first * coefficient^(n-1), max) * (1 - jitter * u)` after attempt *n*
//! failed, where *u* in 0..1 is drawn from the execution's seed, the operation
//! and the attempt, and so is the same wherever it is computed.

use serde::{Deserialize, Serialize};

use super::ids::{OperationId, TimestampMs};
use super::payload::Failure;

/// The algorithm that new executions are started with.
pub const ALGORITHM: u8 = 1;

/// How often and how fast a call is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Milliseconds from the first failure to the second attempt.
    pub first_interval_ms: u64,
    /// Growth per attempt, at least 1.
    pub coefficient: f64,
    /// No wait is longer than this, milliseconds.
    pub max_interval_ms: u64,
    /// The first attempt counted; 0 is without bound.
    pub max_attempts: u32,
    /// Milliseconds since scheduling after which no attempt starts.
    pub total_timeout_ms: Option<u64>,
    /// The part of a wait that is random, 0 to 1.
    pub jitter: f64,
    /// Error types that are never tried again.
    pub non_retryable: Vec<String>,
}

/// What a retry decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Recorded with the execution.
    pub algorithm: u8,
    /// The execution's seed.
    pub seed: &'a [u8; 32],
    /// The call.
    pub operation: OperationId,
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// When the call was asked for.
    pub scheduled_at: TimestampMs,
    /// When it failed.
    pub failed_at: TimestampMs,
}

impl RetryPolicy {
    /// Says what is wrong with a policy, if anything is.
    pub fn fault(&self) -> Option<String> {
        if !self.coefficient.is_finite() || self.coefficient < 1.0 {
            return Some(format!("coefficient must be at least 1, found {}", self.coefficient));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Some(format!("jitter must be between 0 and 1, found {}", self.jitter));
        }
        if self.max_interval_ms < self.first_interval_ms {
            return Some(format!(
                "max interval must be at least the first interval of {} ms, found {} ms",
                self.first_interval_ms, self.max_interval_ms
            ));
        }
        None
    }
}

/// When the next attempt starts, or none if `failure` is the call's last word.
pub fn next_attempt(policy: Option<&RetryPolicy>, failure: &Failure, at: Attempt<'_>) -> Option<TimestampMs> {
    let policy = policy?;
    if failure.non_retryable || policy.non_retryable.contains(&failure.error_type) && !failure.error_type.is_empty() {
        return None;
    }
    if policy.max_attempts != 0 && at.attempt >= policy.max_attempts {
        return None;
    }
    let start = at.failed_at.plus(wait_ms(policy, at));
    let too_late = policy.total_timeout_ms.is_some_and(|total| start > at.scheduled_at.plus(total));
    (!too_late).then_some(start)
}

fn wait_ms(policy: &RetryPolicy, at: Attempt<'_>) -> u64 {
    debug_assert!(at.algorithm <= ALGORITHM, "an unknown algorithm is refused when the history is loaded");
    let max = policy.max_interval_ms as f64;
    let mut full = policy.first_interval_ms as f64;
    // Multiplied step by step: `powi` may round differently on another machine.
    for _ in 1..at.attempt.min(MAX_STEPS) {
        if full >= max || policy.coefficient == 1.0 {
            break;
        }
        full *= policy.coefficient;
    }
    (full.min(max) * (1.0 - policy.jitter * unit_interval(at))) as u64
}

/// Where growth ends at the latest, so that a coefficient of hardly more than 1
/// costs no time; part of algorithm 1.
const MAX_STEPS: u32 = 100_000;

/// A number in 0..1 that depends on nothing but the arguments.
fn unit_interval(at: Attempt<'_>) -> f64 {
    let mut hasher = blake3::Hasher::new_keyed(at.seed);
    hasher.update(b"retry jitter");
    hasher.update(&at.operation.to_le_bytes());
    hasher.update(&at.attempt.to_le_bytes());
    let bytes = hasher.finalize();
    let bits = u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::super::payload::FailureKind;
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            first_interval_ms: 100,
            coefficient: 2.0,
            max_interval_ms: 350,
            max_attempts: 5,
            total_timeout_ms: None,
            jitter: 0.0,
            non_retryable: vec!["CardDeclined".into()],
        }
    }

    fn after(policy: &RetryPolicy, attempt: u32, error_type: &str) -> Option<u64> {
        let mut failure = Failure::retryable(FailureKind::Application, "no");
        failure.error_type = error_type.into();
        let at = Attempt {
            algorithm: 1,
            seed: &[7; 32],
            operation: 3,
            attempt,
            scheduled_at: TimestampMs(1_000),
            failed_at: TimestampMs(2_000),
        };
        next_attempt(Some(policy), &failure, at).map(|t| t.since(TimestampMs(2_000)))
    }

    #[test]
    fn waits_grow_to_the_maximum_and_end() {
        let waits: Vec<_> = (1..=5).map(|n| after(&policy(), n, "")).collect();
        assert_eq!(waits, [Some(100), Some(200), Some(350), Some(350), None]);
    }

    #[test]
    fn named_errors_and_the_total_timeout_end_retries() {
        assert_eq!(after(&policy(), 1, "CardDeclined"), None);
        let hasty = RetryPolicy { total_timeout_ms: Some(1_150), ..policy() };
        assert_eq!(after(&hasty, 1, ""), Some(100));
        assert_eq!(after(&hasty, 2, ""), None);
    }

    #[test]
    fn jitter_shortens_by_at_most_its_part_and_is_the_same_each_time() {
        let jittery = RetryPolicy { jitter: 0.5, ..policy() };
        for attempt in 1..5 {
            let (full, wait) = (after(&policy(), attempt, "").unwrap(), after(&jittery, attempt, "").unwrap());
            assert!(wait <= full && wait >= full / 2, "{wait} of {full}");
            assert_eq!(after(&jittery, attempt, ""), Some(wait));
        }
    }

    #[test]
    fn huge_attempts_do_not_overflow() {
        let endless = RetryPolicy { max_attempts: 0, ..policy() };
        assert_eq!(after(&endless, u32::MAX, ""), Some(350));
    }
}

//! When a failed attempt of an activity is tried again. The arithmetic is the
//! host's; here is only how a policy is said.

use std::time::Duration;

use crate::bindings::types as wit;
use crate::time::whole_ms;

/// When and how often a failed attempt is tried again.
///
/// Attempt n+1 starts `min(first_interval * coefficient^(n-1), max_interval)`
/// after attempt n failed, less a random part of at most `jitter` of it.
/// Unless said otherwise: one second first, doubled each time, at most 60 seconds,
/// no jitter, no total timeout, every error type retried.
///
/// ```
/// use dacapo_sdk::RetryPolicy;
/// use std::time::Duration;
///
/// let policy = RetryPolicy::attempts(3)
///     .first_interval(Duration::from_millis(200))
///     .max_interval(Duration::from_secs(5))
///     .jitter(0.1)
///     .non_retryable(["CardDeclined"]);
/// # let _ = policy;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Wait before the second attempt.
    pub first_interval: Duration,
    /// How much longer each wait is than the one before; at least 1.0.
    pub coefficient: f64,
    /// No wait is longer.
    pub max_interval: Duration,
    /// Attempts in all, the first one counted; 0: without bound.
    pub max_attempts: u32,
    /// From when the call was asked for until no further attempt starts.
    pub total_timeout: Option<Duration>,
    /// The random part of a wait, 0.0 (none) to 1.0 (all of it).
    pub jitter: f64,
    /// Error types that end the retries at once.
    pub non_retryable: Vec<String>,
}

impl RetryPolicy {
    /// At most `max_attempts` in all, the first one counted; 0: without bound.
    pub const fn attempts(max_attempts: u32) -> Self {
        Self {
            first_interval: Duration::from_secs(1),
            coefficient: 2.0,
            max_interval: Duration::from_secs(60),
            max_attempts,
            total_timeout: None,
            jitter: 0.0,
            non_retryable: Vec::new(),
        }
    }

    /// One attempt, no retry.
    pub const fn once() -> Self {
        Self::attempts(1)
    }

    /// Without bound: until it succeeds or fails with an error that is not retried.
    pub const fn forever() -> Self {
        Self::attempts(0)
    }

    /// Wait before the second attempt.
    #[must_use]
    pub const fn first_interval(mut self, interval: Duration) -> Self {
        self.first_interval = interval;
        self
    }

    /// How much longer each wait is than the one before; at least 1.0.
    #[must_use]
    pub const fn coefficient(mut self, coefficient: f64) -> Self {
        self.coefficient = coefficient;
        self
    }

    /// No wait is longer.
    #[must_use]
    pub const fn max_interval(mut self, interval: Duration) -> Self {
        self.max_interval = interval;
        self
    }

    /// No attempt starts later than this after the call was asked for.
    #[must_use]
    pub const fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = Some(timeout);
        self
    }

    /// The random part of a wait, 0.0 (none) to 1.0 (all of it).
    #[must_use]
    pub const fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// Error types that end the retries at once.
    #[must_use]
    pub fn non_retryable<S: Into<String>>(mut self, error_types: impl IntoIterator<Item = S>) -> Self {
        self.non_retryable.extend(error_types.into_iter().map(Into::into));
        self
    }
}

impl From<RetryPolicy> for wit::RetryPolicy {
    fn from(policy: RetryPolicy) -> Self {
        Self {
            first_interval: whole_ms(policy.first_interval),
            coefficient: policy.coefficient,
            max_interval: whole_ms(policy.max_interval),
            max_attempts: policy.max_attempts,
            total_timeout: policy.total_timeout.map(whole_ms),
            jitter: policy.jitter,
            non_retryable: policy.non_retryable,
        }
    }
}

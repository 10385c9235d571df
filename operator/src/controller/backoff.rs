//! Exponential backoff of failed tiers: retries after 1 s, 2 s, 4 s … 5 min, each with up to 25 % of jitter.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const INITIAL_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(300);

/// Consecutive failures by tier. A restart of the operator resets them, at the cost of one early retry.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
    jitter: RandomState,
}

impl Backoff {
    /// Counts a failure of a tier and returns the delay before the retry.
    pub(crate) fn record_failure(&self, tier: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(tier.to_owned()).or_default();
        *count = count.saturating_add(1);
        delay(*count, self.jitter.hash_one((tier, *count)))
    }

    /// Resets the failures of a tier.
    pub(crate) fn reset(&self, tier: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(tier);
    }
}

/// Returns the delay after `failures` consecutive failures; `jitter` is any number.
fn delay(failures: u32, jitter: u64) -> Duration {
    let percent = 75 + u32::try_from(jitter % 51).unwrap_or_default();
    (double(INITIAL_DELAY, failures, MAX_DELAY) * percent / 100).min(MAX_DELAY)
}

/// Returns `first` after one failure, doubled after each further one, and `max` at the most.
pub(super) fn double(first: Duration, failures: u32, max: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_one_second_to_five_minutes() {
        let delays: Vec<u64> = (1..=11).map(|failures| delay(failures, 25).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn jitter_is_a_quarter_at_most_and_never_exceeds_the_longest() {
        for jitter in 0..200 {
            let millis = delay(4, jitter).as_millis();
            assert!((6_000..=10_000).contains(&millis), "{millis}");
            assert!(delay(u32::MAX, jitter) <= MAX_DELAY);
        }
    }

    #[test]
    fn a_success_starts_over() {
        let backoff = Backoff::default();
        for _ in 0..5 {
            backoff.record_failure("default");
        }
        backoff.reset("default");
        assert!(backoff.record_failure("default") < Duration::from_secs(2));
    }
}

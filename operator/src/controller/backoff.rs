//! When a tier that failed is tried again: after 1 s, 2 s, 4 s … 5 min, each with up to a quarter more or less.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// Failures in sequence, by tier. It is lost at a restart, which costs nothing but one early try.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
    jitter: RandomState,
}

impl Backoff {
    /// Counts a failure and says how long to wait.
    pub fn failed(&self, tier: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(tier.to_owned()).or_default();
        *count = count.saturating_add(1);
        delay(*count, self.jitter.hash_one((tier, *count)))
    }

    /// Forgets the failures of a tier.
    pub fn succeeded(&self, tier: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(tier);
    }
}

/// The delay after so many failures in sequence; `jitter` is any number.
fn delay(failures: u32, jitter: u64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let percent = 75 + u32::try_from(jitter % 51).unwrap_or_default();
    (doubled.min(LONGEST) * percent / 100).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_one_second_to_five_minutes() {
        let plain: Vec<u64> = (1..=11).map(|failures| delay(failures, 25).as_secs()).collect();
        assert_eq!(plain, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn jitter_is_a_quarter_at_most_and_never_exceeds_the_longest() {
        for jitter in 0..200 {
            let shown = delay(4, jitter).as_millis();
            assert!((6_000..=10_000).contains(&shown), "{shown}");
            assert!(delay(u32::MAX, jitter) <= LONGEST);
        }
    }

    #[test]
    fn a_success_starts_over() {
        let backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed("default");
        }
        backoff.succeeded("default");
        assert!(backoff.failed("default") < Duration::from_secs(2));
    }
}

//! Exponential backoff of failed tiers: retries after 1 s, 2 s, 4 s … 5 min, each with up to 25 % of jitter.
//!
//! After a conflict 10 s are the longest: the watch brings what is there at any time. While a roll-out is looked at,
//! the next look is: an object that is refused keeps no roll-out from going back.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const INITIAL_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(300);
const MAX_DELAY_AFTER_CONFLICT: Duration = Duration::from_secs(10);
/// Delay before a look at a roll-out of a failed tier, at least.
const MIN_LOOK_DELAY: Duration = Duration::from_secs(5);

/// Consecutive failures by tier. A restart of the operator resets them, at the cost of one early retry.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
    /// Delay before the next look at the roll-out of each tier that has one.
    looks: Mutex<HashMap<String, Duration>>,
    jitter: RandomState,
}

impl Backoff {
    /// Counts a failure of a tier and returns the delay before the retry.
    pub(crate) fn record_failure(&self, tier: &str, is_conflict: bool) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(tier.to_owned()).or_default();
        *count = count.saturating_add(1);
        let max = if is_conflict { MAX_DELAY_AFTER_CONFLICT } else { MAX_DELAY };
        let look = self.looks.lock().unwrap_or_else(PoisonError::into_inner).get(tier).copied();
        let max = look.map_or(max, |look| look.max(MIN_LOOK_DELAY).min(max));
        delay(*count, self.jitter.hash_one((tier, *count))).min(max)
    }

    /// Sets the delay before the next look at the roll-out of a tier; `None` when nobody looks at it.
    pub(crate) fn set_next_look(&self, tier: &str, next_look: Option<Duration>) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        match next_look {
            Some(next_look) => drop(looks.insert(tier.to_owned(), next_look)),
            None => drop(looks.remove(tier)),
        }
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
            backoff.record_failure("default", false);
        }
        backoff.reset("default");
        assert!(backoff.record_failure("default", false) < Duration::from_secs(2));
    }

    #[test]
    fn a_failed_tier_whose_roll_out_is_looked_at_is_tried_again_at_the_next_look() {
        let backoff = Backoff::default();
        let last_delay = || (0..20).map(|_| backoff.record_failure("default", false)).last().unwrap();
        backoff.set_next_look("default", Some(Duration::from_secs(1)));
        assert_eq!(last_delay(), MIN_LOOK_DELAY);
        backoff.set_next_look("default", Some(Duration::from_secs(20)));
        assert_eq!(last_delay(), Duration::from_secs(20));
        backoff.set_next_look("default", None);
        assert!(last_delay() > Duration::from_secs(200));
    }

    #[test]
    fn a_conflict_is_tried_again_within_ten_seconds_however_often_it_was_before() {
        let backoff = Backoff::default();
        let delays: Vec<Duration> = (0..20).map(|_| backoff.record_failure("default", true)).collect();
        assert!(delays[0] < Duration::from_secs(2), "{delays:?}");
        assert!(delays[5..].iter().all(|delay| *delay == Duration::from_secs(10)), "{delays:?}");
        assert!(backoff.record_failure("default", false) > Duration::from_secs(60));
    }
}

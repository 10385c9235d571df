//! Times as integers, for atomics: what is known of a server is read without a lock.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Start of the count.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time in microseconds since the first use, from 1 on. 0 stands for a time that never was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::upstream) struct Timestamp(u64);

impl Timestamp {
    /// A time that never was.
    pub(super) const NEVER: Self = Self(0);

    /// Returns the timestamp of a time. Times before the first use are 1.
    pub(in crate::upstream) fn of(time: Instant) -> Self {
        let elapsed = time.saturating_duration_since(*EPOCH);
        Self(1 + elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros()))
    }

    /// Creates the timestamp of this many microseconds.
    pub(in crate::upstream) const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds.
    pub(in crate::upstream) const fn micros(self) -> u64 {
        self.0
    }

    /// Returns the microseconds since an earlier time; 0 since a later one.
    pub(in crate::upstream) const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time that comes this much later.
    pub(super) const fn after(self, time: Duration) -> Self {
        Self(self.0 + time.as_secs() * 1_000_000 + time.subsec_micros() as u64)
    }

    /// Returns the time since an earlier one; zero since a later one.
    pub(in crate::upstream) const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_as_far_apart_as_their_times_and_never_zero() {
        Timestamp::of(Instant::now());
        let now = Instant::now();
        let later = now + Duration::from_micros(1_234_567);
        let apart = Timestamp::of(later).since(Timestamp::of(now));
        assert!(apart.abs_diff(Duration::from_micros(1_234_567)) <= Duration::from_micros(1), "{apart:?}");
        assert_eq!(Timestamp::of(now).since(Timestamp::of(later)), Duration::ZERO);
        assert!(Timestamp::of(now) > Timestamp::NEVER);
    }
}

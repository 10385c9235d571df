//! Pace of background refreshes of stale answers while all servers of a pool are down. Pure: the time is a parameter.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shortest interval between two refreshes. One response is enough for all names: the pool is up with it.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);

/// Limit of five refreshes a second.
#[derive(Debug, Default)]
pub(super) struct RefreshPace {
    last: Mutex<Option<Instant>>,
}

impl RefreshPace {
    /// Returns whether a refresh may start at `now`, and records it if so.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|at| now.saturating_duration_since(at) >= REFRESH_INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_refreshes_a_second_start_however_many_names_are_stale() {
        let pace = RefreshPace::default();
        let start = Instant::now();
        let started = (0..10_000).filter(|millis| pace.take(start + Duration::from_millis(*millis))).count();
        assert_eq!(started, 50);
    }
}

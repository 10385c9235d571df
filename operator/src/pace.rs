//! Pace of requests: a slot for each, at equal distances.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Pace that several writers share.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Time between two slots.
    interval: Duration,
    /// First slot that is free; `None` before the first request.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// Builds a pace with this time between two requests.
    pub(crate) const fn new(interval: Duration) -> Self {
        Self { interval, next: Mutex::new(None) }
    }

    /// Takes the next free slot and returns its time; `None` when it is later than `until`.
    pub(crate) fn reserve(&self, now: Instant, until: Instant) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = next.map_or(now, |next| next.max(now));
        if slot > until {
            return None;
        }
        *next = Some(slot + self.interval);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_slots_than_the_pace_allows_and_none_is_later_than_asked() {
        let pace = Pace::new(Duration::from_millis(50));
        let start = Instant::now();
        let until = start + Duration::from_secs(4);
        let slots: Vec<Instant> = (0..500).map_while(|_| pace.reserve(start, until)).collect();
        assert_eq!(slots.len(), 81);
        assert!(slots.windows(21).all(|slots| slots[20] - slots[0] >= Duration::from_secs(1)));
        assert_eq!(slots.last(), Some(&until));
    }

    #[test]
    fn a_pace_that_rested_saves_nothing_up() {
        let pace = Pace::new(Duration::from_millis(50));
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let until = later + Duration::from_millis(10);
        assert_eq!(pace.reserve(start, until), Some(start));
        assert_eq!(pace.reserve(later, until), Some(later));
        assert_eq!(pace.reserve(later, until), None);
    }
}

//! Ceiling in force: a token bucket (GCRA) in atomics, which a watcher fills at a rate that changes. Pure: the time is
//! a parameter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Depth of the bucket: the tenth of a second that a query may wait.
const DEPTH: u64 = Duration::from_millis(100).as_nanos() as u64;
/// Nanoseconds of a second.
const SECOND: f64 = 1e9;
/// Intervals between two packets that stand for no ceiling, and for one of no packet at all.
const NO_CEILING: u64 = 0;
const NO_PACKETS: u64 = u64::MAX;

/// Ceiling of the packets to one upstream.
#[derive(Debug)]
pub struct Ceiling {
    epoch: Instant,
    /// Nanoseconds between two packets.
    interval: AtomicU64,
    /// When the bucket is full again, in nanoseconds since `epoch`.
    free_at: AtomicU64,
}

impl Ceiling {
    /// Creates one that is not in force.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { epoch: now, interval: AtomicU64::new(NO_CEILING), free_at: AtomicU64::new(0) }
    }

    /// Replaces the packets a second; `None` for no ceiling.
    pub fn set(&self, packets_per_second: Option<f64>) {
        let interval = match packets_per_second {
            None => NO_CEILING,
            Some(rate) if rate < 0.1 => NO_PACKETS,
            Some(rate) => ((SECOND / rate) as u64).max(1),
        };
        self.interval.store(interval, Ordering::Relaxed);
    }

    /// Returns whether a ceiling is in force.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.interval.load(Ordering::Relaxed) != NO_CEILING
    }

    /// Returns whether a packet could be taken at `now`.
    #[must_use]
    pub fn has_room(&self, now: Instant) -> bool {
        match self.interval.load(Ordering::Relaxed) {
            NO_CEILING => true,
            NO_PACKETS => false,
            interval => self.free_at.load(Ordering::Relaxed) <= self.nanos(now) + DEPTH.saturating_sub(interval),
        }
    }

    /// Takes packets at `now` that leave together; returns false when there is no room, and takes none.
    #[must_use]
    pub fn take(&self, packets: u32, now: Instant) -> bool {
        let interval = self.interval.load(Ordering::Relaxed);
        let now = self.nanos(now);
        let take = |free_at: u64| {
            let has_room = free_at <= now + DEPTH.saturating_sub(interval);
            has_room.then(|| free_at.max(now) + u64::from(packets) * interval)
        };
        interval == NO_CEILING
            || interval != NO_PACKETS && self.free_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Charges packets that leave at `now` whether there is room or not.
    pub fn charge(&self, packets: u32, now: Instant) {
        let interval = self.interval.load(Ordering::Relaxed);
        if interval != NO_CEILING && interval != NO_PACKETS {
            let now = self.nanos(now);
            let charge = |free_at: u64| Some((free_at.max(now) + u64::from(packets) * interval).min(now + 2 * DEPTH));
            let _always_some = self.free_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge);
        }
    }

    fn nanos(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_the_ceiling_and_a_tenth_and_a_new_one_counts_at_once() {
        let start = Instant::now();
        let ceiling = Ceiling::new(start);
        let taken = |from: u32| {
            let times = (from..from + 1_000).map(|millis| start + Duration::from_millis(millis.into()));
            times.map(|now| (0..5).filter(|_| ceiling.take(1, now)).count()).sum::<usize>()
        };
        assert_eq!(taken(0), 5_000);
        ceiling.set(Some(100.0));
        assert!((99..=111).contains(&taken(1_000)));
        ceiling.set(Some(0.0));
        assert_eq!(taken(2_000), 0);
        ceiling.set(Some(400.0));
        assert!((396..=441).contains(&taken(3_000)));
        ceiling.set(None);
        assert!(!ceiling.is_in_force() && taken(4_000) == 5_000);
    }

    #[test]
    fn packets_that_are_charged_put_off_the_next_ones() {
        let start = Instant::now();
        let ceiling = Ceiling::new(start);
        ceiling.set(Some(10.0));
        assert!(ceiling.has_room(start));
        ceiling.charge(1, start);
        assert!(!ceiling.has_room(start) && !ceiling.take(1, start));
        assert!(ceiling.take(1, start + Duration::from_millis(101)));
    }
}

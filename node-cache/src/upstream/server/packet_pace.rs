//! Pace of packets to the servers of a last resort: a token bucket (GCRA) in one atomic. Pure: the time is a parameter.
//!
//! In no second more packets are taken than the rate: a tenth of it may come in a burst, the rest is spaced evenly.
//! Packets that are charged without being asked for, such as those of a connection, put off what follows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Part of the rate that may come in one burst: one in this many packets.
const BURST_SHARE: u64 = 10;

/// Rate of packets of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketRate {
    /// Packets a second that all processes together may send; at least 1.
    pub packets_per_second: u32,
    /// Number of processes that share them; at least 1.
    pub processes: u32,
}

/// Token bucket of one process.
#[derive(Debug)]
pub(in crate::upstream) struct PacketPace {
    started_at: Instant,
    /// Nanoseconds between two packets.
    interval: u64,
    /// Nanoseconds by which a packet may come too early.
    tolerance: u64,
    /// When the next packet would be due at an even pace, in nanoseconds since `started_at`.
    due_at: AtomicU64,
}

impl PacketPace {
    /// Makes a full bucket.
    pub(in crate::upstream) fn new(rate: PacketRate, now: Instant) -> Self {
        let [rate, processes] = [rate.packets_per_second, rate.processes].map(|number| u64::from(number.max(1)));
        let burst = rate / (processes * BURST_SHARE);
        let interval = (1_000_000_000 * processes).div_ceil(rate - burst * processes);
        Self { started_at: now, interval, tolerance: burst * interval, due_at: AtomicU64::new(0) }
    }

    /// Returns whether a packet could be taken at `now`.
    pub(in crate::upstream) fn has_room(&self, now: Instant) -> bool {
        self.due_at.load(Ordering::Relaxed) <= self.nanoseconds(now) + self.tolerance
    }

    /// Takes a packet at `now`; returns false when there is none.
    pub(in crate::upstream) fn take(&self, now: Instant) -> bool {
        let now = self.nanoseconds(now);
        let take = |due_at: u64| (due_at <= now + self.tolerance).then(|| due_at.max(now) + self.interval);
        self.due_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Charges packets that are sent at `now` whether there is room or not.
    pub(in crate::upstream) fn charge(&self, packets: u64, now: Instant) {
        let now = self.nanoseconds(now);
        let charge = |due_at: u64| Some(due_at.max(now) + packets * self.interval);
        let _always_some = self.due_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge);
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let since: Duration = now.saturating_duration_since(self.started_at);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Returns how many packets each second takes at the most, and all of 60 seconds together, when a hundred are asked
    /// for in each millisecond.
    fn taken(packets_per_second: u32, processes: u32) -> (usize, usize) {
        let start = Instant::now();
        let pace = PacketPace::new(PacketRate { packets_per_second, processes }, start);
        let mut times = Vec::new();
        for millisecond in 0..60_000_u32 {
            let now = start + millisecond * MILLISECOND;
            let count = (0..100).take_while(|_| pace.take(now)).count();
            times.extend(std::iter::repeat_n(millisecond, count));
        }
        let in_second = |first: usize| times[first..].iter().take_while(|time| **time < times[first] + 1000).count();
        ((0..times.len()).map(in_second).max().unwrap_or_default(), times.len())
    }

    #[test]
    fn no_second_takes_more_than_the_rate_and_nine_tenths_of_it_are_used() {
        for (rate, processes, each) in [(1, 1, 1), (7, 1, 7), (100, 2, 50), (100, 1, 100), (10_000, 8, 1250)] {
            let (most, total) = taken(rate, processes);
            assert!(most <= each, "{rate} for {processes}: {most} in a second");
            assert!(total >= 60 * each * 88 / 100, "{rate} for {processes}: {total} in a minute");
        }
        let (most, total) = taken(1, 8);
        assert!(most == 1 && (7..=8).contains(&total), "one in eight seconds: {total}");
    }

    #[test]
    fn an_unused_second_is_no_credit_and_what_is_charged_is_paid_later() {
        let start = Instant::now();
        let pace = PacketPace::new(PacketRate { packets_per_second: 100, processes: 1 }, start);
        let now = start + 60_000 * MILLISECOND;
        let burst = (0..1000).take_while(|_| pace.take(now)).count();
        assert_eq!(burst, 11);
        assert!(!pace.has_room(now));
        pace.charge(90, now);
        assert!(!pace.take(now + 900 * MILLISECOND) && pace.has_room(now + 1100 * MILLISECOND));
    }

    #[test]
    fn threads_that_take_at_once_get_no_more_together() {
        let start = Instant::now();
        let pace = PacketPace::new(PacketRate { packets_per_second: 1000, processes: 1 }, start);
        let take_all = || (0..1000_u32).filter(|millisecond| pace.take(start + *millisecond * MILLISECOND)).count();
        let total: usize = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(take_all));
            threads.into_iter().map(|thread| thread.join().unwrap_or(usize::MAX / 8)).sum()
        });
        assert!(total <= 1000, "{total}");
    }
}

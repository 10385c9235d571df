//! Load of one server: peak latency and attempts in flight, as atomics. Pure: the time is a parameter.
//!
//! The latency is a peak EWMA: it follows a slower response at once, and faster ones by half in [`HALF_LIFE`]. Without
//! responses it decays too, so that a server that was slow is tried again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::timestamp::Timestamp;

/// Time in which the latency decays by half, in microseconds.
const HALF_LIFE: u64 = 5_000_000;
/// Latency below which servers count as equally fast, in microseconds. Among resolvers of a zone the nearest one would
/// get all queries otherwise, for a gain that no client notices.
const MIN_LATENCY: u64 = 5_000;
/// Time constant in which the best latency is forgotten without responses, in microseconds.
const BEST_LATENCY_DECAY: u64 = 60_000_000;
/// Binary logarithm of the number of slower responses in which the best latency follows them.
const BEST_LATENCY_WEIGHT_LOG2: u32 = 5;
/// Bits of the time in the word of the latency, which wraps around after 19 hours: a server without a query for so long
/// keeps its latency a little longer.
const TIME_BITS: u32 = 36;
const MAX_LATENCY: u64 = (1 << (u64::BITS - TIME_BITS)) - 1;

/// Load of one server. Updates that meet may lose one of the two: each response brings the next one.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Latency in microseconds, and the time at which it was so: 28 and 36 bits.
    latency: AtomicU64,
    /// Lowest latency of late, in microseconds; 0 before the first response.
    best_latency: AtomicU32,
    in_flight: AtomicU32,
}

impl Load {
    /// Returns the score of the server: the lower, the sooner it is queried. Servers without a response yet have the
    /// latency of a fast one.
    pub(super) fn score(&self, now: Timestamp) -> u64 {
        self.latency_micros(now).max(MIN_LATENCY) * (u64::from(self.in_flight()) + 1)
    }

    /// Returns the latency at `now`; zero before the first response.
    #[cfg(test)]
    fn latency(&self, now: Timestamp) -> Duration {
        Duration::from_micros(self.latency_micros(now))
    }

    fn latency_micros(&self, now: Timestamp) -> u64 {
        let (latency, age) = self.latency_and_age(now);
        decayed(latency, age)
    }

    fn latency_and_age(&self, now: Timestamp) -> (u64, u64) {
        let word = self.latency.load(Ordering::Relaxed);
        (word >> TIME_BITS, now.micros().wrapping_sub(word) & ((1 << TIME_BITS) - 1))
    }

    /// Returns the lowest latency of late, which is that of the way to the server; `None` before the first response.
    /// Without further ones it decays.
    pub(super) fn best_latency(&self, now: Timestamp) -> Option<Duration> {
        let best = u64::from(self.best_latency.load(Ordering::Relaxed));
        let (_, age) = self.latency_and_age(now);
        (best > 0).then(|| Duration::from_micros(best * BEST_LATENCY_DECAY / (BEST_LATENCY_DECAY + age)))
    }

    /// Records the latency of a response. That of a failure counts only when it is slow: to fail fast is no merit.
    pub(super) fn record(&self, round_trip: Duration, is_failure: bool, now: Timestamp) {
        let sample = u64::try_from(round_trip.as_micros()).unwrap_or(MAX_LATENCY).min(MAX_LATENCY);
        let (latency, age) = self.latency_and_age(now);
        let updated = match latency > sample {
            true if is_failure => return,
            true => sample + decayed(latency - sample, age),
            false => sample,
        };
        self.latency.store(updated << TIME_BITS | now.micros() & ((1 << TIME_BITS) - 1), Ordering::Relaxed);
        let best = u64::from(self.best_latency.load(Ordering::Relaxed));
        let best =
            if best == 0 || sample < best { sample } else { best + ((sample - best) >> BEST_LATENCY_WEIGHT_LOG2) };
        self.best_latency.store(u32::try_from(best.max(1)).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Returns the number of attempts in flight.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts an attempt that starts.
    pub(super) fn start_attempt(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt that ends.
    pub(super) fn end_attempt(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns what is left of an excess after this many microseconds: half of it after each half-life, and in between
/// along a straight line. It is rounded down, so that some of it goes with each response, however fast they come.
const fn decayed(excess: u64, age: u64) -> u64 {
    let halved = match age / HALF_LIFE {
        halves @ 0..=63 => excess >> halves,
        _ => 0,
    };
    halved * (2 * HALF_LIFE - age % HALF_LIFE) / (2 * HALF_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_micros(1);

    fn after(time: Duration) -> Timestamp {
        Timestamp::from_micros(1 + u64::try_from(time.as_micros()).unwrap())
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_latency_follows_a_slow_response_at_once_and_fast_ones_slowly() {
        let load = Load::default();
        load.record(millis(10), false, START);
        load.record(millis(500), false, after(millis(1)));
        assert_eq!(load.latency(after(millis(1))), millis(500));
        for number in 0..100 {
            load.record(millis(10), false, after(millis(2 + 10 * number)));
        }
        let later = load.latency(after(millis(1000)));
        assert!(later > millis(420) && later < millis(470), "{later:?} after a second");
        for number in 100..10_000 {
            load.record(millis(10), false, after(millis(2 + 10 * number)));
        }
        assert!(load.latency(after(millis(100_000))) < millis(12));
    }

    #[test]
    fn a_server_that_is_not_queried_is_forgiven() {
        let load = Load::default();
        load.record(millis(900), false, START);
        assert_eq!([5, 10].map(|seconds| load.latency(after(millis(1000 * seconds)))), [450, 225].map(millis));
        assert!(load.latency(after(millis(40_000))) < millis(5), "it is as good as any other");
        assert!(load.latency(after(millis(3_600_000))) < millis(1));
    }

    #[test]
    fn attempts_in_flight_multiply_the_score_and_small_latencies_are_equal() {
        let [near, far] = [1, 4].map(|latency| {
            let load = Load::default();
            load.record(millis(latency), false, START);
            load
        });
        assert_eq!((near.score(START), far.score(START), Load::default().score(START)), (5_000, 5_000, 5_000));
        near.start_attempt();
        near.start_attempt();
        assert_eq!(near.score(START), 15_000);
        near.end_attempt();
        assert_eq!(near.score(START), 10_000);
    }

    #[test]
    fn a_fast_failure_makes_no_server_fast_and_a_slow_one_makes_it_slow() {
        let load = Load::default();
        load.record(millis(100), false, START);
        load.record(millis(1), true, after(millis(5)));
        assert_eq!(load.latency(START), millis(100));
        load.record(millis(200), true, START);
        assert_eq!(load.latency(START), millis(200));
    }

    #[test]
    fn the_best_latency_is_that_of_the_way_whatever_names_need() {
        let load = Load::default();
        assert_eq!(load.best_latency(START), None);
        for number in 0..100 {
            load.record(millis(if number % 3 == 0 { 2 } else { 80 }), false, START);
        }
        assert!(load.best_latency(START).unwrap() < millis(8));
        for _ in 0..200 {
            load.record(millis(80), false, START);
        }
        assert!(load.best_latency(START).unwrap() > millis(70), "the way has become longer");
        assert!(load.best_latency(after(millis(240_000))).unwrap() < millis(16), "it is measured again");
    }
}

//! Distribution of a server's latencies with exponential forgetting, for its p95 and median. Pure.

use std::time::Duration;

/// Buckets in each doubling: a quantile is overestimated by a quarter at the most.
const BUCKETS_PER_DOUBLING: u32 = 4;
/// Binary logarithm of the shortest latency that has a bucket of its own, in microseconds: 64 µs.
const MIN_LATENCY_LOG2_MICROS: u32 = 6;
/// Doublings above the shortest latency: up to 8 s, which is longer than any timeout.
const DOUBLINGS: u32 = 17;
const BUCKETS: usize = (BUCKETS_PER_DOUBLING * DOUBLINGS) as usize;
/// Samples between two computations of the p95, and before the first one.
const P95_INTERVAL: u32 = 16;
/// Number of samples at which all counts are halved, so that old samples weigh little.
const MAX_SAMPLES: u32 = 512;

/// Histogram of round-trip times with logarithmic buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct LatencyHistogram {
    counts: [u16; BUCKETS],
    samples: u32,
    p95: Option<Duration>,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], samples: 0, p95: None }
    }
}

impl LatencyHistogram {
    /// Records one round-trip time.
    pub(super) fn record(&mut self, round_trip: Duration) {
        if self.samples >= MAX_SAMPLES {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.samples = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
        self.counts[bucket(round_trip)] += 1;
        self.samples += 1;
        if self.samples.is_multiple_of(P95_INTERVAL) {
            self.p95 = Some(self.quantile(95));
        }
    }

    /// Returns the p95 latency; `None` with fewer than 16 samples.
    pub(super) const fn p95(&self) -> Option<Duration> {
        self.p95
    }

    /// Returns the median; `None` with fewer than 16 samples.
    pub(super) fn median(&self) -> Option<Duration> {
        self.p95.map(|_| self.quantile(50))
    }

    fn quantile(&self, percent: u32) -> Duration {
        let rank = (self.samples * percent).div_ceil(100);
        let mut cumulative = 0;
        let reached = self.counts.iter().position(|count| {
            cumulative += u32::from(*count);
            cumulative >= rank
        });
        bucket_end(reached.unwrap_or(BUCKETS - 1))
    }
}

/// Returns the index of the bucket of a latency.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1 << MIN_LATENCY_LOG2_MICROS);
    let log2 = micros.ilog2();
    let step = (micros >> (log2 - BUCKETS_PER_DOUBLING.ilog2())) as u32 & (BUCKETS_PER_DOUBLING - 1);
    (((log2 - MIN_LATENCY_LOG2_MICROS) * BUCKETS_PER_DOUBLING + step) as usize).min(BUCKETS - 1)
}

/// Returns the exclusive upper bound of a bucket.
fn bucket_end(bucket: usize) -> Duration {
    let log2 = bucket as u32 / BUCKETS_PER_DOUBLING + MIN_LATENCY_LOG2_MICROS;
    let step = bucket as u32 % BUCKETS_PER_DOUBLING;
    Duration::from_micros(u64::from(BUCKETS_PER_DOUBLING + step + 1) << (log2 - BUCKETS_PER_DOUBLING.ilog2()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p95_of(millis: &[u64]) -> Option<Duration> {
        let mut latencies = LatencyHistogram::default();
        millis.iter().for_each(|millis| latencies.record(Duration::from_millis(*millis)));
        latencies.p95()
    }

    #[test]
    fn the_quantile_is_right_to_within_a_quarter() {
        assert_eq!(p95_of(&[5; 15]), None, "too few");
        for (millis, expected) in
            [([vec![10; 95], vec![900; 5]].concat(), 10), ([vec![10; 90], vec![900; 10]].concat(), 900)]
        {
            let p95 = p95_of(&millis).unwrap();
            let expected = Duration::from_millis(expected);
            assert!(p95 >= expected && p95 <= expected * 5 / 4, "{p95:?} for {expected:?}");
        }
    }

    #[test]
    fn the_median_is_that_of_most_latencies() {
        let mut latencies = LatencyHistogram::default();
        assert_eq!(latencies.median(), None);
        [vec![10; 60], vec![900; 40]].concat().iter().for_each(|ms| latencies.record(Duration::from_millis(*ms)));
        assert!(latencies.median().is_some_and(|median| median < Duration::from_millis(13)));
    }

    #[test]
    fn every_latency_lies_in_its_bucket() {
        for micros in [0, 1, 63, 64, 79, 80, 127, 128, 1_000, 999_999, 7_999_999, u64::MAX / 2] {
            let bucket = bucket(Duration::from_micros(micros));
            assert!(bucket == BUCKETS - 1 || Duration::from_micros(micros) < bucket_end(bucket), "{micros}");
            assert!(bucket == 0 || Duration::from_micros(micros) >= bucket_end(bucket - 1), "{micros}");
        }
    }

    #[test]
    fn old_samples_are_forgotten() {
        let old = vec![800; 2000];
        assert!(p95_of(&[old, vec![2; 2000]].concat()).unwrap() < Duration::from_millis(3));
    }
}

//! Histogram of durations whose bucket bounds double. Counting allocates nothing and takes no lock.
//!
//! On the metrics page each bucket takes a series, so that neighbours are joined there: bounds grow fourfold.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Response times of cache hits: buckets up to 1 µs, 2 µs, 4 µs, … 16.384 ms, and one for all longer times. The metrics
/// page has those up to 4 µs, 16 µs, … 4.096 ms.
pub type HitSeconds = Histogram<1_000, 16>;

/// Response times of upstreams and of cache misses: buckets up to 0.1 ms, 0.2 ms, 0.4 ms, … 6.5536 s, and one for all
/// longer times. The metrics page has those up to 0.4 ms, 1.6 ms, … 1.6384 s.
pub type WaitSeconds = Histogram<100_000, 18>;

/// Histogram of durations with `BUCKETS` buckets. The first one ends at `LOWEST` nanoseconds, inclusive; the last one
/// has no upper bound.
#[derive(Debug)]
pub struct Histogram<const LOWEST: u64, const BUCKETS: usize> {
    counts: [AtomicU64; BUCKETS],
    /// Sum of all durations in nanoseconds.
    sum: AtomicU64,
}

impl<const LOWEST: u64, const BUCKETS: usize> Default for Histogram<LOWEST, BUCKETS> {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl<const LOWEST: u64, const BUCKETS: usize> Histogram<LOWEST, BUCKETS> {
    /// Counts one duration.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        self.observe_many(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    /// Counts a duration in nanoseconds `count` times.
    #[inline]
    pub fn observe_many(&self, nanoseconds: u64, count: u64) {
        if let Some(bucket) = self.counts.get(Self::bucket(nanoseconds)) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum.fetch_add(nanoseconds.saturating_mul(count), Ordering::Relaxed);
    }

    /// Adds the durations that another histogram has counted.
    pub(super) fn add(&self, other: &Self) {
        for (count, more) in self.counts.iter().zip(&other.counts) {
            count.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.sum.fetch_add(other.sum.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Returns the number of durations counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Returns the index of the bucket of a duration in nanoseconds.
    #[inline]
    const fn bucket(nanoseconds: u64) -> usize {
        let steps = nanoseconds.div_ceil(LOWEST).saturating_sub(1);
        let bucket = (u64::BITS - steps.leading_zeros()) as usize;
        if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
    }

    /// Returns whether the metrics page has the upper bound of a bucket: every second one from the third on, or every
    /// third of a longer range, but not the longest finite ones, which few durations exceed.
    const fn has_bound_on_page(bucket: usize) -> bool {
        let step = if BUCKETS > 16 { 3 } else { 2 };
        bucket + 1 == BUCKETS || (bucket >= 2 && (bucket - 2).is_multiple_of(step) && bucket + 3 < BUCKETS)
    }

    /// Returns the upper bound of a bucket in seconds, inclusive.
    fn upper_bound(bucket: usize) -> f64 {
        if bucket + 1 >= BUCKETS { f64::INFINITY } else { (LOWEST << bucket) as f64 / 1e9 }
    }
}

impl<const LOWEST: u64, const BUCKETS: usize> EncodeMetric for Histogram<LOWEST, BUCKETS> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(BUCKETS);
        let mut joined = 0;
        for (bucket, count) in counts.into_iter().enumerate() {
            joined += count;
            if Self::has_bound_on_page(bucket) {
                buckets.push((Self::upper_bound(bucket), std::mem::take(&mut joined)));
            }
        }
        // The total is the sum of the counts just read, so that it fits them while others count.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_its_bucket_and_an_upper_bound_belongs_to_its_bucket() {
        for micros in [0, 1, 2, 3, 4, 5, 8, 9, 1_000, 1_024, 1_025, 16_384] {
            let time = Duration::from_micros(micros).as_nanos() as u64;
            for nanoseconds in [time.saturating_sub(1), time] {
                let bucket = HitSeconds::bucket(nanoseconds);
                let seconds = nanoseconds as f64 / 1e9;
                assert!(seconds <= HitSeconds::upper_bound(bucket), "{nanoseconds} in {bucket}");
                assert!(bucket == 0 || seconds > HitSeconds::upper_bound(bucket - 1), "{nanoseconds} in {bucket}");
            }
        }
        assert_eq!((HitSeconds::upper_bound(0), HitSeconds::upper_bound(14)), (0.000_001, 0.016_384));
        assert_eq!((WaitSeconds::upper_bound(0), WaitSeconds::upper_bound(16)), (0.0001, 6.5536));
        assert_eq!(HitSeconds::bucket(16_384_001), 15);
        assert_eq!(WaitSeconds::bucket(u64::MAX), 17);
    }

    #[test]
    fn bounds_on_the_page_grow_fourfold_or_eightfold() {
        let on_page = |buckets: usize, has: fn(usize) -> bool, bound: fn(usize) -> f64| -> Vec<f64> {
            (0..buckets).filter(|bucket| has(*bucket)).map(bound).collect()
        };
        assert_eq!(
            on_page(16, HitSeconds::has_bound_on_page, HitSeconds::upper_bound),
            [0.000_004, 0.000_016, 0.000_064, 0.000_256, 0.001_024, 0.004_096, f64::INFINITY]
        );
        assert_eq!(
            on_page(18, WaitSeconds::has_bound_on_page, WaitSeconds::upper_bound),
            [0.0004, 0.0032, 0.0256, 0.2048, 1.6384, f64::INFINITY]
        );
    }

    #[test]
    fn observing_many_at_once_equals_observing_one_by_one() {
        let at_once = HitSeconds::default();
        let one_by_one = HitSeconds::default();
        let time = Duration::from_micros(7);
        at_once.observe_many(time.as_nanos() as u64, 32);
        (0..32).for_each(|_| one_by_one.observe(time));
        let read = |histogram: &HitSeconds| {
            let counts = histogram.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            (counts, histogram.sum.load(Ordering::Relaxed))
        };
        assert_eq!(read(&at_once), read(&one_by_one));
        assert_eq!((at_once.count(), read(&at_once).1), (32, 32 * 7_000));
    }
}

//! Times in buckets, each twice as wide as the one below it. Counting allocates nothing and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// How long answers from memory took: buckets up to 1 µs, 2 µs, 4 µs, … 16.384 ms, and one for all longer times.
pub type HitSeconds = Histogram<1_000, 16>;

/// How long other servers took, or who waited for them: buckets up to 0.1 ms, 0.2 ms, 0.4 ms, … 6.5536 s, and one for all
/// longer times.
pub type WaitSeconds = Histogram<100_000, 18>;

/// Times in `BUCKETS` buckets, the first of which ends at `LOWEST` nanoseconds (and holds that time itself); the last has
/// no end.
#[derive(Debug)]
pub struct Histogram<const LOWEST: u64, const BUCKETS: usize> {
    counts: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl<const LOWEST: u64, const BUCKETS: usize> Default for Histogram<LOWEST, BUCKETS> {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], nanoseconds: AtomicU64::new(0) }
    }
}

/// A copy of the counts at one moment.
impl<const LOWEST: u64, const BUCKETS: usize> Clone for Histogram<LOWEST, BUCKETS> {
    fn clone(&self) -> Self {
        let copy = |count: &AtomicU64| AtomicU64::new(count.load(Ordering::Relaxed));
        Self { counts: self.counts.each_ref().map(copy), nanoseconds: copy(&self.nanoseconds) }
    }
}

impl<const LOWEST: u64, const BUCKETS: usize> Histogram<LOWEST, BUCKETS> {
    /// Counts one time.
    #[inline]
    pub fn observe(&self, took: Duration) {
        self.observe_many(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    /// Counts a time, in nanoseconds, as often as this.
    #[inline]
    pub fn observe_many(&self, nanoseconds: u64, number: u64) {
        if let Some(count) = self.counts.get(Self::bucket(nanoseconds)) {
            count.fetch_add(number, Ordering::Relaxed);
        }
        self.nanoseconds.fetch_add(nanoseconds.saturating_mul(number), Ordering::Relaxed);
    }

    /// How many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    #[inline]
    const fn bucket(nanoseconds: u64) -> usize {
        let steps = nanoseconds.div_ceil(LOWEST).saturating_sub(1);
        let bucket = (u64::BITS - steps.leading_zeros()) as usize;
        if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
    }

    /// Where a bucket ends, in seconds.
    fn end(bucket: usize) -> f64 {
        if bucket + 1 >= BUCKETS { f64::INFINITY } else { (LOWEST << bucket) as f64 / 1e9 }
    }
}

impl<const LOWEST: u64, const BUCKETS: usize> EncodeMetric for Histogram<LOWEST, BUCKETS> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let buckets: [(f64, u64); BUCKETS] = std::array::from_fn(|bucket| {
            (Self::end(bucket), self.counts.get(bucket).map_or(0, |count| count.load(Ordering::Relaxed)))
        });
        // What is counted meanwhile is in neither.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
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
    fn every_time_lies_in_its_bucket_and_a_bound_belongs_to_the_bucket_that_it_ends() {
        for micros in [0, 1, 2, 3, 4, 5, 8, 9, 1_000, 1_024, 1_025, 16_384] {
            let time = Duration::from_micros(micros).as_nanos() as u64;
            for nanoseconds in [time.saturating_sub(1), time] {
                let bucket = HitSeconds::bucket(nanoseconds);
                let seconds = nanoseconds as f64 / 1e9;
                assert!(seconds <= HitSeconds::end(bucket), "{nanoseconds} in {bucket}");
                assert!(bucket == 0 || seconds > HitSeconds::end(bucket - 1), "{nanoseconds} in {bucket}");
            }
        }
        assert_eq!((HitSeconds::end(0), HitSeconds::end(14)), (0.000_001, 0.016_384));
        assert_eq!((WaitSeconds::end(0), WaitSeconds::end(16)), (0.0001, 6.5536));
        assert_eq!(HitSeconds::bucket(16_384_001), 15);
        assert_eq!(WaitSeconds::bucket(u64::MAX), 17);
    }

    #[test]
    fn many_at_once_are_as_many_one_by_one() {
        let (at_once, one_by_one) = (HitSeconds::default(), HitSeconds::default());
        let time = Duration::from_micros(7);
        at_once.observe_many(time.as_nanos() as u64, 32);
        (0..32).for_each(|_| one_by_one.observe(time));
        let read = |histogram: &HitSeconds| {
            let counts = histogram.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            (counts, histogram.nanoseconds.load(Ordering::Relaxed))
        };
        assert_eq!(read(&at_once), read(&one_by_one));
        assert_eq!((at_once.count(), read(&at_once).1), (32, 32 * 7_000));
    }
}

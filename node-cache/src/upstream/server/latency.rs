//! How long a server takes, as a distribution that forgets. Pure.

use std::time::Duration;

/// Buckets of a doubling: a quantile is told to within a quarter.
const STEPS: u32 = 4;
/// The shortest time that is told from shorter ones is two to this many microseconds.
const LOWEST: u32 = 6;
/// Doublings from there: up to 8 s, which is longer than anybody waits.
const DOUBLINGS: u32 = 17;
const BUCKETS: usize = (STEPS * DOUBLINGS) as usize;
/// After so many answers the quantile is counted anew; before the first so many nothing is said.
const EVERY: u32 = 16;
/// At this many answers all counts are halved, so that what was long ago weighs little.
const MOST: u32 = 512;

/// Times between questions and answers.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct LatencyHistogram {
    counts: [u16; BUCKETS],
    total: u32,
    p95: Option<Duration>,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0, p95: None }
    }
}

impl LatencyHistogram {
    /// Counts an answer that took this long.
    pub(in crate::upstream) fn count(&mut self, took: Duration) {
        if self.total >= MOST {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
        self.counts[bucket(took)] += 1;
        self.total += 1;
        if self.total.is_multiple_of(EVERY) {
            self.p95 = Some(self.counted());
        }
    }

    /// The time within which 95 of 100 answers come; none while there were few.
    pub(in crate::upstream) const fn p95(&self) -> Option<Duration> {
        self.p95
    }

    fn counted(&self) -> Duration {
        let enough = (self.total * 95).div_ceil(100);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u32::from(*count);
            seen >= enough
        });
        end(reached.unwrap_or(BUCKETS - 1))
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1 << LOWEST);
    let doubling = micros.ilog2();
    let step = (micros >> (doubling - STEPS.ilog2())) as u32 & (STEPS - 1);
    (((doubling - LOWEST) * STEPS + step) as usize).min(BUCKETS - 1)
}

/// Where a bucket ends.
fn end(bucket: usize) -> Duration {
    let (doubling, step) = (bucket as u32 / STEPS + LOWEST, bucket as u32 % STEPS);
    Duration::from_micros(u64::from(STEPS + step + 1) << (doubling - STEPS.ilog2()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(millis: &[u64]) -> Option<Duration> {
        let mut latency = LatencyHistogram::default();
        millis.iter().for_each(|millis| latency.count(Duration::from_millis(*millis)));
        latency.p95()
    }

    #[test]
    fn the_quantile_is_right_to_within_a_quarter() {
        assert_eq!(after(&[5; 15]), None, "too few");
        for (millis, expected) in
            [([vec![10; 95], vec![900; 5]].concat(), 10), ([vec![10; 90], vec![900; 10]].concat(), 900)]
        {
            let p95 = after(&millis).unwrap();
            let expected = Duration::from_millis(expected);
            assert!(p95 >= expected && p95 <= expected * 5 / 4, "{p95:?} for {expected:?}");
        }
    }

    #[test]
    fn every_time_lies_in_its_bucket() {
        for micros in [0, 1, 63, 64, 79, 80, 127, 128, 1_000, 999_999, 7_999_999, u64::MAX / 2] {
            let bucket = bucket(Duration::from_micros(micros));
            assert!(bucket == BUCKETS - 1 || Duration::from_micros(micros) < end(bucket), "{micros}");
            assert!(bucket == 0 || Duration::from_micros(micros) >= end(bucket - 1), "{micros}");
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let then = vec![800; 2000];
        assert!(after(&[then, vec![2; 2000]].concat()).unwrap() < Duration::from_millis(3));
    }
}

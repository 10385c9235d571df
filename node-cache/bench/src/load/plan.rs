//! Plan of a load, its result, and percentiles of latency.

use std::time::Duration;

/// Load to put on a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) queries: u64,
    /// No query is sent after this time.
    pub(crate) time_limit: Duration,
    /// Queries per second, at planned times (open loop); `None`: one for each response (closed loop).
    pub(crate) rate: Option<f64>,
    /// Maximum number of queries in flight.
    pub(crate) window: usize,
}

/// Result of a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Responses with another rcode than NOERROR or NXDOMAIN.
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    /// Queries that the client itself sent later than planned.
    pub(crate) late: u64,
    /// Nanoseconds from the planned time of each query to its response.
    pub(crate) latencies: Vec<u32>,
    pub(crate) seconds: f64,
}

impl Outcome {
    /// Returns responses per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// Returns the latency in microseconds that this many of a thousand responses do not exceed: 990 for p99. NaN
    /// without responses.
    pub(crate) fn per_mille(&mut self, per_mille: usize) -> f64 {
        if self.latencies.is_empty() {
            return f64::NAN;
        }
        let place = (self.latencies.len() * per_mille / 1000).min(self.latencies.len() - 1);
        let (_, latency, _) = self.latencies.select_nth_unstable(place);
        f64::from(*latency) / 1000.0
    }
}

/// Returns the median over turns of a percentile of latency, in microseconds.
pub(crate) fn median_per_mille<'a>(turns: impl IntoIterator<Item = &'a Outcome>, per_mille: usize) -> f64 {
    let mut of_turns: Vec<f64> = turns.into_iter().map(|turn| turn.clone().per_mille(per_mille)).collect();
    of_turns.sort_by(f64::total_cmp);
    of_turns.get(of_turns.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns an outcome with the latencies of all turns, and without counts.
pub(crate) fn pool_latencies<'a>(turns: impl IntoIterator<Item = &'a Outcome>) -> Outcome {
    let latencies = turns.into_iter().flat_map(|turn| turn.latencies.iter().copied()).collect();
    Outcome { latencies, ..Outcome::default() }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, median_per_mille, pool_latencies};

    fn outcome(latencies: impl IntoIterator<Item = u32>) -> Outcome {
        Outcome { latencies: latencies.into_iter().collect(), answered: 10, seconds: 0.5, ..Outcome::default() }
    }

    #[test]
    fn a_percentile_is_in_microseconds() {
        let mut outcome = outcome((0..1000).rev().map(|number| number * 1000));
        assert_eq!([500, 990, 999, 1000].map(|share| outcome.per_mille(share)), [500.0, 990.0, 999.0, 999.0]);
        assert_eq!(outcome.rate(), 20.0);
        assert!(Outcome::default().per_mille(500).is_nan());
    }

    #[test]
    fn one_stalled_turn_does_not_change_the_median_over_turns() {
        let turns = [outcome([1000]), outcome([2000]), outcome([9_000_000])];
        assert_eq!(median_per_mille(&turns, 990), 2.0);
        assert_eq!(pool_latencies(&turns).per_mille(990), 9000.0);
        assert!(median_per_mille(&[], 990).is_nan());
    }
}

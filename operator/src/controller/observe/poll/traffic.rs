//! Rates of a pod's traffic over the last minute, from the counters of its status.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use node_cache_config::status::{Instance, Traffic};

/// Span of time over which rates are computed: shorter spans make the rates jump, longer ones hide a change.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// Rates of a pod over the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TrafficRates {
    /// Number of queries from which the rates are computed.
    pub(crate) counted: f64,
    /// Queries per second.
    pub(crate) queries: f64,
    /// Cache hits per second.
    pub(crate) hits: f64,
    /// Stale responses (serve-stale) per second.
    pub(crate) stale: f64,
    /// Responses with rcode SERVFAIL per second.
    pub(crate) servfail: f64,
}

/// Counters of the last minute, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct TrafficWindow(VecDeque<(Instant, Traffic)>);

impl TrafficWindow {
    /// Adds the counters at `now` and returns the rates; `None` with less than a second of counters.
    ///
    /// Counters that decreased are those of a new process and restart the window.
    pub(super) fn add(&mut self, now: Instant, counters: Traffic) -> Option<TrafficRates> {
        if self.0.back().is_some_and(|(_, last)| has_decreased(last, &counters)) {
            self.0.clear();
        }
        self.0.push_back((now, counters));
        while self.0.get(1).is_some_and(|(time, _)| now.duration_since(*time) >= RATE_WINDOW) {
            self.0.pop_front();
        }
        let (since, first) = self.0.front()?;
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds < 1.0 {
            return None;
        }
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        Some(TrafficRates {
            counted: counters.queries.saturating_sub(first.queries) as f64,
            queries: rate(first.queries, counters.queries),
            hits: rate(first.hits, counters.hits),
            stale: rate(first.stale, counters.stale),
            servfail: rate(first.servfail, counters.servfail),
        })
    }
}

/// Returns the sum of the counters of all processes of a pod.
pub(super) fn sum_counters(instances: &[Instance]) -> Traffic {
    instances.iter().map(|instance| instance.traffic).fold(Traffic::default(), |sum, counters| Traffic {
        queries: sum.queries.saturating_add(counters.queries),
        hits: sum.hits.saturating_add(counters.hits),
        stale: sum.stale.saturating_add(counters.stale),
        servfail: sum.servfail.saturating_add(counters.servfail),
        dropped: sum.dropped.saturating_add(counters.dropped),
        cache_bytes: sum.cache_bytes.saturating_add(counters.cache_bytes),
        cache_entries: sum.cache_entries.saturating_add(counters.cache_entries),
    })
}

fn has_decreased(last: &Traffic, now: &Traffic) -> bool {
    now.queries < last.queries || now.hits < last.hits || now.stale < last.stale || now.servfail < last.servfail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(queries: u64, hits: u64) -> Traffic {
        Traffic { queries, hits, ..Traffic::default() }
    }

    #[test]
    fn a_rate_is_what_was_counted_by_the_time_it_took() {
        let start = Instant::now();
        let mut window = TrafficWindow::default();
        assert_eq!(window.add(start, counters(100, 50)), None);
        let rates = window.add(start + Duration::from_secs(10), counters(1_100, 950)).unwrap();
        assert_eq!((rates.counted, rates.queries, rates.hits), (1_000.0, 100.0, 90.0));
    }

    #[test]
    fn a_restarted_process_does_not_count_backwards() {
        let start = Instant::now();
        let mut window = TrafficWindow::default();
        window.add(start, counters(1_000, 0));
        assert_eq!(window.add(start + Duration::from_secs(5), counters(10, 0)), None);
        let rates = window.add(start + Duration::from_secs(10), counters(60, 0)).unwrap();
        assert_eq!(rates.queries, 10.0);
    }

    #[test]
    fn counters_older_than_a_minute_do_not_count() {
        let start = Instant::now();
        let mut window = TrafficWindow::default();
        for step in 0..40 {
            window.add(start + Duration::from_secs(5 * step), counters(5 * step, 0));
        }
        assert!(window.0.len() <= 14, "{}", window.0.len());
        let rates = window.add(start + Duration::from_secs(200), counters(1_000, 0)).unwrap();
        assert!(rates.queries > 10.0, "{}", rates.queries);
    }
}

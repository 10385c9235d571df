//! Rates out of counters: what a pod did within the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use node_cache_config::status::{Instance, Traffic};

/// How far back a rate looks. Shorter looks jump, longer ones hide what begins.
const SPAN: Duration = Duration::from_secs(60);

/// What a pod did within the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    /// Questions per second.
    pub queries: f64,
    /// Answers from memory per second.
    pub hits: f64,
    /// Answers from memory past their time, per second.
    pub stale: f64,
    /// Answers that say SERVFAIL, per second.
    pub servfail: f64,
}

/// The counters of the last minute, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Window(VecDeque<(Instant, Traffic)>);

impl Window {
    /// Adds the counters of now and says how fast they grew. Counters that went back are those of a new process:
    /// measuring starts over.
    pub(super) fn add(&mut self, now: Instant, counters: Traffic) -> Option<Flow> {
        if self.0.back().is_some_and(|(_, last)| went_back(last, &counters)) {
            self.0.clear();
        }
        self.0.push_back((now, counters));
        while self.0.get(1).is_some_and(|(time, _)| now.duration_since(*time) >= SPAN) {
            self.0.pop_front();
        }
        let (since, first) = self.0.front()?;
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds < 1.0 {
            return None;
        }
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        Some(Flow {
            queries: rate(first.queries, counters.queries),
            hits: rate(first.hits, counters.hits),
            stale: rate(first.stale, counters.stale),
            servfail: rate(first.servfail, counters.servfail),
        })
    }
}

/// The counters of all processes of a pod together.
pub(super) fn total(instances: &[Instance]) -> Traffic {
    instances.iter().map(|instance| instance.traffic).fold(Traffic::default(), |sum, one| Traffic {
        queries: sum.queries.saturating_add(one.queries),
        hits: sum.hits.saturating_add(one.hits),
        stale: sum.stale.saturating_add(one.stale),
        servfail: sum.servfail.saturating_add(one.servfail),
        dropped: sum.dropped.saturating_add(one.dropped),
        cache_bytes: sum.cache_bytes.saturating_add(one.cache_bytes),
        cache_entries: sum.cache_entries.saturating_add(one.cache_entries),
    })
}

fn went_back(last: &Traffic, now: &Traffic) -> bool {
    now.queries < last.queries || now.hits < last.hits || now.stale < last.stale || now.servfail < last.servfail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(queries: u64, hits: u64) -> Traffic {
        Traffic { queries, hits, ..Traffic::default() }
    }

    #[test]
    fn a_rate_is_what_was_counted_by_the_time_it_took() {
        let start = Instant::now();
        let mut window = Window::default();
        assert_eq!(window.add(start, counted(100, 50)), None);
        let flow = window.add(start + Duration::from_secs(10), counted(1_100, 950)).unwrap();
        assert_eq!((flow.queries, flow.hits), (100.0, 90.0));
    }

    #[test]
    fn a_restarted_process_does_not_count_backwards() {
        let start = Instant::now();
        let mut window = Window::default();
        window.add(start, counted(1_000, 0));
        assert_eq!(window.add(start + Duration::from_secs(5), counted(10, 0)), None);
        let flow = window.add(start + Duration::from_secs(10), counted(60, 0)).unwrap();
        assert_eq!(flow.queries, 10.0);
    }

    #[test]
    fn what_is_older_than_a_minute_does_not_count() {
        let start = Instant::now();
        let mut window = Window::default();
        for step in 0..40 {
            window.add(start + Duration::from_secs(5 * step), counted(5 * step, 0));
        }
        assert!(window.0.len() <= 14, "{}", window.0.len());
        let flow = window.add(start + Duration::from_secs(200), counted(1_000, 0)).unwrap();
        assert!(flow.queries > 10.0, "{}", flow.queries);
    }
}

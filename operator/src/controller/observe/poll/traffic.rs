//! Rates of a pod's traffic over the last minute, from the counters of its status, in a few bytes: where the window
//! begins is known to half a minute.

use crate::controller::observe::poll::summary::PodPage;

/// Span of time over which rates are computed, in milliseconds: shorter spans make the rates jump, longer ones hide a
/// change.
const RATE_WINDOW: u32 = 60_000;
/// Age of the last start of a window from which another one is made.
const START_INTERVAL: u32 = RATE_WINDOW / 2;

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
    /// Queries per second to the tier's resolvers of the pod's own zone; 0 where that is not known, as below.
    pub(crate) to_own_zone: f64,
    /// Queries per second to the tier's resolvers of other zones.
    pub(crate) to_other_zones: f64,
    /// Number of queries from which the two rates above are computed.
    pub(crate) counted_to_zones: f64,
}

/// Counters of all processes of a pod together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PodCounters {
    queries: u64,
    hits: u64,
    stale: u64,
    servfail: u64,
    to_own_zone: u64,
    to_other_zones: u64,
}

/// Counters of a pod since the last two starts of a window. Times are milliseconds of a clock that may wrap around.
#[derive(Clone, Debug, Default)]
pub(super) struct TrafficWindow {
    last: Sample,
    /// The older one first.
    starts: [Start; 2],
    /// Number of starts.
    number: u8,
}

/// Counters at the last poll.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    queries: [u32; 2],
    /// Hits, stale responses, SERVFAIL, and queries to the own zone and to others, modulo 2³².
    others: [u32; 5],
    at: u32,
}

/// Start of a window, and what was counted since.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    at: u32,
    counted: [u32; 6],
}

impl Sample {
    fn new(at: u32, counters: &PodCounters) -> Self {
        // The low halves suffice for differences.
        let low = |counter: u64| counter as u32;
        let queries = [low(counters.queries), low(counters.queries >> 32)];
        let PodCounters { hits, stale, servfail, to_own_zone, to_other_zones, .. } = *counters;
        Self { queries, others: [hits, stale, servfail, to_own_zone, to_other_zones].map(low), at }
    }

    fn queries(&self) -> u64 {
        u64::from(self.queries[0]) | u64::from(self.queries[1]) << 32
    }

    /// Returns what was counted since an earlier sample; `None` when a counter has decreased.
    fn since(&self, earlier: &Self) -> Option<[u32; 6]> {
        let queries = u32::try_from(self.queries().checked_sub(earlier.queries())?).ok()?;
        let mut counted = [queries, 0, 0, 0, 0, 0];
        for (index, counter) in self.others.iter().enumerate() {
            let difference = counter.wrapping_sub(earlier.others[index]);
            if difference > u32::MAX / 2 {
                return None;
            }
            counted[index + 1] = difference;
        }
        Some(counted)
    }
}

impl TrafficWindow {
    /// Adds the counters at the time `now`. Counters that decreased are those of a new process and restart the window.
    pub(super) fn add(&mut self, now: u32, counters: &PodCounters) {
        let sample = Sample::new(now, counters);
        let counted = if self.number > 0 { sample.since(&self.last) } else { None };
        self.last = sample;
        let new = Start { at: now, counted: [0; 6] };
        let Some(counted) = counted else {
            (self.starts[0], self.number) = (new, 1);
            return;
        };
        for start in &mut self.starts {
            for (sum, counted) in start.counted.iter_mut().zip(counted) {
                *sum = sum.saturating_add(counted);
            }
        }
        let [first, second] = self.starts;
        let age = |start: Start| now.wrapping_sub(start.at);
        if self.number == 1 && age(first) >= START_INTERVAL {
            (self.starts[1], self.number) = (new, 2);
        } else if self.number == 2 && age(second) >= START_INTERVAL && age(first) >= RATE_WINDOW {
            self.starts = [second, new];
        }
    }

    /// Returns the rates at the last poll; `None` with less than a second of counters.
    pub(super) fn rates(&self) -> Option<TrafficRates> {
        let [start, _] = self.starts;
        let milliseconds = self.last.at.wrapping_sub(start.at);
        if self.number == 0 || milliseconds < 1_000 {
            return None;
        }
        let rate = |counted: u32| f64::from(counted) * 1_000.0 / f64::from(milliseconds);
        let [queries, hits, stale, servfail, to_own_zone, to_other_zones] = start.counted;
        Some(TrafficRates {
            counted: queries.into(),
            queries: rate(queries),
            hits: rate(hits),
            stale: rate(stale),
            servfail: rate(servfail),
            to_own_zone: rate(to_own_zone),
            to_other_zones: rate(to_other_zones),
            counted_to_zones: f64::from(to_own_zone) + f64::from(to_other_zones),
        })
    }
}

impl PodCounters {
    /// Returns the sums over the processes of a page. Nothing counts as sent to a zone where the pod does not tell.
    pub(super) fn of(page: &PodPage) -> Self {
        let to_zones = page.zone_queries().unwrap_or_default();
        let known = Self { to_own_zone: to_zones.own, to_other_zones: to_zones.other, ..Self::default() };
        page.instances().iter().map(|instance| instance.traffic).fold(known, |sum, counters| Self {
            queries: sum.queries.saturating_add(counters.queries),
            hits: sum.hits.saturating_add(counters.hits),
            stale: sum.stale.saturating_add(counters.stale),
            servfail: sum.servfail.saturating_add(counters.servfail),
            ..sum
        })
    }
}

#[cfg(test)]
mod tests {
    use node_cache_config::figures::{Figures, ZoneQueries};
    use node_cache_config::status::NodeStatus;

    use super::*;

    fn counters(queries: u64, hits: u64) -> PodCounters {
        PodCounters { queries, hits, ..PodCounters::default() }
    }

    #[test]
    fn a_rate_is_what_was_counted_by_the_time_it_took() {
        let mut window = TrafficWindow::default();
        window.add(0, &counters(100, 50));
        assert_eq!(window.rates(), None);
        window.add(10_000, &counters(1_100, 950));
        let rates = window.rates().unwrap();
        assert_eq!((rates.counted, rates.queries, rates.hits), (1_000.0, 100.0, 90.0));
    }

    #[test]
    fn queries_to_zones_are_of_the_last_minute_and_none_where_a_pod_does_not_tell() {
        let page = |zone_queries| {
            let figures = Figures { zone_queries, ..Figures::default() };
            PodPage::Node(NodeStatus { figures, ..NodeStatus::default() })
        };
        let rates = |before, after| {
            let mut window = TrafficWindow::default();
            window.add(0, &PodCounters::of(&page(before)));
            window.add(10_000, &PodCounters::of(&page(after)));
            window.rates().map(|rates| (rates.to_own_zone, rates.to_other_zones, rates.counted_to_zones))
        };
        let queries = |own, other| Some(ZoneQueries { own, other });
        assert_eq!(rates(queries(70, 9), queries(100, 19)), Some((3.0, 1.0, 40.0)));
        assert_eq!(rates(None, None), Some((0.0, 0.0, 0.0)));
        assert_eq!(rates(queries(70, 9), queries(1, 9)), None, "another process");
    }

    #[test]
    fn a_restarted_process_does_not_count_backwards() {
        for before in [1_000, 3_000_000_000, 1 << 40] {
            let mut window = TrafficWindow::default();
            window.add(0, &counters(before, before));
            window.add(5_000, &counters(10, 0));
            assert_eq!(window.rates(), None);
            window.add(10_000, &counters(60, 0));
            assert_eq!(window.rates().unwrap().queries, 10.0);
        }
    }

    #[test]
    fn counters_and_clocks_that_pass_the_end_of_32_bits_go_on() {
        let mut window = TrafficWindow::default();
        let end = u64::from(u32::MAX);
        window.add(u32::MAX, &counters(end, end));
        window.add(9_999, &counters(end + 1_000, end + 500));
        let rates = window.rates().unwrap();
        assert_eq!((rates.queries, rates.hits), (100.0, 50.0));
    }

    #[test]
    fn counters_much_older_than_a_minute_do_not_count() {
        for interval in [1, 5, 20, 60, 83] {
            let mut window = TrafficWindow::default();
            for step in 0..100 {
                window.add(1_000 * interval * step, &counters(0, 0));
            }
            let begin = 1_000 * interval * 100;
            for step in 0..100 {
                let seconds = interval * step;
                window.add(begin + 1_000 * seconds, &counters(10 * u64::from(seconds), 0));
                if seconds > 60 + 2 * interval {
                    assert_eq!(window.rates().unwrap().queries, 10.0, "after {seconds} s");
                }
            }
        }
    }
}

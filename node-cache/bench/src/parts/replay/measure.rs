//! Figures of a cast, from its queries and the counters of the limiters. Times are milliseconds from the start.

use super::limits::Packets;
use super::outcome::{Outcome, Query};

/// Share of right answers that clients do not notice.
pub(super) const GOOD: f64 = 0.999;
/// Part of its share in the control window from which on the provider has the load back.
const BACK: f64 = 0.9;
/// Step in which the end of an interruption is searched.
const STEP: u32 = 100;
const SECOND: u32 = 1_000;

/// Queries of a span by their ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Queries that the world answers, and how they ended.
    pub(super) asked: u32,
    pub(super) right: u32,
    pub(super) late: u32,
    pub(super) stale: u32,
    pub(super) wrong: u32,
    pub(super) failed: u32,
    pub(super) silent: u32,
    /// Queries that it does not answer, and those of them that nobody responded to.
    pub(super) unanswerable: u32,
    pub(super) unanswerable_silent: u32,
}

impl Counts {
    fn add(&mut self, query: &Query) {
        if !query.is_answerable {
            self.unanswerable += 1;
            self.unanswerable_silent += u32::from(query.outcome == Outcome::Silent);
            return;
        }
        self.asked += 1;
        *match query.outcome {
            Outcome::Right => &mut self.right,
            Outcome::Late => &mut self.late,
            Outcome::Stale => &mut self.stale,
            Outcome::Wrong => &mut self.wrong,
            Outcome::Failure => &mut self.failed,
            Outcome::Silent => &mut self.silent,
        } += 1;
    }

    /// Returns the share of right answers; 1 without queries.
    pub(super) fn right_share(&self) -> f64 {
        self.share(self.right)
    }

    /// Returns the share of right answers and of those that are marked as stale.
    pub(super) fn right_or_stale_share(&self) -> f64 {
        self.share(self.right + self.stale)
    }

    fn share(&self, part: u32) -> f64 {
        if self.asked == 0 { 1.0 } else { f64::from(part) / f64::from(self.asked) }
    }
}

/// Counts the queries that were planned in a span, its end excluded.
pub(super) fn count(queries: &[Query], from: u32, to: u32) -> Counts {
    let place = |time| queries.partition_point(|query| query.planned_ms < time);
    let mut counts = Counts::default();
    queries[place(from)..place(to).max(place(from))].iter().for_each(|query| counts.add(query));
    counts
}

/// Returns the smallest share of right answers of a whole second of a span.
pub(super) fn worst_second(queries: &[Query], from: u32, to: u32) -> f64 {
    let starts = (from..to.saturating_sub(SECOND - 1)).step_by(SECOND as usize);
    starts.map(|start| count(queries, start, start + SECOND).right_share()).fold(1.0, f64::min)
}

/// Returns the time from the first drop until queries are answered again: until a second from which on this share is
/// large enough, both in that second and up to the end of the span. `None` where there is no such second.
pub(super) fn interruption(queries: &[Query], first_drop: u32, end: u32, share: fn(&Counts) -> f64) -> Option<u32> {
    let is_good = |from, to| share(&count(queries, from, to)) >= GOOD;
    let mut starts = (first_drop..(end + 1).saturating_sub(SECOND)).step_by(STEP as usize);
    starts.find(|start| is_good(*start, start + SECOND) && is_good(*start, end)).map(|start| start - first_drop)
}

/// Counters at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: u32,
    pub(super) packets: Packets,
}

/// Returns the packets between the samples next to two times, and the seconds between these samples.
pub(super) fn packets_between(samples: &[Sample], from: u32, to: u32) -> (Packets, f64) {
    let next_to = |time: u32| samples.iter().min_by_key(|sample| sample.at.abs_diff(time));
    let (Some(first), Some(last)) = (next_to(from), next_to(to)) else { return (Packets::default(), 0.0) };
    (last.packets.since(first.packets), f64::from(last.at.saturating_sub(first.at)) / f64::from(SECOND))
}

/// Returns the share of the packets of a span that were sent to the provider, and not to the fallback. The number alone
/// says less: caches that fill send less and less.
pub(super) fn provider_share(samples: &[Sample], from: u32, to: u32) -> f64 {
    let (packets, _) = packets_between(samples, from, to);
    packets.provider as f64 / (packets.provider + packets.fallback).max(1) as f64
}

/// Returns the share of the packets to the provider that were dropped in a second.
pub(super) fn dropped_share(samples: &[Sample], second: u32) -> f64 {
    let (packets, _) = packets_between(samples, second * SECOND, (second + 1) * SECOND);
    packets.provider_dropped as f64 / packets.provider.max(1) as f64
}

/// Returns the time from the end of a limit until the provider has the load back: [`BACK`] of this share of the packets
/// in a second. `None` where it does not get it.
pub(super) fn return_time(samples: &[Sample], limit_end: u32, end: u32, control_share: f64) -> Option<u32> {
    let mut starts = (limit_end..(end + 1).saturating_sub(SECOND)).step_by(SECOND as usize);
    let is_back = |start: &u32| provider_share(samples, *start, start + SECOND) >= BACK * control_share;
    starts.find(is_back).map(|start| start - limit_end)
}

/// Formats a share as a percentage.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", (share * 10_000.0).floor() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::{Counts, Outcome, Packets, Query, Sample, count, interruption, return_time, worst_second};

    /// Returns a thousand queries a second, of which those in a span end like this.
    fn queries(seconds: u32, bad: std::ops::Range<u32>, outcome: Outcome) -> Vec<Query> {
        let outcome = |ms| if bad.contains(&ms) { outcome } else { Outcome::Right };
        let query = |ms| Query { planned_ms: ms, is_answerable: true, outcome: outcome(ms) };
        (0..seconds * 1_000).map(query).collect()
    }

    #[test]
    fn queries_count_by_their_end_and_those_without_an_answer_apart() {
        let mut queries = queries(1, 0..10, Outcome::Stale);
        queries[0].outcome = Outcome::Wrong;
        queries[999] = Query { is_answerable: false, outcome: Outcome::Silent, ..queries[999] };
        let counts = count(&queries, 0, 1_000);
        let wanted = Counts { asked: 999, right: 989, stale: 9, wrong: 1, unanswerable: 1, ..Counts::default() };
        assert_eq!(counts, Counts { unanswerable_silent: 1, ..wanted });
        assert_eq!((count(&queries, 5, 5).asked, count(&queries, 5, 5).right_share()), (0, 1.0));
    }

    #[test]
    fn the_worst_second_is_a_whole_one() {
        let queries = queries(3, 1_000..1_100, Outcome::Silent);
        assert_eq!((worst_second(&queries, 0, 3_000), worst_second(&queries, 2_000, 3_000)), (0.9, 1.0));
        assert_eq!(worst_second(&queries, 0, 1_999), 1.0, "half a second is none");
    }

    #[test]
    fn an_interruption_ends_where_a_good_second_begins_after_which_none_is_bad() {
        let bad = queries(10, 2_000..3_450, Outcome::Late);
        assert_eq!(interruption(&bad, 2_000, 10_000, Counts::right_share), Some(1_500));
        assert_eq!(interruption(&queries(10, 0..0, Outcome::Late), 2_000, 10_000, Counts::right_share), Some(0));
        let mut twice = bad;
        twice[8_000..8_100].iter_mut().for_each(|query| query.outcome = Outcome::Silent);
        assert_eq!(interruption(&twice, 2_000, 10_000, Counts::right_share), Some(6_100));
        assert_eq!(interruption(&twice, 2_000, 8_500, Counts::right_share), None);
    }

    #[test]
    fn the_load_is_back_with_most_of_the_share_of_the_control_window() {
        let mut packets = Packets::default();
        let sample = |(second, [provider, fallback]): (u32, [u64; 2])| {
            packets.provider += provider;
            packets.fallback += fallback;
            Sample { at: second * 1_000, packets }
        };
        // Half, then 85 % and 90 % of ever fewer packets.
        let rates = [[0, 0], [500, 500], [500, 500], [510, 90], [450, 50]];
        let samples: Vec<Sample> = (0..).zip(rates).map(sample).collect();
        assert_eq!(return_time(&samples, 0, 4_000, 1.0), Some(3_000));
        assert_eq!(return_time(&samples, 0, 3_000, 1.0), None);
        assert_eq!(return_time(&samples, 1_000, 4_000, 0.5), Some(0));
    }
}

//! Comparison of what became of the attempts with one server and with the others of its group in the same time.
//!
//! Queries move between servers within a second: one that was slow once gets few for a while. Sums over different
//! times would compare the first second of a fault with the second before. So each interval counts by its own weight
//! (Mantel and Haenszel): n·m/(n + m) for n responses of the server and m of the others.

use std::ops::AddAssign;

use super::super::outcomes::OutcomeCounts;

/// Count of one kind of outcomes.
pub(super) type Count = fn(&OutcomeCounts) -> f32;

/// Standard deviations by which the server's ratio exceeds that of the others. Until then too little is known of them.
const DEVIATIONS: f32 = 3.0;
/// Standard deviations by which a server loses more than the others in the same time, without which it is no outlier;
const LOSS_DEVIATIONS: f32 = 2.6;
/// those where the others lose queries, too, which makes chance larger;
const LOSS_DEVIATIONS_AMONG_LOSSY: f32 = 3.5;
/// and those for a server that has more than twice the queries of the others, which have shown less.
const LOSS_DEVIATIONS_OF_FIRST: f32 = 0.8;
/// Share of lost queries from which on servers lose queries, too.
const LOSSY: f32 = 0.03;

/// Outcomes of one server and of the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison {
    pub(super) own: OutcomeCounts,
    pub(super) others: OutcomeCounts,
}

impl Comparison {
    /// Returns whether both sides have a response.
    pub(super) const fn is_complete(&self) -> bool {
        self.own.responses > 0.0 && self.others.responses > 0.0
    }

    /// Returns the outcomes with the weight of their interval: as many responses on both sides.
    pub(super) fn weighted(&self) -> Self {
        let all = (self.own.responses + self.others.responses).max(1.0);
        let (own, others) = (self.others.responses / all, self.own.responses / all);
        Self { own: self.own.scaled(own), others: self.others.scaled(others) }
    }

    /// Returns whether the ratio of the server exceeds that of the others by more than chance explains. Takes weighted
    /// outcomes.
    pub(super) fn exceeds_others(&self, count: Count) -> bool {
        let (own, others) = (self.own.ratio(count), self.others.ratio(count));
        let all = (own + others) / 2.0;
        let deviation = (all * (1.0 - all).max(0.0) / self.own.responses.max(f32::MIN_POSITIVE)).sqrt();
        own - others > DEVIATIONS * deviation
    }

    /// Returns whether the server has had more than twice the queries of the others: the first of ordered servers.
    pub(super) fn is_first(&self) -> bool {
        self.own.attempts() > 2.0 * self.others.attempts()
    }

    /// Returns whether the server lost more queries than the others, by more than chance explains; `None` while they
    /// have had too few.
    pub(super) fn loses_more(&self) -> Option<bool> {
        let (own, others) = (self.own.attempts(), self.others.attempts());
        let all = (own + others).max(1.0);
        let loss = (self.own.lost + self.others.lost.max(0.0)) / all;
        let deviations = match self.is_first() {
            true => LOSS_DEVIATIONS_OF_FIRST,
            false if self.others.lost > LOSSY * others => LOSS_DEVIATIONS_AMONG_LOSSY,
            false => LOSS_DEVIATIONS,
        };
        let loses_more = self.own.lost - loss * own > deviations * (loss * own * others / all).sqrt();
        (loses_more || !self.is_first()).then_some(loses_more)
    }
}

impl AddAssign for Comparison {
    fn add_assign(&mut self, other: Self) {
        self.own += other.own;
        self.others += other.others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(responses: f32, slow: f32) -> OutcomeCounts {
        OutcomeCounts { responses, slow, ..OutcomeCounts::default() }
    }

    #[test]
    fn a_fault_of_all_servers_shows_on_both_sides_whenever_each_had_its_queries() {
        let mut sum = Comparison::default();
        // A second in which the others have nearly all queries, and then one in which all responses are slow.
        sum += Comparison { own: counts(1.0, 0.0), others: counts(116.0, 0.0) }.weighted();
        sum += Comparison { own: counts(12.0, 12.0), others: counts(21.0, 21.0) }.weighted();
        let count: Count = |counts| counts.slow;
        assert!(sum.others.ratio(count) > 0.85, "{sum:?}");
        assert!(!sum.exceeds_others(count));
    }

    #[test]
    fn few_responses_of_the_others_show_little() {
        let count: Count = |counts| counts.slow;
        let exceeds = |others: f32| {
            Comparison { own: counts(50.0, 30.0), others: counts(others, 0.0) }.weighted().exceeds_others(count)
        };
        assert_eq!([0.0, 3.0, 10.0, 50.0].map(exceeds), [false, false, true, true]);
    }
}

//! Outcomes of the attempts with one server, counted for the judgement over its group. Pure.

use std::ops::AddAssign;
use std::time::Duration;

/// Kind of a response by what it says about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum ResponseKind {
    /// A response that settles its question, or as much of it as a datagram holds.
    Answer,
    /// An error, or a referral instead of an answer.
    Failure,
    /// A response without a word about its server: that to a probe, or a resolver of the tier says that it has no room
    /// or that its own upstreams fail.
    Neutral,
}

/// Numbers of outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct OutcomeCounts {
    /// Responses that say something about the server.
    pub(super) responses: f32,
    /// Responses that are failures.
    pub(super) failures: f32,
    /// Failures that another server refuted: it answered the query. Only those are counted that are for another domain
    /// than the one before, so that one domain makes no server a failing one.
    pub(super) refuted: f32,
    /// Responses over UDP that were truncated.
    pub(super) truncated: f32,
    /// Queries without a response that was due, though the name was answered. Less than zero when more late responses
    /// came than queries were lost.
    pub(super) lost: f32,
    /// Responses that were much slower than the server used to be.
    pub(super) slow: f32,
}

impl OutcomeCounts {
    /// Returns the number of attempts that say something about the server.
    pub(super) fn attempts(&self) -> f32 {
        self.responses + self.lost.max(0.0)
    }

    /// Returns the ratio of what `count` counts to the responses.
    pub(super) fn ratio(&self, count: fn(&Self) -> f32) -> f32 {
        count(self) / self.responses.max(1.0)
    }

    /// Returns all counts multiplied by a factor.
    pub(super) fn scaled(self, factor: f32) -> Self {
        let Self { responses, failures, refuted, truncated, lost, slow } = self;
        Self {
            responses: responses * factor,
            failures: failures * factor,
            refuted: refuted * factor,
            truncated: truncated * factor,
            lost: lost * factor,
            slow: slow * factor,
        }
    }
}

impl AddAssign for OutcomeCounts {
    fn add_assign(&mut self, other: Self) {
        self.responses += other.responses;
        self.failures += other.failures;
        self.refuted += other.refuted;
        self.truncated += other.truncated;
        self.lost += other.lost;
        self.slow += other.slow;
    }
}

/// Outcomes of one server since the last judgement.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    responses: u32,
    failures: u32,
    refuted: u32,
    truncated: u32,
    lost: i32,
    slow: u32,
    /// Latency above which a response counts as slow; `None` while it is not known how fast the server is.
    slow_above: Option<Duration>,
    /// Hash of the domain of the last refuted failure.
    refuted_domain: Option<u64>,
}

impl Outcomes {
    /// Records a response.
    pub(super) fn record_response(&mut self, kind: ResponseKind, round_trip: Duration) {
        if kind == ResponseKind::Neutral {
            return;
        }
        self.responses += 1;
        self.failures += u32::from(kind == ResponseKind::Failure);
        self.slow += u32::from(self.slow_above.is_some_and(|limit| round_trip > limit));
    }

    /// Records that another server answered a query that this one failed to answer, for a domain with this hash.
    pub(super) fn record_refuted_failure(&mut self, domain: u64) {
        self.refuted += u32::from(self.refuted_domain.replace(domain) != Some(domain));
    }

    /// Records a truncated response over UDP.
    pub(super) fn record_truncation(&mut self) {
        self.truncated += 1;
    }

    /// Records that a query for a name that was answered got no response.
    pub(super) fn record_loss(&mut self) {
        self.lost += 1;
    }

    /// Records that a response came to a query that counts as lost.
    pub(super) fn record_late_response(&mut self) {
        self.lost -= 1;
    }

    /// Sets the latency above which a response counts as slow.
    pub(super) const fn set_slow_above(&mut self, limit: Option<Duration>) {
        self.slow_above = limit;
    }

    /// Returns the counts, and starts again with none.
    pub(super) fn take(&mut self) -> OutcomeCounts {
        let Self { responses, failures, refuted, truncated, lost, slow, .. } = *self;
        let Self { slow_above, refuted_domain, .. } = *self;
        *self = Self { slow_above, refuted_domain, ..Self::default() };
        #[allow(clippy::cast_precision_loss, reason = "counts of half a second, for ratios")]
        let [responses, failures, refuted, truncated, slow] =
            [responses, failures, refuted, truncated, slow].map(|count| count as f32);
        #[allow(clippy::cast_precision_loss, reason = "as above")]
        let lost = lost as f32;
        OutcomeCounts { responses, failures, refuted, truncated, lost, slow }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_taken_once_and_a_late_response_takes_a_loss_back() {
        let mut outcomes = Outcomes::default();
        outcomes.set_slow_above(Some(Duration::from_millis(400)));
        for (kind, millis) in [(ResponseKind::Answer, 1), (ResponseKind::Failure, 401), (ResponseKind::Neutral, 900)] {
            outcomes.record_response(kind, Duration::from_millis(millis));
        }
        outcomes.record_truncation();
        (0..3).for_each(|_| outcomes.record_loss());
        outcomes.record_late_response();
        let expected =
            OutcomeCounts { responses: 2.0, failures: 1.0, refuted: 0.0, truncated: 1.0, lost: 2.0, slow: 1.0 };
        assert_eq!((outcomes.take(), outcomes.take()), (expected, OutcomeCounts::default()));
        outcomes.record_late_response();
        assert_eq!(outcomes.take().lost, -1.0);
    }

    #[test]
    fn refuted_failures_of_one_domain_count_once() {
        let mut outcomes = Outcomes::default();
        [1, 1, 1].iter().for_each(|domain| outcomes.record_refuted_failure(*domain));
        assert_eq!(outcomes.take().refuted, 1.0);
        [1, 2, 1, 3].iter().for_each(|domain| outcomes.record_refuted_failure(*domain));
        assert_eq!(outcomes.take().refuted, 3.0);
    }
}

//! Rules of retries: how often and when a query is sent again, and what a failing resolver of this tier leaves to
//! another one. Pure: the time is a parameter.
//!
//! A node repeats a query to the resolver that it has asked, where the repeated query joins the one in flight and costs
//! the upstreams nothing. Each query to another resolver may cost them as much again.

use std::time::{Duration, Instant};

use crate::dns::Response;
use crate::dns::codes::ede;

/// Most sends of one query to resolvers of this tier.
pub(super) const MAX_TIER_SENDS: usize = 6;
/// Most of them that follow the silence of the one before. The last one is left for a resolver whose query goes on
/// after its deadline, and for another resolver.
pub(super) const MAX_SILENT_TIER_SENDS: usize = MAX_TIER_SENDS - 1;
/// Sends to resolvers of this tier that need no token of the retry budget when each follows the silence of the last.
const MAX_FREE_TIER_SENDS: usize = 3;
/// Sends to one resolver of this tier over UDP. The others go over TCP, which repairs loss by itself.
pub(super) const MAX_UDP_TIER_SENDS: usize = 2;
/// Most packets for one query to servers outside of this tier that answer: sends, loop probes and confirmations.
pub(super) const MAX_PACKETS: usize = 4;

/// Timeouts of the attempts of a query to resolvers of this tier. When one passes, the query is repeated.
const TIER_TIMEOUTS: [Duration; MAX_TIER_SENDS] = [
    Duration::from_millis(350),
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_millis(900),
];
/// Longest time from a send to a resolver of this tier to the look whether it has answered anybody since. With
/// [`PING_TIMEOUT`] it is not longer than the shortest timeout.
pub(super) const MAX_LIVENESS_DELAY: Duration = Duration::from_millis(200);
/// Time in which a resolver of this tier answers a ping, which it does by itself: longer than one that has used up its
/// share of CPU time stands still (CFS: 100 ms). Otherwise it is left.
pub(super) const PING_TIMEOUT: Duration = Duration::from_millis(150);
/// Lateness of a timer from which on this process itself stood still: responses may wait to be read.
const MAX_TICK_DELAY: Duration = Duration::from_millis(10);

/// Returns the timeout of the next attempt after this number of sends.
pub(super) fn tier_timeout(sends: usize) -> Duration {
    TIER_TIMEOUTS[sends.min(MAX_TIER_SENDS - 1)]
}

/// Returns whether a timer that was due at this time comes too late to say that somebody was silent until then.
pub(super) fn is_late_tick(due: Instant, now: Instant) -> bool {
    now.saturating_duration_since(due) > MAX_TICK_DELAY
}

/// Returns whether a repeat to a resolver of this tier after this number of sends takes a token.
pub(super) const fn takes_token(sends: usize) -> bool {
    sends >= MAX_FREE_TIER_SENDS
}

/// Returns how many packets may confirm that a silent server is down after this number of packets.
pub(super) const fn confirmation_packets(packets: usize) -> usize {
    MAX_PACKETS.saturating_sub(packets)
}

/// Returns whether a silent server may be probed for a forwarding loop after this number of packets: one is left for a
/// retry.
pub(super) const fn may_probe_for_loop(packets: usize) -> bool {
    packets + 1 < MAX_PACKETS
}

/// Resolvers of this tier that are worth a query after one of them has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alternative {
    /// None: its upstreams failed.
    None,
    /// The resolver itself: its query goes on, and a repeated one joins it.
    Same,
    /// One resolver of another zone, which has another packet budget.
    OtherZone,
    /// One other resolver, which has room of its own.
    OtherResolver,
    /// Another resolver within the retry budget: the failure is that of the upstreams, or the resolver is broken.
    Budgeted,
}

impl Alternative {
    /// Returns the alternative to a resolver of this tier that gave this failing or truncated response.
    pub(super) fn of(response: &Response) -> Self {
        // The registered code says the same, where a resolver has no late query to wait for.
        let has_no_upstream = response.ede() == Some(ede::NO_REACHABLE_AUTHORITY) && !response.is_bare_error();
        if response.is_upstream_failure() || (response.is_failure() && has_no_upstream) {
            Self::None
        } else if response.is_still_in_flight() {
            Self::Same
        } else if response.is_budget_exhausted() {
            Self::OtherZone
        } else if response.is_overload() {
            Self::OtherResolver
        } else {
            Self::Budgeted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;
    use crate::dns::{Name, ResponseTtl};

    fn failure(rcode: u16, ede: Option<u16>) -> Response {
        let empty = Response::empty(&Question::plain(&Name::root(), rtype::A), rcode);
        let ttl = ResponseTtl::Uncacheable;
        Response::from_parts(empty.wire().to_vec(), Default::default(), empty.question_end(), rcode, ttl, ede)
    }

    #[test]
    fn a_resolver_whose_upstreams_failed_has_no_alternative_and_one_without_room_has_one() {
        for (code, expected) in [
            (Some(ede::BUDGET_EXHAUSTED), Alternative::OtherZone),
            (Some(ede::UPSTREAMS_FAILED), Alternative::None),
            (Some(ede::STILL_IN_FLIGHT), Alternative::Same),
            (Some(ede::OVERLOADED), Alternative::OtherResolver),
            (Some(ede::NO_REACHABLE_AUTHORITY), Alternative::None),
            (Some(ede::BLOCKED), Alternative::Budgeted),
            (None, Alternative::Budgeted),
        ] {
            assert_eq!(Alternative::of(&failure(rcode::SERVFAIL, code)), expected, "{code:?}");
        }
        assert_eq!(Alternative::of(&failure(rcode::NOERROR, Some(ede::UPSTREAMS_FAILED))), Alternative::Budgeted);
    }

    #[test]
    fn six_sends_fit_into_the_deadline_of_a_node_and_a_dead_resolver_is_left_with_the_first_timeout() {
        let last = (0..MAX_TIER_SENDS - 1).map(tier_timeout).sum::<Duration>();
        assert!(last + tier_timeout(MAX_TIER_SENDS) <= Duration::from_millis(3800), "{last:?}");
        assert!(MAX_LIVENESS_DELAY + PING_TIMEOUT <= tier_timeout(0));
        assert_eq!([2, 3, 5].map(takes_token), [false, true, true]);
    }

    #[test]
    fn a_process_that_stood_still_takes_nobody_for_dead() {
        let due = Instant::now();
        let late = |millis| is_late_tick(due, due + Duration::from_millis(millis));
        assert_eq!([late(0), late(10), late(11)], [false, false, true]);
    }

    #[test]
    fn a_confirmation_is_one_of_four_packets() {
        assert_eq!([1, 2, 3, 4, 5].map(confirmation_packets), [3, 2, 1, 0, 0]);
        assert_eq!([1, 2, 3].map(may_probe_for_loop), [true, true, false], "the fourth is a retry");
    }
}

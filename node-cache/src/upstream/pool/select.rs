//! Selection of servers for a query: tiers, power of two choices, probes. Pure: health, latency and randomness are
//! parameters.

use std::time::Duration;

use smallvec::SmallVec;

use crate::upstream::server::health::Health;

/// Most sends of one query to servers that have answered anything lately, not counting the probe of a server that is
/// down.
pub(super) const MAX_SENDS: usize = 3;
/// Most sends of one query to servers that are named in an order: one that has not answered lately is sent a query
/// beside those [`MAX_SENDS`], so that silent servers in front do not hide a good one behind them.
pub(super) const MAX_SENDS_IN_ORDER: usize = 8;
/// Most of them in one tier while another tier has a server that is up.
pub(super) const MAX_SENDS_PER_TIER: usize = 2;

/// Order of the servers within a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// In the configured order.
    Ordered,
    /// Power of two choices: of two random servers, the one with the lower latency comes first.
    PowerOfTwo,
}

/// A server that may be selected.
#[derive(Clone, Debug)]
pub(super) struct Candidate<T> {
    pub(super) server: T,
    /// Index of the tier, 0 for the nearest.
    pub(super) tier: usize,
    pub(super) health: Health,
    pub(super) latency: Duration,
}

/// Candidates of all tiers, the nearest tier first.
pub(super) type Candidates<T> = SmallVec<[Candidate<T>; 8]>;

/// Servers selected for one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueryPlan<T> {
    /// Servers in the order in which they are queried. Some are repeated when there are fewer than [`MAX_SENDS`]; for
    /// those behind the first [`MAX_SENDS`], [`may_send`] decides when it is their turn.
    pub(super) sends: SmallVec<[T; MAX_SENDS]>,
    /// A server that is down and due for a probe, queried in parallel with the first one: it adds no latency.
    pub(super) probe: Option<T>,
}

/// Sends of a query so far, when it is the turn of a further server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SendCounts {
    /// Sends to servers that have answered anything lately, this query included.
    pub(super) to_answering: usize,
    /// Bad responses to this query.
    pub(super) bad_responses: usize,
}

/// Returns whether a query that was sent [`MAX_SENDS`] times or more is sent to one more server.
pub(super) const fn may_send(has_answered: bool, counts: SendCounts) -> bool {
    if has_answered { counts.to_answering < MAX_SENDS } else { counts.bad_responses < MAX_SENDS }
}

/// Returns whether a query to more servers than [`MAX_SENDS`] is repeated, without EDNS, to one that responded with an
/// error, which is counted. Each repetition counts as a send to a server that answers, and as a bad response.
pub(super) const fn may_repeat(counts: SendCounts) -> bool {
    counts.to_answering < MAX_SENDS && counts.bad_responses < MAX_SENDS
}

/// Selects servers for a query. While one is up, only servers that are up are selected. When all are down, the circuit
/// breakers may be wrong, and all are candidates. `shuffle` puts the servers of a tier into random order.
pub(super) fn select<T: Clone + PartialEq>(
    mut candidates: Candidates<T>,
    selection: Selection,
    mut shuffle: impl FnMut(&mut [Candidate<T>]),
) -> QueryPlan<T> {
    let mut probe = None;
    let is_any_up = candidates.iter().any(|candidate| candidate.health == Health::Up);
    if is_any_up {
        let due = candidates.iter().find(|candidate| candidate.health == Health::ProbeDue);
        probe = due.map(|candidate| candidate.server.clone());
        candidates.retain(|candidate| candidate.health == Health::Up);
    }
    let mut tiers = 0;
    for tier in candidates.chunk_by_mut(|one, other| one.tier == other.tier) {
        tiers += 1;
        if selection == Selection::PowerOfTwo {
            shuffle(tier);
            if let [first, second, ..] = tier
                && second.latency < first.latency
            {
                std::mem::swap(first, second);
            }
        }
    }
    // Where all are down, each of them is probed anyway.
    let max_sends = if selection == Selection::Ordered && is_any_up { MAX_SENDS_IN_ORDER } else { MAX_SENDS };
    let max_per_tier = if tiers > 1 { MAX_SENDS_PER_TIER } else { max_sends };
    let selected =
        candidates.chunk_by(|one, other| one.tier == other.tier).flat_map(|tier| tier.iter().take(max_per_tier));
    let mut sends = SmallVec::<[T; MAX_SENDS]>::new();
    sends.extend(selected.take(max_sends).map(|candidate| candidate.server.clone()));
    for repeated in 0..if sends.is_empty() { 0 } else { MAX_SENDS.saturating_sub(sends.len()) } {
        sends.extend(sends.get(repeated).cloned());
    }
    QueryPlan { sends, probe }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(server: &'static str, health: Health, millis: u64) -> Candidate<&'static str> {
        Candidate { server, tier: 0, health, latency: Duration::from_millis(millis) }
    }

    /// Returns the candidates of two tiers.
    fn tiers(tiers: [(Health, &[&'static str]); 2]) -> Candidates<&'static str> {
        let tier = |(tier, (health, servers)): (usize, (Health, &[&'static str]))| {
            servers.iter().map(|server| Candidate { tier, ..candidate(server, health, 1) }).collect::<Vec<_>>()
        };
        tiers.into_iter().enumerate().flat_map(tier).collect()
    }

    fn keep_order(_: &mut [Candidate<&'static str>]) {}

    #[test]
    fn the_own_zone_is_queried_first_and_another_one_before_a_second_is_over() {
        let tiers = tiers([(Health::Up, &["own-1", "own-2", "own-3"]), (Health::Up, &["other-1", "other-2"])]);
        assert_eq!(select(tiers, Selection::PowerOfTwo, keep_order).sends[..], ["own-1", "own-2", "other-1"]);
    }

    #[test]
    fn a_zone_that_is_down_costs_no_response() {
        let tiers = tiers([(Health::Down, &["own-1", "own-2"]), (Health::Up, &["other-1", "other-2"])]);
        let plan = select(tiers, Selection::PowerOfTwo, keep_order);
        assert_eq!(plan, QueryPlan { sends: ["other-1", "other-2", "other-1"].into(), probe: None });
    }

    #[test]
    fn a_down_server_that_is_due_is_probed_in_parallel_with_one_that_is_up() {
        let tiers = tiers([(Health::ProbeDue, &["own-1", "own-2"]), (Health::Up, &["other-1"])]);
        let plan = select(tiers, Selection::PowerOfTwo, keep_order);
        assert_eq!(plan, QueryPlan { sends: ["other-1"; 3].into(), probe: Some("own-1") });
    }

    #[test]
    fn where_all_are_down_all_are_tried() {
        let tiers = tiers([(Health::Down, &["own-1", "own-2"]), (Health::ProbeDue, &["other-1"])]);
        assert_eq!(select(tiers, Selection::Ordered, keep_order).sends[..], ["own-1", "own-2", "other-1"]);
        assert_eq!(select(Candidates::new(), Selection::Ordered, keep_order).sends[..], [""; 0]);
    }

    #[test]
    fn up_to_eight_servers_in_an_order_are_tried_while_one_is_up_and_three_otherwise() {
        const NAMES: [&str; 9] = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let sends = |health, count: usize, selection| {
            let candidates = NAMES[..count].iter().map(|name| candidate(name, health, 1)).collect();
            select(candidates, selection, keep_order).sends.len()
        };
        assert_eq!([1, 3, 4, 8, 9].map(|count| sends(Health::Up, count, Selection::Ordered)), [3, 3, 4, 8, 8]);
        assert_eq!(sends(Health::Down, 9, Selection::Ordered), 3);
        assert_eq!(sends(Health::Up, 9, Selection::PowerOfTwo), 3, "others are drawn for the next name");
    }

    #[test]
    fn servers_that_answer_are_sent_a_query_three_times_together_and_each_other_one_once_beside_them() {
        let counts = |to_answering, bad_responses| SendCounts { to_answering, bad_responses };
        assert!(may_send(true, counts(2, 2)) && !may_send(true, counts(3, 0)));
        assert!(may_send(false, counts(3, 0)) && may_send(false, counts(3, 2)));
        assert!(!may_send(false, counts(3, 3)), "three servers have said that they have no answer");
        assert!(may_repeat(counts(2, 2)) && !may_repeat(counts(3, 1)) && !may_repeat(counts(1, 3)));
    }

    #[test]
    fn ordered_servers_keep_their_order_and_power_of_two_prefers_the_faster() {
        let tier = Candidates::from_vec(vec![candidate("slow", Health::Up, 9), candidate("fast", Health::Up, 1)]);
        assert_eq!(
            select(tier.clone(), Selection::Ordered, |_| panic!("shuffled an ordered tier")).sends[..],
            ["slow", "fast", "slow"]
        );
        assert_eq!(select(tier, Selection::PowerOfTwo, keep_order).sends[..], ["fast", "slow", "fast"]);
    }
}

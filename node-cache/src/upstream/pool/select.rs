//! Selection of servers for a query: tiers, power of two choices, outliers, probes. Pure: what is known of the servers
//! and randomness are parameters.

use smallvec::SmallVec;

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
    /// Power of two choices: of two random servers, the one with the clearly lower score comes first.
    PowerOfTwo,
}

/// Server that may be selected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Index among the servers of its group.
    pub(super) index: usize,
    pub(super) rank: Rank,
    /// Peak latency × (attempts in flight + 1): the lower the better.
    pub(super) score: u64,
}

/// Rank of a server. Those of a lower one are queried when there are not enough others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A server for this query.
    First,
    /// A server in slow start, or a suspected one, whose share has no room for this query: it comes behind the others
    /// of its tier.
    BehindTier,
    /// An outlier, or a server that is lame for the domain: it comes behind the servers of all tiers.
    BehindAll,
    /// A server in a forwarding loop: it is queried only when there is no other one.
    Looping,
}

/// Candidates of one tier.
pub(super) type Candidates = SmallVec<[Candidate; 8]>;

/// Servers in the order in which they are queried.
pub(super) type Sends<T> = SmallVec<[T; MAX_SENDS]>;

/// Servers selected for one query.
#[derive(Clone, Debug)]
pub(super) struct QueryPlan<T> {
    /// Servers in the order in which they are queried. Some are repeated when there are fewer than [`MAX_SENDS`]; for
    /// those behind the first [`MAX_SENDS`], [`may_send`] decides when it is their turn.
    pub(super) sends: Sends<T>,
    /// A server that is down and due for a probe, queried in parallel with the first one: it adds no latency.
    pub(super) probe: Option<T>,
}

impl<T> Default for QueryPlan<T> {
    fn default() -> Self {
        Self { sends: SmallVec::new(), probe: None }
    }
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

/// Plan of one query in the making. Tiers are added to it, the nearest first, until it is full.
#[derive(Debug)]
pub(super) struct Planner<T> {
    selection: Selection,
    /// Most servers of one tier.
    max_per_tier: usize,
    max_sends: usize,
    sends: Sends<T>,
    /// Further servers of the only tier with servers so far.
    rest: SmallVec<[T; 1]>,
    /// Number of tiers with servers.
    tiers: usize,
    behind_all: SmallVec<[T; 1]>,
    looping: SmallVec<[T; 1]>,
    probe: Option<T>,
}

impl<T: Clone> Planner<T> {
    /// Creates a plan of a pool. While no server is up (`is_any_up`), it is shorter: each of them is probed anyway.
    pub(super) fn new(selection: Selection, is_only_tier: bool, is_any_up: bool) -> Self {
        let max_sends = if selection == Selection::Ordered && is_any_up { MAX_SENDS_IN_ORDER } else { MAX_SENDS };
        let is_limited = selection == Selection::PowerOfTwo && !is_only_tier;
        Self {
            selection,
            max_per_tier: if is_limited { MAX_SENDS_PER_TIER } else { max_sends },
            max_sends,
            sends: SmallVec::new(),
            rest: SmallVec::new(),
            tiers: 0,
            behind_all: SmallVec::new(),
            looping: SmallVec::new(),
            probe: None,
        }
    }

    /// Notes that a server that is down is due for a probe. The first one is probed.
    pub(super) fn add_probe(&mut self, server: &T) {
        self.probe.get_or_insert_with(|| server.clone());
    }

    /// Returns whether no further tier is needed.
    pub(super) fn is_full(&self) -> bool {
        self.sends.len() >= self.max_sends
    }

    /// Adds the servers of the next tier that may be queried. `random` returns a random number below its parameter.
    pub(super) fn add_tier(&mut self, servers: &[T], candidates: &mut Candidates, random: impl FnMut(usize) -> usize) {
        let server = |candidate: &Candidate| servers.get(candidate.index).cloned();
        if self.selection == Selection::PowerOfTwo {
            choose_of_two(candidates, self.max_sends, random);
        }
        if candidates.iter().any(|candidate| candidate.rank > Rank::First) {
            candidates.sort_by_key(|candidate| candidate.rank);
            let of_rank = |rank| candidates.iter().filter(move |candidate| candidate.rank == rank).filter_map(server);
            self.behind_all.extend(of_rank(Rank::BehindAll));
            self.looping.extend(of_rank(Rank::Looping));
            candidates.retain(|candidate| candidate.rank < Rank::BehindAll);
        }
        if candidates.is_empty() {
            return;
        }
        self.tiers += 1;
        let room = self.max_per_tier.min(self.max_sends - self.sends.len());
        let (first, rest) = candidates.split_at(room.min(candidates.len()));
        first.iter().filter_map(server).for_each(|server| self.sends.push(server));
        if self.tiers == 1 {
            rest.iter().take(self.max_sends - room).filter_map(server).for_each(|server| self.rest.push(server));
        }
    }

    /// Returns the plan; `None` when no server is in it. Servers are repeated when there are fewer than [`MAX_SENDS`].
    pub(super) fn finish(self) -> Option<QueryPlan<T>> {
        let Self { max_sends, mut sends, rest, tiers, behind_all, looping, probe, .. } = self;
        if sends.len() < max_sends {
            if tiers == 1 {
                append(&mut sends, rest);
            }
            append(&mut sends, behind_all);
            if sends.is_empty() {
                append(&mut sends, looping);
            }
            sends.truncate(max_sends);
        }
        for repeated in 0..if sends.is_empty() { 0 } else { MAX_SENDS.saturating_sub(sends.len()) } {
            if let Some(server) = sends.get(repeated).cloned() {
                sends.push(server);
            }
        }
        (!sends.is_empty()).then_some(QueryPlan { sends, probe })
    }
}

/// Appends further servers. Mostly there are none, and then nothing is moved.
fn append<T>(sends: &mut Sends<T>, servers: SmallVec<[T; 1]>) {
    if !servers.is_empty() {
        sends.extend(servers);
    }
}

/// Puts as many random candidates as are needed in front, and of the first two the one with the clearly lower score
/// first. Of equals the random order decides: the best one would be sent all queries until it is no longer the best.
fn choose_of_two(candidates: &mut [Candidate], needed: usize, mut random: impl FnMut(usize) -> usize) {
    let count = candidates.len();
    for place in 0..needed.min(count.saturating_sub(1)) {
        candidates.swap(place, place + random(count - place));
    }
    if let [first, second, ..] = candidates
        && is_clearly_lower(second.score, first.score)
    {
        std::mem::swap(first, second);
    }
}

/// Returns whether a score is lower by a fifth or more.
const fn is_clearly_lower(score: u64, other: u64) -> bool {
    score.saturating_mul(5) <= other.saturating_mul(4)
}

/// Returns whether a query finds room in the share of a server, out of 256; `random` is below 256.
pub(super) const fn is_in_share(share: u32, random: u32) -> bool {
    random < share
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of a tier by their index, with score and rank.
    type Tier = Vec<(u64, Rank)>;

    const UP: (u64, Rank) = (1, Rank::First);
    const BEHIND: (u64, Rank) = (1, Rank::BehindTier);
    const LEFT: (u64, Rank) = (1, Rank::BehindAll);
    const LOOPING: (u64, Rank) = (1, Rank::Looping);

    /// Returns the sends of a query to the servers of these tiers: ten times the tier and the index.
    fn sends(selection: Selection, tiers: &[Tier], mut random: impl FnMut(usize) -> usize) -> Vec<usize> {
        let mut planner = Planner::new(selection, tiers.len() == 1, true);
        for (number, tier) in tiers.iter().enumerate() {
            let servers: Vec<usize> = (0..tier.len()).map(|index| 10 * number + index).collect();
            let candidate =
                |(index, (score, rank)): (usize, &(u64, Rank))| Candidate { index, rank: *rank, score: *score };
            let mut candidates = tier.iter().enumerate().map(candidate).collect();
            planner.add_tier(&servers, &mut candidates, &mut random);
        }
        planner.finish().map(|plan| plan.sends.to_vec()).unwrap_or_default()
    }

    fn in_order(selection: Selection, tiers: &[Tier]) -> Vec<usize> {
        sends(selection, tiers, |_| 0)
    }

    #[test]
    fn the_own_zone_is_queried_first_and_another_one_before_a_second_is_over() {
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![UP; 3], vec![UP; 2]]), [0, 1, 10]);
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![UP], vec![UP; 2], vec![UP; 2]]), [0, 10, 11]);
    }

    #[test]
    fn a_zone_without_a_server_that_is_up_costs_no_response() {
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![], vec![UP]]), [10, 10, 10]);
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![UP; 3], vec![]]), [0, 1, 2], "the third one of the own zone");
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![], vec![]]), [0; 0]);
    }

    #[test]
    fn up_to_eight_servers_in_an_order_are_tried_while_one_is_up_and_three_otherwise() {
        let count = |count, selection| in_order(selection, &[vec![UP; count]]).len();
        assert_eq!([1, 3, 4, 8, 9].map(|servers| count(servers, Selection::Ordered)), [3, 3, 4, 8, 8]);
        assert_eq!(count(9, Selection::PowerOfTwo), 3, "others are drawn for the next name");
        let mut planner = Planner::new(Selection::Ordered, true, false);
        let candidate = |index| Candidate { index, rank: Rank::First, score: 1 };
        planner.add_tier(&[0; 9], &mut (0..9).map(candidate).collect(), |_| 0);
        assert!(planner.is_full());
        assert_eq!(planner.finish().unwrap().sends.len(), 3);
    }

    #[test]
    fn ordered_servers_keep_their_order_and_power_of_two_prefers_the_lower_score() {
        let tier = vec![(9, Rank::First), (1, Rank::First)];
        let ordered = sends(Selection::Ordered, std::slice::from_ref(&tier), |_| panic!("shuffled an ordered tier"));
        assert_eq!(ordered, [0, 1, 0]);
        assert_eq!(in_order(Selection::PowerOfTwo, &[tier]), [1, 0, 1]);
    }

    #[test]
    fn of_servers_that_are_about_equal_chance_decides() {
        let tier = |second| vec![(1000, Rank::First), (second, Rank::First)];
        for score in [801, 1000, 1249] {
            let first = [0, 1].map(|random| sends(Selection::PowerOfTwo, &[tier(score)], |_| random)[0]);
            assert_eq!(first, [0, 1], "{score}");
        }
        assert_eq!([0, 1].map(|random| sends(Selection::PowerOfTwo, &[tier(800)], |_| random)[0]), [1, 1]);
        assert_eq!([0, 1].map(|random| sends(Selection::PowerOfTwo, &[tier(1250)], |_| random)[0]), [0, 0]);
    }

    #[test]
    fn servers_of_a_lower_rank_come_behind_the_others_of_their_tier_or_of_all_tiers() {
        assert_eq!(in_order(Selection::Ordered, &[vec![BEHIND, UP, UP]]), [1, 2, 0]);
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![BEHIND, UP], vec![UP]]), [1, 0, 10]);
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![LEFT, UP], vec![UP]]), [1, 10, 0]);
        assert_eq!(in_order(Selection::Ordered, &[vec![LEFT, UP, LEFT, UP]]), [1, 3, 0, 2]);
        assert_eq!(in_order(Selection::Ordered, &[vec![LEFT, LEFT]]), [0, 1, 0], "there is no other one");
        assert_eq!(in_order(Selection::PowerOfTwo, &[vec![BEHIND, BEHIND], vec![UP]]), [0, 1, 10]);
    }

    #[test]
    fn servers_in_a_loop_are_left_out_while_there_is_another_one() {
        assert_eq!(in_order(Selection::Ordered, &[vec![LOOPING, UP]]), [1, 1, 1]);
        assert_eq!(in_order(Selection::Ordered, &[vec![LOOPING, LEFT]]), [1, 1, 1]);
        assert_eq!(in_order(Selection::Ordered, &[vec![LOOPING, LOOPING]]), [0, 1, 0]);
    }

    #[test]
    fn two_equal_servers_share_the_queries_and_a_loaded_one_gets_fewer() {
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut share = |scores: [u64; 4]| {
            let tier: Tier = scores.map(|score| (score, Rank::First)).to_vec();
            (0..10_000)
                .filter(|_| sends(Selection::PowerOfTwo, std::slice::from_ref(&tier), &mut random)[0] == 0)
                .count()
        };
        assert!((2300..2700).contains(&share([1; 4])));
        assert_eq!(share([10, 1, 1, 1]), 0, "it is never the better one of two");
        assert!((4700..5300).contains(&share([1, 10, 10, 10])), "it is one of two in every second draw");
    }

    #[test]
    fn servers_that_answer_are_sent_a_query_three_times_together_and_each_other_one_once_beside_them() {
        let counts = |to_answering, bad_responses| SendCounts { to_answering, bad_responses };
        assert!(may_send(true, counts(2, 2)) && !may_send(true, counts(3, 0)));
        assert!(may_send(false, counts(3, 0)) && may_send(false, counts(3, 2)));
        assert!(!may_send(false, counts(3, 3)), "three servers have said that they have no answer");
        assert!(may_repeat(counts(2, 2)) && !may_repeat(counts(3, 1)) && !may_repeat(counts(1, 3)));
    }
}

//! Who is asked, in which order. Pure: what is known of the servers and chance are parameters.

use std::time::Duration;

use smallvec::SmallVec;

use crate::upstream::server::health::Health;

/// The most servers that one question is sent to, save for one more to see whether a dead server lives.
pub(in crate::upstream) const MAX_SENDS: usize = 3;
/// The most of them in one tier while another tier has somebody who answers.
const MAX_SENDS_PER_TIER: usize = 2;

/// How servers of one tier are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// As they are written.
    Ordered,
    /// Evenly, the faster of two picked at random first.
    PowerOfTwo,
}

/// A server as the plan sees it.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Candidate<T> {
    pub(in crate::upstream) server: T,
    /// Its tier, the nearest one first.
    pub(in crate::upstream) tier: usize,
    pub(in crate::upstream) state: Health,
    pub(in crate::upstream) latency: Duration,
}

/// Servers in tiers, the nearest tier first.
pub(in crate::upstream) type Candidates<T> = SmallVec<[Candidate<T>; 8]>;

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Plan<T> {
    /// One after the other, each when the ones before it do not answer; the same one twice if there are few.
    pub(in crate::upstream) sends: SmallVec<[T; MAX_SENDS]>,
    /// Beside the first of them, a dead server, to see whether it still is: it costs the question no time.
    pub(in crate::upstream) probe: Option<T>,
}

/// Makes a plan. While anybody is healthy only healthy servers are counted on.
/// Where all seem dead the breakers may be wrong, and all of them are tried. `shuffle` puts those of a tier into random order.
pub(in crate::upstream) fn plan<T: Clone + PartialEq>(
    mut candidates: Candidates<T>,
    order: Selection,
    mut shuffle: impl FnMut(&mut [Candidate<T>]),
) -> Plan<T> {
    let mut probe = None;
    if candidates.iter().any(|candidate| candidate.state == Health::Up) {
        probe = candidates.iter().find(|candidate| candidate.state == Health::ProbeDue).map(|due| due.server.clone());
        candidates.retain(|candidate| candidate.state == Health::Up);
    }
    let mut tiers = 0;
    for tier in candidates.chunk_by_mut(|one, other| one.tier == other.tier) {
        tiers += 1;
        if order == Selection::PowerOfTwo {
            shuffle(tier);
            if let [first, second, ..] = tier
                && second.latency < first.latency
            {
                std::mem::swap(first, second);
            }
        }
    }
    let most = if tiers > 1 { MAX_SENDS_PER_TIER } else { MAX_SENDS };
    let chosen = candidates.chunk_by(|one, other| one.tier == other.tier).flat_map(|tier| tier.iter().take(most));
    let mut sends = SmallVec::<[T; MAX_SENDS]>::new();
    sends.extend(chosen.take(MAX_SENDS).map(|candidate| candidate.server.clone()));
    for again in 0..if sends.is_empty() { 0 } else { MAX_SENDS - sends.len() } {
        sends.extend(sends.get(again).cloned());
    }
    Plan { sends, probe }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(server: &'static str, state: Health, millis: u64) -> Candidate<&'static str> {
        Candidate { server, tier: 0, state, latency: Duration::from_millis(millis) }
    }

    /// Two tiers.
    fn tiers(tiers: [(Health, &[&'static str]); 2]) -> Candidates<&'static str> {
        let tier = |(tier, (state, servers)): (usize, (Health, &[&'static str]))| {
            servers.iter().map(|server| Candidate { tier, ..candidate(server, state, 1) }).collect::<Vec<_>>()
        };
        tiers.into_iter().enumerate().flat_map(tier).collect()
    }

    fn keep(_: &mut [Candidate<&'static str>]) {}

    #[test]
    fn the_own_zone_is_asked_first_and_another_one_before_a_second_is_over() {
        let tiers = tiers([(Health::Up, &["own-1", "own-2", "own-3"]), (Health::Up, &["other-1", "other-2"])]);
        assert_eq!(plan(tiers, Selection::PowerOfTwo, keep).sends[..], ["own-1", "own-2", "other-1"]);
    }

    #[test]
    fn a_dead_zone_costs_no_answer() {
        let tiers = tiers([(Health::Down, &["own-1", "own-2"]), (Health::Up, &["other-1", "other-2"])]);
        let plan = plan(tiers, Selection::PowerOfTwo, keep);
        assert_eq!(plan, Plan { sends: ["other-1", "other-2", "other-1"].into(), probe: None });
    }

    #[test]
    fn a_dead_server_that_is_due_is_asked_beside_a_healthy_one() {
        let tiers = tiers([(Health::ProbeDue, &["own-1", "own-2"]), (Health::Up, &["other-1"])]);
        let plan = plan(tiers, Selection::PowerOfTwo, keep);
        assert_eq!(plan, Plan { sends: ["other-1"; 3].into(), probe: Some("own-1") });
    }

    #[test]
    fn where_all_seem_dead_all_are_tried() {
        let tiers = tiers([(Health::Down, &["own-1", "own-2"]), (Health::ProbeDue, &["other-1"])]);
        assert_eq!(plan(tiers, Selection::Ordered, keep).sends[..], ["own-1", "own-2", "other-1"]);
        assert_eq!(plan(Candidates::new(), Selection::Ordered, keep).sends[..], [""; 0]);
    }

    #[test]
    fn preferred_servers_keep_their_order_and_spread_ones_prefer_the_faster_of_two() {
        let tier = Candidates::from_vec(vec![candidate("slow", Health::Up, 9), candidate("fast", Health::Up, 1)]);
        assert_eq!(
            plan(tier.clone(), Selection::Ordered, |_| panic!("no chance here")).sends[..],
            ["slow", "fast", "slow"]
        );
        assert_eq!(plan(tier, Selection::PowerOfTwo, keep).sends[..], ["fast", "slow", "fast"]);
    }
}

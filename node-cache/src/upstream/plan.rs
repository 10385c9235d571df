//! Who is asked, in which order. Pure: what is known of the servers and chance are parameters.

use std::time::Duration;

use super::health::State;

/// The most servers that one question is sent to, save for one more to see whether a dead server lives.
pub(super) const SENDS: usize = 3;
/// The most of them in one tier while another tier has somebody who answers.
const SENDS_PER_TIER: usize = 2;

/// How servers of one tier are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are written.
    Preferred,
    /// Evenly, the faster of two picked at random first.
    Spread,
}

/// A server as the plan sees it.
#[derive(Clone, Debug)]
pub(super) struct Candidate<T> {
    pub(super) server: T,
    pub(super) state: State,
    pub(super) latency: Duration,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan<T> {
    /// One after the other, each when the ones before it do not answer; the same one twice if there are few.
    pub(super) sends: Vec<T>,
    /// Beside the first of them, a dead server, to see whether it still is: it costs the question no time.
    pub(super) probe: Option<T>,
}

/// Makes a plan from tiers of servers, the nearest first. While anybody is healthy only healthy servers are counted on.
/// Where all seem dead the breakers may be wrong, and all of them are tried. `shuffle` puts indices into random order.
pub(super) fn plan<T: Clone + PartialEq>(
    tiers: &[Vec<Candidate<T>>],
    order: Order,
    mut shuffle: impl FnMut(&mut [usize]),
) -> Plan<T> {
    let anybody = tiers.iter().flatten().any(|candidate| candidate.state == State::Healthy);
    let mut by_tier = Vec::new();
    for tier in tiers {
        let mut usable: Vec<&Candidate<T>> =
            tier.iter().filter(|candidate| !anybody || candidate.state == State::Healthy).collect();
        if order == Order::Spread {
            usable = spread(usable, &mut shuffle);
        }
        if !usable.is_empty() {
            by_tier.push(usable);
        }
    }
    let most = if by_tier.len() > 1 { SENDS_PER_TIER } else { SENDS };
    let mut sends: Vec<T> = by_tier
        .iter()
        .flat_map(|tier| tier.iter().take(most))
        .take(SENDS)
        .map(|candidate| candidate.server.clone())
        .collect();
    let distinct = sends.len();
    if distinct > 0 {
        let again: Vec<T> = sends.iter().cycle().take(SENDS - distinct).cloned().collect();
        sends.extend(again);
    }
    let due = tiers.iter().flatten().find(|candidate| anybody && candidate.state == State::Due);
    Plan { sends, probe: due.map(|candidate| candidate.server.clone()) }
}

fn spread<'a, T>(tier: Vec<&'a Candidate<T>>, shuffle: &mut impl FnMut(&mut [usize])) -> Vec<&'a Candidate<T>> {
    let mut indices: Vec<usize> = (0..tier.len()).collect();
    shuffle(&mut indices);
    if let [first, second, ..] = indices.as_mut_slice()
        && tier[*second].latency < tier[*first].latency
    {
        std::mem::swap(first, second);
    }
    indices.into_iter().map(|index| tier[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(server: &'static str, state: State, millis: u64) -> Candidate<&'static str> {
        Candidate { server, state, latency: Duration::from_millis(millis) }
    }

    fn tier(state: State, servers: &[&'static str]) -> Vec<Candidate<&'static str>> {
        servers.iter().map(|server| candidate(server, state, 1)).collect()
    }

    fn keep(_: &mut [usize]) {}

    #[test]
    fn the_own_zone_is_asked_first_and_another_one_before_a_second_is_over() {
        let tiers = [tier(State::Healthy, &["own-1", "own-2", "own-3"]), tier(State::Healthy, &["other-1", "other-2"])];
        assert_eq!(plan(&tiers, Order::Spread, keep).sends, ["own-1", "own-2", "other-1"]);
    }

    #[test]
    fn a_dead_zone_costs_no_answer() {
        let tiers = [tier(State::Dead, &["own-1", "own-2"]), tier(State::Healthy, &["other-1", "other-2"])];
        let plan = plan(&tiers, Order::Spread, keep);
        assert_eq!(plan, Plan { sends: vec!["other-1", "other-2", "other-1"], probe: None });
    }

    #[test]
    fn a_dead_server_that_is_due_is_asked_beside_a_healthy_one() {
        let tiers = [tier(State::Due, &["own-1", "own-2"]), tier(State::Healthy, &["other-1"])];
        let plan = plan(&tiers, Order::Spread, keep);
        assert_eq!(plan, Plan { sends: vec!["other-1"; 3], probe: Some("own-1") });
    }

    #[test]
    fn where_all_seem_dead_all_are_tried() {
        let tiers = [tier(State::Dead, &["own-1", "own-2"]), tier(State::Due, &["other-1"])];
        assert_eq!(plan(&tiers, Order::Preferred, keep).sends, ["own-1", "own-2", "other-1"]);
        assert_eq!(plan(&[] as &[Vec<Candidate<&str>>], Order::Preferred, keep).sends, [""; 0]);
    }

    #[test]
    fn preferred_servers_keep_their_order_and_spread_ones_prefer_the_faster_of_two() {
        let tiers = [vec![candidate("slow", State::Healthy, 9), candidate("fast", State::Healthy, 1)]];
        assert_eq!(plan(&tiers, Order::Preferred, |_| panic!("no chance here")).sends, ["slow", "fast", "slow"]);
        assert_eq!(plan(&tiers, Order::Spread, keep).sends, ["fast", "slow", "fast"]);
    }
}

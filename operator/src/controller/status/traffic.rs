//! Traffic of a tier and of its zones, with hysteresis, so that small changes cause no write of the status.

use std::collections::BTreeMap;

use dnstier_crds::v1alpha1::TrafficStatus;

use crate::controller::observe::Observed;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::observe::poll::TrafficRates;
use crate::controller::rollout::is_away;

/// Minimum change of a share that is written, in percentage points.
const PERCENT_HYSTERESIS: f64 = 3.0;
/// Minimum change of the query rate that is written, as a fraction of the rate.
const RATE_HYSTERESIS: f64 = 0.1;
/// Minimum change of the query rate that is written, in queries per second.
const MIN_RATE_HYSTERESIS: f64 = 2.0;
/// Queries of the last minute with which shares begin to be shown: with fewer, one query more or less is a percent and
/// more.
const MIN_QUERIES_FOR_SHARES: f64 = 100.0;
/// Queries of the last minute below which shares that are shown are shown no more.
const MIN_QUERIES_FOR_LAST_SHARES: f64 = 50.0;

/// Returns the rates over the last minute of the node pods that are polled.
pub(super) fn node_rates(observed: &Observed) -> Vec<TrafficRates> {
    node_pods(observed).filter_map(|pod| observed.reports.get(&pod.uid)?.rates()).collect()
}

/// Returns the node pods on nodes that are there. The others are not polled, and their rates are those of before.
fn node_pods(observed: &Observed) -> impl Iterator<Item = &TierPod> {
    observed.pods.iter().filter(|pod| pod.component == Component::NodeCache && !is_away(observed, pod))
}

/// Returns the traffic of all nodes. A number stays at its previous value until it differs clearly; without any rates,
/// all numbers stay. There are no shares with too few queries.
pub(super) fn with_hysteresis(previous: Option<TrafficStatus>, rates: &[TrafficRates]) -> Option<TrafficStatus> {
    if rates.is_empty() {
        return previous;
    }
    let sum = |rate: fn(&TrafficRates) -> f64| rates.iter().map(rate).sum::<f64>();
    let previous = |number: fn(&TrafficStatus) -> Option<u32>| previous.as_ref().and_then(number);
    let queries = sum(|rates| rates.queries);
    let has_shares = previous(|traffic| traffic.hit_percent).is_some();
    let is_enough = sum(|rates| rates.counted) >= min_queries(has_shares);
    let percent = |previous: Option<u32>, rate: f64| {
        is_enough.then(|| unless_close(previous, (100.0 * rate / queries).min(100.0), PERCENT_HYSTERESIS))
    };
    let previous_queries = previous(|traffic| Some(traffic.queries_per_second));
    let rate_hysteresis = (RATE_HYSTERESIS * previous_queries.map_or(0.0, f64::from)).max(MIN_RATE_HYSTERESIS);
    Some(TrafficStatus {
        queries_per_second: unless_close(previous_queries, queries, rate_hysteresis),
        hit_percent: percent(previous(|traffic| traffic.hit_percent), sum(|rates| rates.hits)),
        stale_percent: percent(previous(|traffic| traffic.stale_percent), sum(|rates| rates.stale)),
        servfail_percent: percent(previous(|traffic| traffic.servfail_percent), sum(|rates| rates.servfail)),
    })
}

/// Returns the share of the queries to the tier's resolvers that went to those of the zone itself, by zone; none of a
/// zone of which nobody knows it.
pub(super) fn local_percents(observed: &Observed) -> BTreeMap<String, u32> {
    let mut rates: BTreeMap<&str, Vec<Option<TrafficRates>>> = BTreeMap::new();
    for pod in node_pods(observed) {
        let zone = pod.node.as_deref().and_then(|node| observed.nodes.zone_of(node));
        let Some((zone, report)) = zone.zip(observed.reports.get(&pod.uid)) else { continue };
        if report.failures == 0 {
            rates.entry(zone).or_default().push(report.rates());
        }
    }
    let before = observed.tier.status.iter().flat_map(|status| &status.zones);
    let before: BTreeMap<&str, Option<u32>> = before.map(|zone| (zone.name.as_str(), zone.local_percent)).collect();
    let percents = rates.into_iter().filter_map(|(zone, rates)| {
        Some((zone.to_owned(), local_percent(before.get(zone).copied().flatten(), &rates)?))
    });
    percents.collect()
}

/// Returns the share of a zone with these rates of the pods that answer, `None` for those of which no two polls are
/// there yet. The share stays at its previous value until it differs clearly, or is all or nothing; `None` with too few
/// queries.
fn local_percent(previous: Option<u32>, rates: &[Option<TrafficRates>]) -> Option<u32> {
    let known: Vec<&TrafficRates> = rates.iter().flatten().collect();
    if known.is_empty() {
        return previous.filter(|_| !rates.is_empty());
    }
    let sum = |rate: fn(&TrafficRates) -> f64| known.iter().map(|rates| rate(rates)).sum::<f64>();
    if sum(|rates| rates.counted_to_zones) < min_queries(previous.is_some()) {
        return None;
    }
    let (own, other) = (sum(|rates| rates.to_own_zone), sum(|rates| rates.to_other_zones));
    let hysteresis = if own > 0.0 && other > 0.0 { PERCENT_HYSTERESIS } else { 0.0 };
    Some(unless_close(previous, 100.0 * own / (own + other), hysteresis))
}

/// Returns the queries of the last minute with which shares are shown.
fn min_queries(has_shares: bool) -> f64 {
    if has_shares { MIN_QUERIES_FOR_LAST_SHARES } else { MIN_QUERIES_FOR_SHARES }
}

/// Returns the current number, or the previous one if they differ by less than `hysteresis`.
fn unless_close(previous: Option<u32>, current: f64, hysteresis: f64) -> u32 {
    match previous {
        Some(previous) if (f64::from(previous) - current).abs() < hysteresis => previous,
        // Rates and shares are never negative, and the cast saturates.
        _ => current.round() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(queries: f64, hits: f64) -> TrafficRates {
        TrafficRates { counted: 60.0 * queries, queries, hits, ..TrafficRates::default() }
    }

    #[test]
    fn all_nodes_add_up() {
        let traffic = with_hysteresis(None, &[rates(100.0, 90.0), rates(300.0, 150.0)]).unwrap();
        assert_eq!((traffic.queries_per_second, traffic.hit_percent), (400, Some(60)));
    }

    #[test]
    fn small_changes_are_not_shown_and_large_ones_are() {
        let before = with_hysteresis(None, &[rates(1_000.0, 900.0)]);
        assert_eq!(with_hysteresis(before, &[rates(1_050.0, 960.0)]), before);
        let after = with_hysteresis(before, &[rates(1_200.0, 600.0)]).unwrap();
        assert_eq!((after.queries_per_second, after.hit_percent), (1_200, Some(50)));
    }

    #[test]
    fn an_idle_tier_shows_the_same_numbers_for_hours() {
        let mut traffic = with_hysteresis(None, &[rates(0.4, 0.4)]);
        let first = traffic;
        for step in 0..100 {
            traffic = with_hysteresis(traffic, &[rates(f64::from(step % 10) / 5.0, 0.1)]);
        }
        assert_eq!(traffic.map(|traffic| traffic.queries_per_second), first.map(|traffic| traffic.queries_per_second));
    }

    #[test]
    fn a_few_failed_queries_of_an_idle_tier_are_no_percentage() {
        let idle = TrafficRates { servfail: 0.03, ..rates(0.15, 0.0) };
        let traffic = with_hysteresis(None, &[idle; 3]).unwrap();
        assert_eq!((traffic.hit_percent, traffic.stale_percent, traffic.servfail_percent), (None, None, None));
        let busy = with_hysteresis(Some(traffic), &[rates(2.0, 1.0)]);
        assert_eq!(busy.and_then(|traffic| traffic.hit_percent), Some(50));
        let less = with_hysteresis(busy, &[rates(1.0, 0.5)]);
        assert_eq!(less.and_then(|traffic| traffic.hit_percent), Some(50), "it does not come and go");
        assert_eq!(with_hysteresis(less, &[rates(0.5, 0.5)]).and_then(|traffic| traffic.hit_percent), None);
    }

    /// Returns the rates of a pod that sent these numbers of queries to zones in a minute.
    fn to_zones(own: f64, other: f64) -> Option<TrafficRates> {
        let [to_own_zone, to_other_zones] = [own, other].map(|queries| queries / 60.0);
        Some(TrafficRates { to_own_zone, to_other_zones, counted_to_zones: own + other, ..TrafficRates::default() })
    }

    #[test]
    fn the_share_of_the_own_zone_is_of_the_queries_of_all_nodes_of_the_zone() {
        assert_eq!(local_percent(None, &[to_zones(300.0, 0.0), to_zones(50.0, 50.0), None]), Some(88));
        assert_eq!(local_percent(None, &[to_zones(0.0, 100.0)]), Some(0));
        assert_eq!(local_percent(None, &[to_zones(99.0, 0.0)]), None, "too few queries");
        assert_eq!(local_percent(Some(70), &[to_zones(40.0, 12.0)]), Some(77));
        assert_eq!(local_percent(Some(70), &[to_zones(0.0, 0.0)]), None, "nothing was sent");
    }

    #[test]
    fn a_share_of_which_nothing_is_known_stays_for_one_poll_and_is_never_all() {
        assert_eq!(local_percent(Some(70), &[None, None]), Some(70));
        assert_eq!((local_percent(None, &[None]), local_percent(Some(70), &[])), (None, None));
    }

    #[test]
    fn a_share_that_is_all_or_nothing_is_shown_at_once_and_other_small_changes_are_not() {
        assert_eq!(local_percent(Some(98), &[to_zones(960.0, 40.0)]), Some(98));
        assert_eq!(local_percent(Some(98), &[to_zones(1_000.0, 0.0)]), Some(100));
        assert_eq!(local_percent(Some(100), &[to_zones(960.0, 40.0)]), Some(96));
        assert_eq!(local_percent(Some(2), &[to_zones(0.0, 1_000.0)]), Some(0));
    }

    #[test]
    fn nodes_without_rates_do_not_erase_the_last_numbers() {
        let before = with_hysteresis(None, &[rates(10.0, 5.0)]);
        assert_eq!(with_hysteresis(before, &[]), before);
    }
}

//! Traffic of a tier, with hysteresis, so that small changes cause no write of the status.

use dnstier_crds::v1alpha1::TrafficStatus;

use crate::controller::observe::Observed;
use crate::controller::observe::pods::Component;
use crate::controller::observe::poll::TrafficRates;

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

/// Returns the rates of the node pods over the last minute.
pub(super) fn node_rates(observed: &Observed) -> Vec<TrafficRates> {
    observed
        .pods
        .iter()
        .filter(|pod| pod.component == Component::NodeCache)
        .filter_map(|pod| observed.reports.get(&pod.uid)?.rates())
        .collect()
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
    let min_queries = if has_shares { MIN_QUERIES_FOR_LAST_SHARES } else { MIN_QUERIES_FOR_SHARES };
    let is_enough = sum(|rates| rates.counted) >= min_queries;
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

    #[test]
    fn nodes_without_rates_do_not_erase_the_last_numbers() {
        let before = with_hysteresis(None, &[rates(10.0, 5.0)]);
        assert_eq!(with_hysteresis(before, &[]), before);
    }
}

//! Numbers of the traffic, steady enough to stand in a status.

use dnstier_crds::v1alpha1::TrafficStatus;

use crate::controller::observe::Observed;
use crate::controller::observe::pods::Component;
use crate::controller::observe::poll::Flow;

/// By how many percent points a share has to change before it is written.
const POINTS: f64 = 3.0;
/// By which share of itself a rate has to change before it is written.
const SHARE: f64 = 0.1;
/// Below so many questions a second shares say nothing.
const FEW: f64 = 0.2;

/// What the node pods did within the last minute.
pub(super) fn flows(observed: &Observed) -> Vec<Flow> {
    observed
        .pods
        .iter()
        .filter(|pod| pod.component == Component::NodeCache)
        .filter_map(|pod| observed.reports.get(&pod.uid)?.flow)
        .collect()
}

/// The numbers as they are shown: those that were shown before, unless they are clearly different by now.
pub(super) fn settled(before: Option<TrafficStatus>, flows: &[Flow]) -> Option<TrafficStatus> {
    if flows.is_empty() {
        return before;
    }
    let sum = |part: fn(&Flow) -> f64| flows.iter().map(part).sum::<f64>();
    let queries = sum(|flow| flow.queries);
    let share = |old: Option<u32>, part: f64| {
        let percent = if queries < FEW { old.map_or(0.0, f64::from) } else { 100.0 * part / queries };
        settle(old, percent.min(100.0), POINTS)
    };
    let old = |part: fn(&TrafficStatus) -> u32| before.as_ref().map(part);
    let old_rate = old(|traffic| traffic.queries_per_second);
    Some(TrafficStatus {
        queries_per_second: settle(old_rate, queries, (SHARE * old_rate.map_or(0.0, f64::from)).max(2.0)),
        hit_percent: share(old(|traffic| traffic.hit_percent), sum(|flow| flow.hits)),
        stale_percent: share(old(|traffic| traffic.stale_percent), sum(|flow| flow.stale)),
        servfail_percent: share(old(|traffic| traffic.servfail_percent), sum(|flow| flow.servfail)),
    })
}

/// The old number while the new one is within `step` of it.
fn settle(old: Option<u32>, new: f64, step: f64) -> u32 {
    match old {
        Some(old) if (f64::from(old) - new).abs() < step => old,
        // Rates and shares are never negative, and the cast saturates.
        _ => new.round() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(queries: f64, hits: f64) -> Flow {
        Flow { queries, hits, ..Flow::default() }
    }

    #[test]
    fn all_nodes_add_up() {
        let traffic = settled(None, &[flow(100.0, 90.0), flow(300.0, 150.0)]).unwrap();
        assert_eq!((traffic.queries_per_second, traffic.hit_percent), (400, 60));
    }

    #[test]
    fn small_changes_are_not_shown_and_large_ones_are() {
        let before = settled(None, &[flow(1_000.0, 900.0)]);
        assert_eq!(settled(before, &[flow(1_050.0, 960.0)]), before);
        let after = settled(before, &[flow(1_200.0, 600.0)]).unwrap();
        assert_eq!((after.queries_per_second, after.hit_percent), (1_200, 50));
    }

    #[test]
    fn an_idle_tier_says_the_same_for_hours() {
        let mut shown = settled(None, &[flow(0.4, 0.4)]);
        let first = shown;
        for step in 0..100 {
            shown = settled(shown, &[flow(f64::from(step % 10) / 5.0, 0.1)]);
        }
        assert_eq!(shown.map(|traffic| traffic.queries_per_second), first.map(|traffic| traffic.queries_per_second));
    }

    #[test]
    fn nodes_that_say_nothing_do_not_erase_what_was_known() {
        let before = settled(None, &[flow(10.0, 5.0)]);
        assert_eq!(settled(before, &[]), before);
    }
}

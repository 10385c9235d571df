//! Condition `UpstreamThrottled`.

use node_cache_config::status::{DetectionStatus, ThrottleStatus, UpstreamState, UpstreamStatus};

use super::*;
use crate::controller::fixtures::change_resolver_status;

fn upstream(scope: &str, address: &str, detection: Option<DetectionStatus>) -> UpstreamStatus {
    UpstreamStatus {
        scope: scope.to_owned(),
        address: address.parse().unwrap(),
        state: UpstreamState::default(),
        healthy: true,
        responded: true,
        sent: 10,
        timeouts: 3,
        in_flight: 0,
        near_misses: 0,
        detection,
    }
}

fn detection(state: &str, is_throttled: bool) -> DetectionStatus {
    let since = 11 * 3600 + 2 * 60 + 7;
    let throttle = ThrottleStatus { state: state.to_owned(), since, offered: 1_325, answered: 510 };
    DetectionStatus {
        state: state.to_owned(),
        has_enough_traffic: true,
        throttle: is_throttled.then_some(throttle),
        ..DetectionStatus::default()
    }
}

fn with_resolvers_of_zone_a(upstreams: &[UpstreamStatus]) -> DnsTierStatus {
    let mut observed = settled();
    for pod in ["resolver-a-0", "resolver-a-1"] {
        change_resolver_status(&mut observed, pod, |status| status.instance.upstreams = upstreams.to_vec());
    }
    reconciled_status(&observed)
}

#[test]
fn a_limit_that_resolvers_find_is_told_with_its_figures_and_never_unreadiness() {
    let limited = upstream("forward", "169.254.169.253:53", Some(detection("limited", true)));
    let status = with_resolvers_of_zone_a(&[limited.clone(), upstream("fallback", "192.0.2.8:53", None)]);
    let sentence = "Upstream 169.254.169.253 answers 1,020 of 2,650 packets/s of zone-a since 11:02:07; 1,630/s go to \
                    192.0.2.8; set packetBudget to 459.";
    assert_condition(&status, "UpstreamThrottled", "True", Reason::LimitFound, &[sentence]);
    assert_condition(&status, "Degraded", "True", Reason::LimitFound, &[sentence]);
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
    let alone = with_resolvers_of_zone_a(&[limited.clone(), UpstreamStatus { scope: "inside".into(), ..limited }]);
    let sentence = "answers 1,020 of 2,650 packets/s of zone-a since 11:02:07; 1,630/s get no answer from it;";
    assert_condition(&alone, "UpstreamThrottled", "True", Reason::LimitFound, &[sentence]);
}

#[test]
fn each_cause_has_its_reason() {
    for (state, reason) in [("flows limited", Reason::FlowsLimited), ("lossy", Reason::Lossy), ("slow", Reason::Lossy)]
    {
        let status = with_resolvers_of_zone_a(&[upstream("forward", "192.0.2.53:53", Some(detection(state, true)))]);
        assert_condition(&status, "UpstreamThrottled", "True", reason, &["192.0.2.53", "zone-a"]);
    }
}

#[test]
fn without_a_limit_it_is_false_and_with_few_queries_unknown() {
    let status = with_resolvers_of_zone_a(&[upstream("forward", "192.0.2.53:53", Some(detection("well", false)))]);
    assert_condition(&status, "UpstreamThrottled", "False", Reason::WithinLimits, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    let status = with_resolvers_of_zone_a(&[upstream("forward", "192.0.2.53:53", Some(DetectionStatus::default()))]);
    assert_condition(&status, "UpstreamThrottled", "Unknown", Reason::TooLittleTraffic, &[]);
}

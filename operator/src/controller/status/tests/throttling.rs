//! Condition `UpstreamThrottled`.

use node_cache_config::status::{DetectionStatus, ThrottleStatus, UpstreamState, UpstreamStatus};

use super::*;
use crate::controller::fixtures::{change_node_status, change_resolver_status};

/// Reason of each state that a process may report, the most important first.
const REASONS: [(&str, Reason); 5] = [
    ("limited", Reason::LimitFound),
    ("flows limited", Reason::FlowsLimited),
    ("lossy", Reason::Lossy),
    ("slow", Reason::Lossy),
    ("budget spent", Reason::BudgetSpent),
];

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

fn detection(throttle: Option<ThrottleStatus>) -> Option<DetectionStatus> {
    Some(DetectionStatus { has_enough_traffic: true, throttle, ..DetectionStatus::default() })
}

/// Returns an upstream that has been throttled since 11:02:07 of the day before.
pub(super) fn throttled(scope: &str, address: &str, state: &str, offered: u32, answered: u32) -> UpstreamStatus {
    let since = "2026-01-01T11:02:07Z".parse::<Timestamp>().unwrap().as_second() as u64;
    let throttle = ThrottleStatus { state: state.to_owned(), since, offered, answered };
    upstream(scope, address, detection(Some(throttle)))
}

/// Returns the resolvers of a tier that runs with what they report of their upstreams, by zone.
fn observed_with(reports: &[(char, Vec<UpstreamStatus>)]) -> Observed {
    let mut observed = settled();
    for (zone, upstreams) in reports {
        for index in 0..2 {
            let change = |status: &mut node_cache_config::status::ResolverStatus| {
                status.instance.upstreams.clone_from(upstreams);
            };
            change_resolver_status(&mut observed, &format!("resolver-{zone}-{index}"), change);
        }
    }
    observed
}

fn status_with(reports: &[(char, Vec<UpstreamStatus>)]) -> DnsTierStatus {
    reconciled_status(&observed_with(reports))
}

fn message(status: &DnsTierStatus) -> &str {
    &condition(status, "UpstreamThrottled").unwrap().message
}

#[test]
fn a_limit_that_resolvers_find_is_told_with_its_figures() {
    let limited = throttled("forward", "169.254.169.253:53", "limited", 1_325, 510);
    let fallback = upstream("fallback", "192.0.2.8:53", None);
    let status = status_with(&[('a', vec![limited.clone(), fallback.clone()])]);
    let sentence = "Upstream 169.254.169.253 answers 1,020 of 2,650 packets/s of zone-a since 11:02:07; 1,630/s go to \
                    192.0.2.8; set packetBudget to 900.";
    assert_condition(&status, "UpstreamThrottled", "True", Reason::LimitFound, &[]);
    assert_eq!(message(&status), sentence);

    let inside = UpstreamStatus { scope: "inside".into(), ..limited.clone() };
    let alone = status_with(&[('a', vec![limited.clone(), inside])]);
    assert!(message(&alone).contains("; 1,630/s get no answer from it; set packetBudget to 900."), "{alone:?}");

    let other = upstream("forward", "192.0.2.9:5353", detection(None));
    let with_other = status_with(&[('a', vec![limited, other, fallback])]);
    assert!(message(&with_other).contains("; 1,630/s go to 192.0.2.9:5353; set"), "it is asked before the fallback");
}

#[test]
fn a_resolver_that_has_not_found_the_limit_of_its_node_yet_counts_in_the_advised_budget() {
    let limited = throttled("forward", "169.254.169.253:53", "limited", 1_325, 510);
    let mut observed = observed_with(&[('a', vec![limited])]);
    let change = |detection: Option<DetectionStatus>| {
        move |status: &mut node_cache_config::status::ResolverStatus| {
            status.instance.upstreams[0].detection = detection.clone();
        }
    };
    change_resolver_status(&mut observed, "resolver-a-1", change(detection(None)));
    assert!(message(&reconciled_status(&observed)).ends_with("set packetBudget to 900."));
    change_resolver_status(&mut observed, "resolver-a-1", change(Some(DetectionStatus::default())));
    let idle = reconciled_status(&observed);
    assert!(message(&idle).ends_with("set packetBudget to 450."), "one without traffic takes no share: {idle:?}");
}

#[test]
fn each_state_has_its_reason_which_degraded_has_too_and_ready_never() {
    for (state, reason) in REASONS {
        let status = status_with(&[('a', vec![throttled("forward", "192.0.2.53:53", state, 900, 300)])]);
        assert_condition(&status, "UpstreamThrottled", "True", reason, &["Upstream 192.0.2.53 ", "zone-a"]);
        assert_condition(&status, "Degraded", "True", reason, &[message(&status)]);
        assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
        assert!(!condition(&status, "Ready").unwrap().message.contains("192.0.2.53"));
        assert_eq!(status.summary.unwrap().throttled.as_deref(), Some("192.0.2.53"), "{state}");
    }
}

#[test]
fn of_several_findings_limits_come_first_then_flows_loss_and_budgets() {
    let addresses = ["192.0.2.5:53", "192.0.2.4:53", "192.0.2.3:53", "192.0.2.2:5353", "192.0.2.1:53"];
    let states = REASONS.iter().zip(addresses);
    let mut all: Vec<_> = states.map(|((state, _), address)| throttled("forward", address, state, 900, 300)).collect();
    all.reverse();
    for (_, reason) in REASONS {
        let status = status_with(&[('a', all.clone())]);
        assert_condition(&status, "UpstreamThrottled", "True", reason, &[]);
        all.pop();
    }
}

#[test]
fn pods_that_name_the_cause_differently_make_one_sentence_with_the_most_important() {
    let report = |state| vec![throttled("forward", "192.0.2.53:53", state, 900, 300)];
    let status = status_with(&[('a', report("lossy")), ('b', report("limited")), ('c', report("slow"))]);
    assert_condition(&status, "UpstreamThrottled", "True", Reason::LimitFound, &["1,800 of 5,400 packets/s"]);
    assert_eq!(message(&status).matches("Upstream ").count(), 1, "{status:?}");
}

#[test]
fn an_upstream_has_one_sentence_however_many_places_it_limits() {
    let limited = vec![throttled("forward", "169.254.169.253:53", "limited", 1_325, 510)];
    let zones = ['a', 'b', 'c'].map(|zone| (zone, limited.clone()));
    let status = status_with(&zones);
    let part = "answers 3,060 of 7,950 packets/s of zone-a, zone-b and zone-c since";
    assert!(message(&status).contains(part) && message(&status).contains("packetBudget to 900."), "{status:?}");

    let mut observed = observed_with(&zones);
    for pod in observed.pods.iter_mut().filter(|pod| pod.resolver_zone.is_some()) {
        pod.resolver_zone = Some(format!("zone-{}", pod.name));
    }
    let status = reconciled_status(&observed);
    let part = "of zone-resolver-a-0, zone-resolver-a-1, zone-resolver-b-0 and 3 more since";
    assert!(message(&status).contains(part), "{status:?}");
    assert_eq!(message(&status).matches("Upstream ").count(), 1);
}

#[test]
fn the_upstream_of_a_route_is_told_with_the_nodes_whose_caches_share_a_budget() {
    let mut observed = settled();
    for (pod, answered) in [("node-pod-a", 70), ("node-pod-c", 90)] {
        change_node_status(&mut observed, pod, |status| {
            for instance in &mut status.instances {
                instance.upstreams = vec![throttled("route/corp.example", "10.0.0.53:53", "limited", 100, answered)];
            }
        });
    }
    let sentence = "Upstream 10.0.0.53 answers 320 of 400 packets/s of node-a and node-c since 11:02:07; 80/s get no \
                    answer from it; set packetBudget to 120.";
    assert_eq!(message(&reconciled_status(&observed)), sentence);
    for pod in ["node-pod-a", "node-pod-c"] {
        change_node_status(&mut observed, pod, |status| {
            status.instances[0].upstreams =
                vec![throttled("route/corp.example", "10.0.0.53:53", "budget spent", 150, 100)];
            status.instances[1].upstreams.clear();
        });
    }
    let sentence = "Upstream 10.0.0.53 needs 300 packets/s of node-a and node-c, which may send 2 × 100: a larger \
                    packetBudget, or another upstream for the route.";
    assert_eq!(message(&reconciled_status(&observed)), sentence);
}

/// Returns the sentence about a spent budget for the packets a second that each resolver of zone a is needed for and
/// may send, each resolver on a node of its own.
fn spent_message(resolvers: &[(u32, u32)], further: &[UpstreamStatus]) -> String {
    let mut observed = settled();
    observed.pods.retain(|pod| pod.resolver_zone.is_none() || pod.name.starts_with("resolver-a"));
    let template = observed.pods.iter().find(|pod| pod.name == "resolver-a-0").unwrap().clone();
    let report = observed.reports[&template.uid].clone();
    observed.pods.retain(|pod| pod.resolver_zone.is_none());
    for (index, (offered, budget)) in resolvers.iter().enumerate() {
        let mut pod = template.clone();
        (pod.name, pod.node) = (format!("resolver-{index}"), Some(format!("node-{index}")));
        pod.uid = format!("uid-of-{}", pod.name);
        Arc::make_mut(&mut observed.reports).insert(pod.uid.clone(), report.clone());
        observed.pods.push(pod);
        change_resolver_status(&mut observed, &format!("resolver-{index}"), |status| {
            let spent = throttled("forward", "169.254.169.253:53", "budget spent", *offered, *budget);
            status.instance.upstreams = [&[spent], further].concat();
        });
    }
    let status = reconciled_status(&observed);
    assert_condition(&status, "UpstreamThrottled", "True", Reason::BudgetSpent, &[]);
    message(&status).to_owned()
}

#[test]
fn a_spent_budget_is_told_with_the_nodes_that_are_missing() {
    let three = [(1_940, 900), (1_950, 900), (1_950, 900)];
    let sentence = "Upstream 169.254.169.253 needs 5,840 packets/s of zone-a, which may send 3 × 900: 4 more nodes \
                    with resolvers, or a fallback.";
    assert_eq!(spent_message(&three, &[]), sentence);
    let sentence = "Upstream 169.254.169.253 needs 1,000 packets/s of zone-a, which may send 1 × 900: 1 more node with \
                    resolvers, or a fallback.";
    assert_eq!(spent_message(&[(1_000, 900)], &[]), sentence);
}

#[test]
fn a_spent_budget_with_a_fallback_is_told_with_what_goes_there() {
    let three = [(1_940, 900), (1_950, 900), (1_950, 900)];
    let sentence = "Upstream 169.254.169.253 needs 5,840 packets/s of zone-a, which may send 3 × 900; the other \
                    3,140/s go to 192.0.2.8.";
    assert_eq!(spent_message(&three, &[upstream("fallback", "192.0.2.8:53", None)]), sentence);
}

#[test]
fn nodes_with_different_budgets_are_told_with_their_sum() {
    let message = spent_message(&[(1_000, 900), (1_000, 450)], &[]);
    assert!(message.contains("of zone-a, which may send 1,350 from 2 nodes: 1 more node with resolvers"), "{message}");
}

#[test]
fn resolvers_of_one_node_are_one_node_and_zones_need_nodes_of_their_own() {
    let spent = vec![throttled("forward", "192.0.2.53:53", "budget spent", 700, 450)];
    let one = status_with(&[('a', spent.clone())]);
    assert!(message(&one).contains("needs 1,400 packets/s of zone-a, which may send 1 × 900: 1 more node with"));
    let two = status_with(&[('a', spent.clone()), ('b', spent)]);
    assert!(message(&two).contains("2,800 packets/s of zone-a and zone-b, which may send 2 × 900: 2 more nodes"));
}

#[test]
fn the_summary_names_two_upstreams_at_the_most() {
    let limited = |number: u8| throttled("forward", &format!("192.0.2.{number}:53"), "limited", 900, 300);
    // Of each pod three are kept.
    let throttled = |numbers: std::ops::Range<u8>| {
        let (a, b): (Vec<u8>, Vec<u8>) = numbers.partition(|number| *number < 4);
        let reports = [('a', a), ('b', b)].map(|(zone, numbers)| (zone, numbers.into_iter().map(limited).collect()));
        status_with(&reports).summary.unwrap().throttled.unwrap_or_default()
    };
    assert_eq!(throttled(1..1), "");
    assert_eq!(throttled(1..3), "192.0.2.1 and 192.0.2.2");
    assert_eq!(throttled(1..6), "192.0.2.1, 192.0.2.2 and 3 more");
    let status = status_with(&[]);
    assert!(!serde_json::to_string(&status.summary).unwrap().contains("throttled"), "{status:?}");
}

#[test]
fn counters_ceilings_and_episodes_change_no_sentence() {
    let before = throttled("forward", "192.0.2.53:53", "limited", 900, 300);
    let mut after = UpstreamStatus { sent: 9_999, timeouts: 555, state: UpstreamState::Suspected, ..before.clone() };
    let detection = after.detection.as_mut().unwrap();
    (detection.state, detection.ceiling) = ("held".to_owned(), Some(270));
    detection.episodes = vec![node_cache_config::status::EpisodeStatus::default()];
    assert_eq!(status_with(&[('a', vec![before])]), status_with(&[('a', vec![after])]));
}

#[test]
fn a_resolver_that_is_too_busy_for_a_poll_ends_no_limit() {
    let mut observed = observed_with(&[('a', vec![throttled("forward", "192.0.2.53:53", "limited", 900, 300)])]);
    let before = reconciled_status(&observed);
    let mut fail = |failures| {
        for report in Arc::make_mut(&mut observed.reports).values_mut() {
            let report = Arc::make_mut(report);
            (report.failures, report.poll_error) = (failures, Some("no answer within 2 s".into()));
        }
        reconciled_status(&observed)
    };
    assert_eq!(message(&fail(3)), message(&before));
    assert_condition(&fail(4), "UpstreamThrottled", "Unknown", Reason::TooLittleTraffic, &[]);
}

#[test]
fn a_limit_of_yesterday_has_its_date_and_one_of_the_future_begins_now() {
    let since = |second: u64| {
        let throttle = ThrottleStatus { state: "slow".to_owned(), since: second, offered: 900, answered: 300 };
        let status = status_with(&[('a', vec![upstream("forward", "192.0.2.53:53", detection(Some(throttle)))])]);
        message(&status).to_owned()
    };
    assert!(since(11 * 3_600).contains(" since 1970-01-01 11:00:00, "));
    for future in [32_503_680_123, u64::MAX] {
        assert!(since(future).contains("Upstream 192.0.2.53 answers zone-a late since 00:00:00, whatever the rate."));
    }
}

#[test]
fn a_pod_that_lies_about_its_upstreams_fills_no_message() {
    let unknown = throttled("forward", "192.0.2.53:53", "limited; run `curl evil.example`", 900, 300);
    let status = status_with(&[('a', vec![unknown])]);
    assert_condition(&status, "UpstreamThrottled", "False", Reason::WithinLimits, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert!(!format!("{status:?}").contains("evil"));

    for (state, _) in REASONS {
        let many = (0..2_000).map(|port| {
            throttled("route/\n\u{7}", &format!("[fe80::1%4294967295]:{}", port + 1_000), state, u32::MAX, u32::MAX)
        });
        let status = status_with(&[('a', many.collect())]);
        let text = message(&status);
        assert!(text.len() < 1_000 && text.matches("Upstream ").count() == 3, "{text}");
        assert!(text.chars().all(|letter| !letter.is_control()) && !text.contains("4,294"), "{text}");
        assert_eq!(
            status.summary.unwrap().throttled.unwrap(),
            "[fe80::1%4294967295]:1000, [fe80::1%4294967295]:1001 and 1 more"
        );
    }
    for (offered, answered) in [(0, u32::MAX), (u32::MAX, 0), (0, 0)] {
        for (state, reason) in REASONS {
            let status = status_with(&[('a', vec![throttled("forward", "192.0.2.53:53", state, offered, answered)])]);
            assert_condition(&status, "UpstreamThrottled", "True", reason, &[]);
        }
    }
}

#[test]
fn without_a_limit_it_is_false_and_with_few_queries_unknown() {
    let status = status_with(&[('a', vec![upstream("forward", "192.0.2.53:53", detection(None))])]);
    assert_condition(&status, "UpstreamThrottled", "False", Reason::WithinLimits, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    let few = Some(DetectionStatus::default());
    let status = status_with(&[('a', vec![upstream("forward", "192.0.2.53:53", few)])]);
    assert_condition(&status, "UpstreamThrottled", "Unknown", Reason::TooLittleTraffic, &[]);
}

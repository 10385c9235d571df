//! Condition `Degraded` for upstreams that do not answer.

use node_cache_config::status::{CAPTURED_UPSTREAM, UpstreamState, UpstreamStatus};

use super::*;
use crate::controller::fixtures::{change_node_status, change_resolver_status};

pub(super) fn upstream(scope: &str, address: &str, healthy: bool) -> UpstreamStatus {
    let address = address.parse().unwrap();
    UpstreamStatus {
        scope: scope.to_owned(),
        address,
        healthy,
        state: UpstreamState::default(),
        responded: true,
        sent: 10,
        timeouts: 3,
        in_flight: 0,
        near_misses: 0,
        detection: None,
    }
}

#[test]
fn a_dead_upstream_is_a_condition_and_never_unreadiness() {
    let mut observed = settled();
    for pod in ["resolver-a-0", "resolver-a-1", "resolver-b-0", "resolver-b-1"] {
        let healthy = pod.starts_with("resolver-b");
        change_resolver_status(&mut observed, pod, |status| {
            status.instance.upstreams = vec![upstream("forward", "192.0.2.53:53", healthy)];
        });
    }
    let status = reconciled_status(&observed);
    assert_condition(&status, "Degraded", "True", Reason::UpstreamUnreachable, &["192.0.2.53:53", "zone-a"]);
    assert!(!condition(&status, "Degraded").unwrap().message.contains("zone-b"));
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
    assert!(status.summary.unwrap().message.contains("192.0.2.53:53"));
}

#[test]
fn one_dead_server_of_a_group_is_no_dead_group() {
    let mut observed = settled();
    for pod in ["node-pod-a", "node-pod-b", "node-pod-c"] {
        change_node_status(&mut observed, pod, |status| {
            status.instances[0].upstreams =
                vec![upstream("cluster", "10.0.0.1:53", false), upstream("cluster", "10.0.0.2:53", true)];
        });
    }
    assert_condition(&reconciled_status(&observed), "Degraded", "False", Reason::Healthy, &[]);
    for pod in ["node-pod-a", "node-pod-b"] {
        change_node_status(&mut observed, pod, |status| {
            status.instances[0].upstreams[1].healthy = false;
        });
    }
    assert_condition(
        &reconciled_status(&observed),
        "Degraded",
        "True",
        Reason::UpstreamUnreachable,
        &["cluster DNS", "node-a and node-b"],
    );
}

#[test]
fn servers_that_are_asked_in_an_outage_only_are_no_condition() {
    let mut observed = settled();
    for pod in ["resolver-a-0", "resolver-a-1"] {
        change_resolver_status(&mut observed, pod, |status| {
            status.instance.upstreams = vec![upstream("fallback", "192.0.2.54:53", false)];
        });
    }
    for pod in ["node-pod-a", "node-pod-b", "node-pod-c"] {
        change_node_status(&mut observed, pod, |status| {
            status.instances[0].upstreams = vec![upstream("last-resort", "192.0.2.53:53", false)];
        });
    }
    assert_condition(&reconciled_status(&observed), "Degraded", "False", Reason::Healthy, &[]);
}

#[test]
fn a_resolv_conf_with_lines_that_cannot_be_used_is_reported_with_all_of_them() {
    let lines = (1..=8).map(|line| format!("line {line} (dns-server-number-{line}.example) is no IP address"));
    let problem = format!("/etc/resolv.conf has lines that cannot be used: {}", lines.collect::<Vec<_>>().join(", "));
    let mut observed = settled();
    change_resolver_status(&mut observed, "resolver-a-0", |status| {
        status.instance.upstream_problem = Some(problem.clone());
    });
    let parts = ["line 1 (", "line 8 (dns-server-number-8.example)", "node-a"];
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::UpstreamUnusable, &parts);
    change_resolver_status(&mut observed, "resolver-a-0", |status| {
        status.instance.upstream_problem = Some(format!("/etc/resolv.conf names 10.0.0.1, {CAPTURED_UPSTREAM}: x"));
    });
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::UpstreamLoop, &["10.0.0.1"]);
}

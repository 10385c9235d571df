//! Parts are killed, hang or are removed, and no client in a pod notices.

use std::time::{Duration, Instant};

use dnstier_tests::lab::Signal;
use dnstier_tests::require;

use crate::tier::{
    CLUSTER_DNS, LINK_LOCAL, NAMESPACE, RestoreOnDrop, TIER, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl,
    kubectl_json, node_pod, pods, query, resolver_statuses, responder, signal, signal_container,
    stop_kubelet_until_drop, try_query, wait_until, wait_until_ready,
};
use crate::watch::stub_clients;

/// Several leases of a captured address (5 s each).
const LEASE_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn a_killed_instance_costs_no_query() {
    require!(require::lab());
    while_node_a_is_queried(|| signal("node-a", "cache-0", Signal::KILL));
}

#[test]
fn a_stopped_instance_costs_no_query() {
    require!(require::lab());
    while_node_a_is_queried(|| {
        signal("node-a", "cache-1", Signal::STOP);
        std::thread::sleep(Duration::from_secs(5));
        signal("node-a", "cache-1", Signal::CONT);
    });
}

/// Also when it was killed before, and the kubelet delays its next start for longer than a lease.
#[test]
fn a_killed_agent_costs_no_query() {
    require!(require::lab());
    while_node_a_is_queried(|| signal("node-a", "agent", Signal::KILL));
}

#[test]
fn a_node_whose_caches_are_all_gone_is_served_by_the_cluster_dns_after_the_lease() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let pod = node_pod("node-b").expect("a node pod");
    let kubelet = stop_kubelet_until_drop("node-b");
    for container in ["agent", "cache-0", "cache-1"] {
        signal_container("node-b", &pod.uid, container, Signal::KILL).expect("the process is killed");
    }
    let killed = Instant::now();

    let response = wait_until("the cluster DNS answers again", LEASE_TIMEOUT, || {
        try_query(
            "node-b",
            &["kubernetes.default.svc.cluster.local", "--server", CLUSTER_DNS, "--tries", "1", "--timeout", "300"],
        )
    });
    assert_eq!(response.rcode, "NOERROR");
    assert!(responder("node-b", CLUSTER_DNS).is_err(), "no cache is left that could have answered");
    eprintln!("answered by the cluster DNS {:?} after the kill", killed.elapsed());

    drop(kubelet);
    wait_until_ready();
}

#[test]
fn answers_go_on_when_every_resolver_of_a_zone_hangs() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let pods = pods(NAMESPACE, "zone-resolver");
    let in_zone_a: Vec<_> = pods.iter().filter(|pod| pod.node == "node-a").collect();
    assert!(!in_zone_a.is_empty(), "{pods:?}");
    let watch = stub_clients(&["node-a"], &[CLUSTER_DNS, LINK_LOCAL]);
    for pod in &in_zone_a {
        signal_container("node-a", &pod.uid, "zone-resolver", Signal::STOP).expect("the process stops");
    }
    std::thread::sleep(Duration::from_secs(8));
    for pod in &in_zone_a {
        // Its liveness probe may have replaced the process by now.
        let _ = signal_container("node-a", &pod.uid, "zone-resolver", Signal::CONT);
    }
    watch.assert_none_failed();
    wait_until_ready();
}

#[test]
fn answers_go_on_when_every_resolver_of_a_zone_is_gone() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let watch = stub_clients(&["node-c"], &[CLUSTER_DNS, LINK_LOCAL]);
    wait_until("the queries of zone-c stay in it", WAIT_TIMEOUT, || {
        let percent = local_percent("zone-c");
        ensure(percent.is_some_and(|percent| percent >= 97), || format!("{percent:?} %"))
    });
    kubectl(&["cordon", "node-c"]);
    let cordon = RestoreOnDrop(|| drop(kubectl(&["uncordon", "node-c"])));
    kubectl(&[
        "delete",
        "pods",
        "-n",
        NAMESPACE,
        "--wait=false",
        "-l",
        &format!("app.kubernetes.io/instance={TIER},dnstier.io/zone=zone-c"),
    ]);
    wait_until("no resolver is left in zone-c", WAIT_TIMEOUT, || {
        let statuses = resolver_statuses("zone-c");
        ensure(statuses.is_empty(), || format!("{statuses:?}"))
    });
    wait_until("the status tells that the queries of zone-c leave it", WAIT_TIMEOUT, || {
        let percent = local_percent("zone-c");
        ensure(percent.is_some_and(|percent| percent < 90), || format!("{percent:?} %"))
    });
    let response = query("node-c", &["gone.wild.example", "--server", CLUSTER_DNS]);
    assert_eq!(response.rcode, "NOERROR");
    drop(cordon);
    watch.assert_none_failed();
    wait_until_ready();
}

/// Returns the share of the queries of a zone that stay in it, as the status of the tier has it.
fn local_percent(zone: &str) -> Option<u64> {
    let tier = kubectl_json(&["get", "dnstier", TIER]);
    let zones = tier["status"]["zones"].as_array().cloned().unwrap_or_default();
    zones.iter().find(|other| other["name"] == zone)?["localPercent"].as_u64()
}

/// Injects a fault on node-a while a pod there sends queries over UDP and TCP, and waits until the tier is ready again.
fn while_node_a_is_queried(fault: impl FnOnce()) {
    let _tier = exclusive_tier();
    let before = node_pod("node-a").expect("a node pod");
    let watch = stub_clients(&["node-a"], &[CLUSTER_DNS, LINK_LOCAL]);
    std::thread::sleep(Duration::from_secs(1));
    fault();
    std::thread::sleep(Duration::from_secs(6));
    wait_until_ready();
    watch.assert_none_failed();
    let after = node_pod("node-a").expect("a node pod");
    assert_eq!(after.uid, before.uid, "the pod stays, only a container may have been started again");
}

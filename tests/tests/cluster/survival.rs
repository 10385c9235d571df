//! Parts die, hang or go away, and nobody in a pod notices.

use std::time::{Duration, Instant};

use dnstier_tests::lab::Signal;
use dnstier_tests::require;

use crate::tier::{
    CLUSTER_DNS, GENEROUS, LINK_LOCAL, NAMESPACE, Restore, TIER, answer, ask, eventually, kubectl, node_pod, pods,
    resolver_statuses, seen, signal, signal_container, turn, who, whole, without_kubelet,
};
use crate::watch::patient;

/// The lease of a captured address, and the second after it.
const LEASE_AND_A_SECOND: Duration = Duration::from_secs(6);

#[test]
fn a_killed_instance_costs_no_query() {
    require!(require::lab());
    while_node_a_is_watched(|| signal("node-a", "cache-0", Signal::KILL));
}

#[test]
fn a_stopped_instance_costs_no_query() {
    require!(require::lab());
    while_node_a_is_watched(|| {
        signal("node-a", "cache-1", Signal::STOP);
        std::thread::sleep(Duration::from_secs(5));
        signal("node-a", "cache-1", Signal::CONT);
    });
}

/// Also when it has died before, and the kubelet waits with its next start for longer than a lease.
#[test]
fn a_killed_agent_costs_no_query() {
    require!(require::lab());
    while_node_a_is_watched(|| signal("node-a", "agent", Signal::KILL));
}

#[test]
fn a_node_whose_caches_are_all_gone_is_served_by_the_cluster_dns_after_the_lease() {
    require!(require::lab());
    let _turn = turn();
    let pod = node_pod("node-b").expect("a node pod");
    let kubelet = without_kubelet("node-b");
    for container in ["agent", "cache-0", "cache-1"] {
        signal_container("node-b", &pod.uid, container, Signal::KILL).expect("the process is killed");
    }
    let killed = Instant::now();

    let report = eventually("the cluster DNS answers again", LEASE_AND_A_SECOND, || {
        ask(
            "node-b",
            &["kubernetes.default.svc.cluster.local", "--server", CLUSTER_DNS, "--tries", "1", "--timeout", "300"],
        )
    });
    assert_eq!(report.rcode, "NOERROR");
    assert!(who("node-b", CLUSTER_DNS).is_err(), "no cache is left that could have answered");
    eprintln!("answered by the cluster DNS {:?} after the kill", killed.elapsed());

    drop(kubelet);
    whole();
}

#[test]
fn answers_go_on_when_every_resolver_of_a_zone_hangs() {
    require!(require::lab());
    let _turn = turn();
    let pods = pods(NAMESPACE, "zone-resolver");
    let of_zone_a: Vec<_> = pods.iter().filter(|pod| pod.node == "node-a").collect();
    assert!(!of_zone_a.is_empty(), "{pods:?}");
    let watch = patient(&["node-a"], &[CLUSTER_DNS, LINK_LOCAL]);
    for pod in &of_zone_a {
        signal_container("node-a", &pod.uid, "zone-resolver", Signal::STOP).expect("the process stops");
    }
    std::thread::sleep(Duration::from_secs(8));
    for pod in &of_zone_a {
        // Its liveness probe may have replaced the process by now.
        let _ = signal_container("node-a", &pod.uid, "zone-resolver", Signal::CONT);
    }
    watch.nothing_failed();
    whole();
}

#[test]
fn answers_go_on_when_every_resolver_of_a_zone_is_gone() {
    require!(require::lab());
    let _turn = turn();
    let watch = patient(&["node-c"], &[CLUSTER_DNS, LINK_LOCAL]);
    kubectl(&["cordon", "node-c"]);
    let cordon = Restore(|| drop(kubectl(&["uncordon", "node-c"])));
    kubectl(&[
        "delete",
        "pods",
        "-n",
        NAMESPACE,
        "--wait=false",
        "-l",
        &format!("app.kubernetes.io/instance={TIER},dnstier.io/zone=zone-c"),
    ]);
    eventually("no resolver is left in zone-c", GENEROUS, || {
        let left = resolver_statuses("zone-c");
        seen(left.is_empty(), || format!("{left:?}"))
    });
    std::thread::sleep(Duration::from_secs(3));
    let asked = answer("node-c", &["gone.wild.example", "--server", CLUSTER_DNS]);
    assert_eq!(asked.rcode, "NOERROR");
    drop(cordon);
    watch.nothing_failed();
    whole();
}

/// Lets something happen on node-a while a pod there asks over UDP and TCP, and waits until the tier is whole again.
fn while_node_a_is_watched(happening: impl FnOnce()) {
    let _turn = turn();
    let before = node_pod("node-a").expect("a node pod");
    let watch = patient(&["node-a"], &[CLUSTER_DNS, LINK_LOCAL]);
    std::thread::sleep(Duration::from_secs(1));
    happening();
    std::thread::sleep(Duration::from_secs(6));
    whole();
    watch.nothing_failed();
    let after = node_pod("node-a").expect("a node pod");
    assert_eq!(after.uid, before.uid, "the pod stays, only a container may have been started again");
}

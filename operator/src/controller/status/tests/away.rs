//! Nodes that are away.

use node_cache_config::names::ZONE_LABEL;
use node_cache_config::status::UpstreamStatus;

use super::throttling::throttled;
use super::upstreams::upstream;
use super::*;
use crate::controller::fixtures::{
    change_node_status, change_report, change_resolver_status, deployment_of, linux, pod_of, roll_out_template,
    set_away,
};
use crate::controller::observe::nodes::ClusterNode;
use crate::controller::observe::poll::PodPage;

/// Returns a settled cluster whose `node-a` went away before the newest configuration and template came.
fn with_a_node_away() -> Observed {
    let mut observed = settled();
    set_away(&mut observed, &["node-a"]);
    pod_of(&mut observed, "node-pod-a").ready = false;
    change_node_status(&mut observed, "node-pod-a", |status| {
        status.revision.in_force = Some("older".to_owned());
    });
    let tier = Arc::make_mut(&mut observed.tier);
    tier.status.as_mut().unwrap().revision.as_mut().unwrap().current = Some("older".to_owned());
    roll_out_template(&mut observed, &["node-pod-b", "node-pod-c"]);
    observed
}

#[test]
fn a_node_that_is_away_is_counted_apart_and_nothing_waits_for_it() {
    let status = reconciled_status(&with_a_node_away());
    assert_condition(&status, "Ready", "True", Reason::Serving, &["2 nodes answer", "; 1 node away."]);
    assert_condition(&status, "Progressing", "False", Reason::Settled, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert!(condition(&status, "Reconciling").is_none());
    let nodes = status.nodes.unwrap();
    assert_eq!((nodes.desired, nodes.ready, nodes.updated, nodes.away), (3, 2, 2, 1));
    let revision = status.revision.unwrap();
    assert!(revision.current.is_some() && revision.current == revision.target);
    let summary = status.summary.unwrap();
    assert_eq!((summary.ready.as_str(), summary.updated.as_str()), ("2/3", "2/3"));
}

#[test]
fn a_node_that_returns_is_waited_for_again() {
    let mut observed = with_a_node_away();
    set_away(&mut observed, &[]);
    let status = reconciled_status(&observed);
    assert_condition(&status, "Progressing", "True", Reason::RollingOut, &["1 of 3 nodes to go"]);
    assert_eq!(status.revision.unwrap().current.as_deref(), Some("older"));
    assert_eq!(status.nodes.unwrap().away, 0);
}

#[test]
fn a_node_that_is_there_is_waited_for_while_another_is_away() {
    let mut observed = with_a_node_away();
    roll_out_template(&mut observed, &["node-pod-b"]);
    pod_of(&mut observed, "node-pod-c").lifecycle.template = Some("1a2b".to_owned());
    let status = reconciled_status(&observed);
    assert_condition(&status, "Progressing", "True", Reason::RollingOut, &["1 of 3 nodes to go; 1 node away."]);
}

#[test]
fn the_resolvers_and_the_polls_of_a_node_that_is_away_hold_nothing() {
    let mut observed = with_a_node_away();
    for pod in ["node-pod-a", "resolver-a-0", "resolver-a-1"] {
        change_report(&mut observed, pod, |report| {
            report.last_status = None;
            report.poll_error = Some("no answer within 2 s".into());
            report.failures = 9;
        });
    }
    let status = reconciled_status(&observed);
    assert_condition(&status, "Progressing", "False", Reason::Settled, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
}

#[test]
fn resolvers_without_a_place_in_a_zone_whose_only_node_is_away_hold_nothing() {
    let mut observed = with_a_node_away();
    deployment_of(&mut observed, "zone-a").status.as_mut().unwrap().ready_replicas = None;
    for name in ["resolver-a-0", "resolver-a-1"] {
        change_report(&mut observed, name, |report| report.last_status = None);
        let pod = pod_of(&mut observed, name);
        (pod.node, pod.scheduled, pod.ready, pod.lifecycle.running) = (None, false, false, false);
        pod.waiting_reason = Some("not scheduled: 0/3 nodes are available".to_owned());
    }
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "True", Reason::Serving, &["; 1 node away."]);
    assert_condition(&status, "Progressing", "False", Reason::Settled, &[]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert_eq!(status.summary.unwrap().resolvers, "4/6");

    set_away(&mut observed, &[]);
    let status = reconciled_status(&observed);
    assert_condition(&status, "Stalled", "True", Reason::PodsNotRunning, &["resolver-a-0 of zone-a (not scheduled"]);
}

/// Returns a settled cluster with a second node in `zone-a`, on which one of the two resolvers of the zone is.
fn with_two_nodes_in_a_zone() -> Observed {
    let mut observed = settled();
    let nodes = observed.nodes.iter().map(|(name, node)| (name.to_owned(), node.clone()));
    let other = ClusterNode::from(linux([(ZONE_LABEL, "zone-a")]));
    observed.nodes = nodes.chain([("node-a2".to_owned(), other)]).collect();
    pod_of(&mut observed, "resolver-a-1").node = Some("node-a2".to_owned());
    observed
}

#[test]
fn a_resolver_on_a_node_that_is_away_is_not_missed_while_another_one_of_its_zone_is_ready() {
    let mut observed = with_two_nodes_in_a_zone();
    pod_of(&mut observed, "resolver-a-0").ready = false;
    deployment_of(&mut observed, "zone-a").status.as_mut().unwrap().ready_replicas = Some(1);
    let parts = ["Resolvers are missing in zone-a (1 of 2)."];
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::ResolversNotReady, &parts);
    set_away(&mut observed, &["node-a"]);
    let status = reconciled_status(&observed);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert_condition(&status, "Ready", "True", Reason::Serving, &["5 resolvers in 3 zones"]);
    assert!(condition(&status, "Reconciling").is_none() && condition(&status, "Stalled").is_none());
    assert_eq!(status.summary.unwrap().resolvers, "5/6");
}

#[test]
fn a_resolver_that_is_there_and_not_ready_is_missed_while_another_one_is_away() {
    let mut observed = with_two_nodes_in_a_zone();
    // The Deployment still counts the one whose node has just gone away.
    pod_of(&mut observed, "resolver-a-1").ready = false;
    deployment_of(&mut observed, "zone-a").status.as_mut().unwrap().ready_replicas = Some(1);
    set_away(&mut observed, &["node-a"]);
    let parts = ["Resolvers are missing in zone-a (1 of 2)."];
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::ResolversNotReady, &parts);
    deployment_of(&mut observed, "zone-a").status.as_mut().unwrap().ready_replicas = None;
    let parts = ["No resolver of zone-a is ready"];
    assert_condition(&reconciled_status(&observed), "Ready", "False", Reason::ResolversNotReady, &parts);
}

#[test]
fn a_tier_of_which_every_node_is_away_is_not_ready() {
    let mut observed = settled();
    set_away(&mut observed, &["node-a", "node-b", "node-c"]);
    let parts = ["Kubernetes reports none of the 3 nodes as ready."];
    assert_condition(&reconciled_status(&observed), "Ready", "False", Reason::NodesNotReady, &parts);
}

/// Returns a settled cluster in which the resolvers on `node-a` reported this before the node went away.
fn with_last_report(upstreams: &[UpstreamStatus], problem: Option<&str>) -> Observed {
    let mut observed = settled();
    for pod in ["resolver-a-0", "resolver-a-1"] {
        change_resolver_status(&mut observed, pod, |status| {
            status.instance.upstreams = upstreams.to_vec();
            status.instance.upstream_problem = problem.map(str::to_owned);
        });
    }
    observed
}

#[test]
fn what_pods_reported_of_their_upstreams_before_their_node_went_away_is_no_problem() {
    let states = [("limited", Reason::LimitFound), ("lossy", Reason::Lossy), ("budget spent", Reason::BudgetSpent)];
    let mut reports: Vec<(Observed, Reason)> = Vec::new();
    for (state, reason) in states {
        let upstreams = [throttled("forward", "192.0.2.53:53", state, 900, 300)];
        reports.push((with_last_report(&upstreams, None), reason));
    }
    let unreachable = [upstream("forward", "192.0.2.53:53", false)];
    reports.push((with_last_report(&unreachable, None), Reason::UpstreamUnreachable));
    reports.push((with_last_report(&[], Some("/etc/resolv.conf has no nameserver")), Reason::UpstreamUnusable));
    let mut route = settled();
    change_node_status(&mut route, "node-pod-a", |status| {
        status.instances[0].upstreams = vec![upstream("route/corp.example", "10.0.0.53:53", false)];
    });
    reports.push((route, Reason::UpstreamUnreachable));
    for (mut observed, reason) in reports {
        assert_condition(&reconciled_status(&observed), "Degraded", "True", reason, &[]);
        set_away(&mut observed, &["node-a"]);
        let status = reconciled_status(&observed);
        assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
        assert_condition(&status, "UpstreamThrottled", "Unknown", Reason::TooLittleTraffic, &[]);
        assert_eq!(status.summary.unwrap().throttled, None);
    }
}

#[test]
fn the_traffic_is_that_of_the_nodes_that_are_there_and_stays_when_none_is() {
    let mut observed = settled();
    for pod in ["node-pod-a", "node-pod-b", "node-pod-c"] {
        change_report(&mut observed, pod, |report| {
            *report = report.polled_again(|page| match page {
                PodPage::Node(status) => status.instances[0].traffic.queries += 1_000,
                PodPage::Resolver(_) => panic!("{pod} is a zone resolver"),
            });
        });
    }
    let queries = |status: &DnsTierStatus| status.traffic.map(|traffic| traffic.queries_per_second);
    assert_eq!(queries(&reconciled_status(&observed)), Some(300));
    set_away(&mut observed, &["node-a"]);
    let status = reconciled_status(&observed);
    assert_eq!(queries(&status), Some(200));
    let mut observed = with_status(observed, status.clone());
    set_away(&mut observed, &["node-a", "node-b", "node-c"]);
    assert_eq!(reconciled_status(&observed).traffic, status.traffic);
}

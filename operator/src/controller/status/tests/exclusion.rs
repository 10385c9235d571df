//! Nodes that cannot run the tier, and zones in which no resolver can be placed.

use dnstier_crds::v1alpha1::{ExcludedNodesStatus, ZoneStatus};
use node_cache_config::names::ZONE_LABEL;

use super::*;
use crate::controller::fixtures::{deployment_of, linux};
use crate::controller::observe::nodes::{ClusterNode, Labels, NodeTaint, Nodes};

/// Returns the nodes of the cluster and further ones.
fn with_nodes(observed: &Observed, further: Vec<(&str, ClusterNode)>) -> Nodes {
    let own = observed.nodes.iter().map(|(name, node)| (name.to_owned(), node.clone()));
    own.chain(further.into_iter().map(|(name, node)| (name.to_owned(), node))).collect()
}

fn windows() -> ClusterNode {
    linux([("kubernetes.io/os", "windows")]).into()
}

fn control_plane() -> ClusterNode {
    let taint = NodeTaint {
        key: "node-role.kubernetes.io/control-plane".to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    };
    let none: [(&str, &str); 0] = [];
    ClusterNode { taints: vec![taint], ..linux(none).into() }
}

#[test]
fn nodes_that_cannot_run_the_tier_are_counted_apart_and_it_stays_ready() {
    let mut observed = settled();
    let before = reconciled_status(&observed);
    observed.nodes = with_nodes(
        &observed,
        vec![
            ("win-1", windows()),
            ("win-2", windows()),
            ("arm-1", linux([("kubernetes.io/arch", "arm64")]).into()),
            ("fargate-1", linux([("eks.amazonaws.com/compute-type", "fargate")]).into()),
            ("virtual-1", linux([("type", "virtual-kubelet")]).into()),
        ],
    );
    let status = reconciled_status(&observed);
    assert_eq!(status.conditions, before.conditions);
    assert_eq!(status.zones, before.zones, "nodes that can run nothing make no zone");
    let excluded = status.nodes.unwrap().excluded;
    let counts: Vec<(&str, u32)> = excluded.iter().map(|excluded| (excluded.reason.as_str(), excluded.nodes)).collect();
    assert_eq!(counts, [("Fargate", 1), ("VirtualNode", 1), ("OperatingSystem", 2), ("Architecture", 1)]);
    assert_eq!(excluded[2].names, ["win-1", "win-2"]);
}

#[test]
fn a_status_names_only_some_of_many_excluded_nodes() {
    let mut observed = settled();
    let names: Vec<String> = (0..100).map(|index| format!("win-{index:03}")).collect();
    observed.nodes = with_nodes(&observed, names.iter().map(|name| (name.as_str(), windows())).collect());
    let excluded = reconciled_status(&observed).nodes.unwrap().excluded;
    let names = ["win-000", "win-001", "win-002"].map(str::to_owned).into();
    assert_eq!(excluded, [ExcludedNodesStatus { reason: "OperatingSystem".to_owned(), nodes: 100, names }]);
}

#[test]
fn a_tainted_control_plane_without_a_zone_gets_no_resolvers_and_the_status_says_why() {
    let mut observed = settled();
    observed.nodes = with_nodes(&observed, vec![("master", control_plane())]);
    assert_eq!(build_desired(&observed).objects.deployments.len(), 3);
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "True", Reason::Serving, &["3 zones"]);
    assert_condition(&status, "Degraded", "False", Reason::Healthy, &[]);
    assert!(condition(&status, "Reconciling").is_none());
    let obstacle = "master (taint node-role.kubernetes.io/control-plane:NoSchedule)";
    let expected = ZoneStatus {
        name: String::new(),
        nodes: 1,
        resolvers_ready: 0,
        local_percent: None,
        no_resolvers: Some(format!("No node may run one: {obstacle}.")),
    };
    assert_eq!(status.zones[0], expected);
    assert_eq!(status.nodes.unwrap().excluded, [], "its pods resolve names by the node's caches");
}

#[test]
fn a_zone_that_the_spec_names_and_that_can_have_no_resolver_is_degraded() {
    let mut observed = serving("resolvers: {zones: [zone-a, zone-b, zone-c, zone-m]}");
    let master = ClusterNode { labels: linux([(ZONE_LABEL, "zone-m")]), ..control_plane() };
    observed.nodes = with_nodes(&observed, vec![("master", master)]);
    let parts = ["zone-m", "master (taint ", "spec.resolvers.tolerations"];
    assert_condition(&reconciled_status(&observed), "Degraded", "True", Reason::ZoneWithoutNodes, &parts);
}

#[test]
fn a_drained_zone_is_reported_by_its_nodes_while_its_resolvers_wait() {
    let mut observed = settled();
    let cordon = |(name, node): (&str, &ClusterNode)| {
        (name.to_owned(), ClusterNode { cordoned: name == "node-b", ..node.clone() })
    };
    observed.nodes = observed.nodes.iter().map(cordon).collect();
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
    deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = None;
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "False", Reason::ResolversNotReady, &["zone-b", "node-b (cordoned)"]);
    assert_eq!(build_desired(&observed).objects.deployments.len(), 3, "a cordon of a moment deletes nothing");
}

#[test]
fn a_cluster_in_which_no_node_can_run_the_caches_says_so_and_is_not_starting_for_ever() {
    let mut observed = cluster("{}");
    observed.nodes = [("win-1", windows())].into_iter().collect();
    let outcome = ApplyOutcome::Valid { warnings: Vec::new(), rollout: None, writes: 0, failure: None };
    let status = compute(&observed, &settings(), &outcome);
    assert_condition(&status, "Ready", "False", Reason::NoNodes, &["1 node by OperatingSystem (win-1)"]);
}

#[test]
fn a_cluster_of_tainted_nodes_alone_has_resolvers_that_wait_and_names_the_taint() {
    let mut observed = cluster("{}");
    observed.nodes = [("master", control_plane())].into_iter().collect();
    let tier = validate(&observed, &settings()).unwrap();
    assert_eq!(tier.zones.len(), 1);
    let warning = &tier.warnings[0];
    assert_eq!(warning.reason, Reason::ZoneWithoutNodes);
    for part in ["the nodes without a zone", "master (taint node-role", "spec.resolvers.tolerations"] {
        assert!(warning.message.contains(part), "{}", warning.message);
    }
}

#[test]
fn a_node_that_the_spec_leaves_out_is_told_apart() {
    let mut observed = serving("nodeCache: {nodeSelector: {pool: blue}}");
    let blue = |(name, node): (&str, &ClusterNode)| {
        let mut labels: Labels = node.labels.clone();
        labels.insert("pool".to_owned(), if name == "node-c" { "green" } else { "blue" }.to_owned());
        (name.to_owned(), labels)
    };
    observed.nodes = observed.nodes.iter().map(blue).collect();
    let excluded = reconciled_status(&observed).nodes.unwrap().excluded;
    let names = vec!["node-c".to_owned()];
    assert_eq!(excluded, [ExcludedNodesStatus { reason: "NodeSelector".to_owned(), nodes: 1, names }]);
}

#[test]
fn a_pod_that_waits_for_a_node_that_is_gone_is_not_counted() {
    let mut observed = settled();
    let before = reconciled_status(&observed);
    let mut waiting = observed.pods[0].clone();
    waiting.name = "waiting".to_owned();
    waiting.uid = "waiting".to_owned();
    waiting.node = Some("node-gone".to_owned());
    waiting.scheduled = false;
    waiting.ready = false;
    observed.pods.push(waiting);
    observed.owned.daemon_sets[0].status.as_mut().unwrap().desired_number_scheduled = 4;
    assert_eq!(reconciled_status(&observed), before);

    observed.pods.last_mut().unwrap().node = Some("node-a".to_owned());
    let status = reconciled_status(&observed);
    assert_condition(&status, "Ready", "False", Reason::RollingOut, &["1 of 4 nodes", "node-a"]);
}

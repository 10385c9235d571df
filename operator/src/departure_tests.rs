//! Nodes that leave a tier, by the whole controller in front of a fake cluster with a DaemonSet controller.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::controller::fixtures::linux;
use crate::controller::placement::MAX_NAMES;
use crate::fake_daemon_sets::FakeDaemonSets;
use crate::rollout_world::{DAEMON_SETS, NODES, TIERS, World};

/// A world whose DaemonSet controller looks once a second.
struct Cluster {
    world: World,
    daemon_sets: FakeDaemonSets,
}

impl Cluster {
    /// Starts a tier on the nodes of every pool. Nodes of the pool `go` are those that a test excludes.
    async fn start(zones: &[usize], going: &[&str], rollout: Value) -> Self {
        let mut world = World::start(zones, rollout).await;
        for node in FakeDaemonSets::nodes(&world) {
            let pool = if going.contains(&node.as_str()) { "go" } else { "stay" };
            world.cluster.merge(NODES, &node, json!({"metadata": {"labels": {"pool": pool}}}));
        }
        world.change(pools(&["go", "stay"]));
        world.run_until("the pools are those of the DaemonSet", |world| text_of(world).contains("pool")).await;
        let daemon_sets = FakeDaemonSets::adopt(&world);
        let mut this = Self { world, daemon_sets };
        this.run(3).await;
        this
    }

    async fn pass(&mut self) {
        self.daemon_sets.sync(&self.world).await;
        self.world.pass().await;
    }

    async fn run(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.pass().await;
        }
    }

    async fn run_until(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) {
        for _ in 0..300 {
            if is_true(self) {
                return;
            }
            self.pass().await;
        }
        panic!("never: {what}; {:?} {:#}", self.daemon_sets.log, self.world.status());
    }

    /// Runs until the DaemonSet controller has done this much.
    async fn run_until_logged(&mut self, entries: &[&str]) {
        self.run_until(&entries.join(" "), |this| this.daemon_sets.log.len() >= entries.len()).await;
        assert_eq!(self.daemon_sets.log, entries);
    }

    async fn run_to_the_end(&mut self) {
        self.run_until("the end", |this| {
            this.world.rolled_out().0 == "True" && !text_of(&this.world).contains("OnDelete")
        })
        .await;
        self.run(20).await;
    }

    fn nodes(&self) -> Vec<String> {
        FakeDaemonSets::nodes(&self.world)
    }
}

fn text_of(world: &World) -> String {
    world.cluster.list(DAEMON_SETS)[0].to_string()
}

/// Returns a spec that admits these pools.
fn pools(pools: &[&str]) -> Value {
    let terms = json!([{"matchExpressions": [{"key": "pool", "operator": "In", "values": pools}]}]);
    let required = json!({"nodeSelectorTerms": terms});
    json!({"nodeCache": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})
}

fn settings() -> Value {
    json!({"soak": "5s", "waveSize": 1})
}

const GOING: [&str; 4] = ["a1", "a2", "b1", "b2"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_leave_in_waves_and_the_others_restart_once_at_the_end() {
    let mut cluster = Cluster::start(&[3, 3], &GOING, settings()).await;
    cluster.world.change(pools(&["stay"]));
    cluster.pass().await;
    let (status, reason, message) = cluster.world.rolled_out();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Canary"));
    assert_eq!(message, "0 of 4 nodes that the placement excludes have left; pods there use the cluster DNS.");
    assert_eq!(cluster.daemon_sets.log, Vec::<String>::new(), "the status is written before the first node leaves");
    cluster.run_until_logged(&["-a1", "-b1"]).await;
    assert_eq!(cluster.world.rolled_out().1, "Canary");
    let rollout = &cluster.world.status()["rollout"];
    assert_eq!((&rollout["kind"], &rollout["moved"], &rollout["total"]), (&json!("Nodes"), &json!(2), &json!(4)));
    cluster.run(3).await;
    assert_eq!(cluster.daemon_sets.log.len(), 2, "the soak");
    cluster.run_until_logged(&["-a1", "-b1", "-a2"]).await;
    assert_eq!(cluster.world.rolled_out().1, "Wave");
    for (type_, status) in [("Ready", "True"), ("Reconciling", "True"), ("Degraded", "False"), ("Stalled", "")] {
        assert_eq!(cluster.world.condition(type_).0, status, "{type_}: {:?}", cluster.world.condition(type_));
    }
    let nodes = cluster.world.status()["nodes"].clone();
    assert_eq!((&nodes["desired"], &nodes["ready"], &nodes["updated"]), (&json!(3), &json!(3), &json!(3)));
    assert_eq!(nodes["excluded"][0]["names"], json!(["a1", "a2", "b1"]));
    cluster.run_until_logged(&["-a1", "-b1", "-a2", "-b2"]).await;
    cluster.run_to_the_end().await;
    assert_eq!(cluster.daemon_sets.log[4..], ["-a0", "+a0", "-b0", "+b0"]);
    assert!(!text_of(&cluster.world).contains("dnstier.io/departure"));
    assert_eq!(cluster.world.status()["rollout"]["kind"], "Configuration");
    let requests = cluster.world.cluster.requests().len();
    cluster.run(10).await;
    let requests = cluster.world.cluster.requests().split_off(requests);
    assert!(requests.is_empty(), "it is at rest: {requests:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_leave_in_waves_in_front_of_an_old_definition() {
    let mut cluster = Cluster::start(&[3, 3], &GOING, settings()).await;
    cluster.world.is_old.store(true, Ordering::Relaxed);
    cluster.world.cluster.merge(TIERS, "default", json!({"status": {"rollout": null}}));
    cluster.world.change(pools(&["stay"]));
    cluster.pass().await;
    assert_eq!(cluster.daemon_sets.log, Vec::<String>::new(), "the status is written before the first node leaves");
    cluster.run_until_logged(&["-a1", "-b1", "-a2", "-b2"]).await;
    cluster.run_to_the_end().await;
    assert_eq!(cluster.world.status()["rollout"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revert_brings_nodes_back_at_once_and_restarts_no_pod() {
    let mut cluster = Cluster::start(&[3, 3], &GOING, settings()).await;
    cluster.world.change(pools(&["stay"]));
    cluster.run_until_logged(&["-a1", "-b1"]).await;
    cluster.world.change(pools(&["go", "stay"]));
    cluster.run_to_the_end().await;
    assert_eq!(cluster.daemon_sets.log, ["-a1", "-b1", "+a1", "+b1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_placement_takes_the_place_of_one_on_its_way() {
    let mut cluster = Cluster::start(&[4], &["a1", "a2"], settings()).await;
    cluster.world.cluster.merge(NODES, "a3", json!({"metadata": {"labels": {"pool": "other"}}}));
    cluster.world.change(pools(&["go", "stay", "other"]));
    cluster.run(10).await;
    cluster.daemon_sets.log.clear();
    cluster.world.change(pools(&["stay", "other"]));
    cluster.run_until_logged(&["-a1"]).await;
    cluster.world.change(pools(&["stay", "go"]));
    cluster.run_until("the other one has left", |this| this.daemon_sets.log.contains(&"-a3".to_owned())).await;
    assert_eq!(cluster.daemon_sets.log, ["-a1", "+a1", "-a3"], "nobody restarts before the end");
    cluster.run_to_the_end().await;
    assert_eq!(cluster.nodes(), ["a0", "a1", "a2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_keeps_nodes_from_leaving_and_the_last_restart_from_happening() {
    let mut cluster = Cluster::start(&[3], &["a1", "a2"], settings()).await;
    cluster.world.change(pools(&["stay"]));
    cluster.world.change(json!({"rollout": {"paused": true}}));
    cluster.run(30).await;
    assert_eq!(cluster.daemon_sets.log, Vec::<String>::new());
    assert_eq!(cluster.world.rolled_out().1, "Paused");
    cluster.world.change(json!({"rollout": {"paused": false}}));
    cluster.run_until_logged(&["-a1"]).await;
    cluster.run_until_logged(&["-a1", "-a2"]).await;
    cluster.world.change(json!({"rollout": {"paused": true}}));
    cluster.run(30).await;
    assert_eq!(cluster.daemon_sets.log.len(), 2);
    cluster.world.change(json!({"rollout": {"paused": false}}));
    cluster.run_to_the_end().await;
    assert_eq!(cluster.daemon_sets.log[2..], ["-a0", "+a0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_replaced_after_every_pass_leaves_waves_as_they_are() {
    let mut cluster = Cluster::start(&[3, 3], &GOING, settings()).await;
    cluster.world.change(pools(&["stay"]));
    for _ in 0..60 {
        cluster.world.replace_process().await;
        cluster.pass().await;
    }
    cluster.run_to_the_end().await;
    assert_eq!(cluster.daemon_sets.log, ["-a1", "-b1", "-a2", "-b2", "-a0", "+a0", "-b0", "+b0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_sees_an_older_daemon_set_lets_no_node_leave() {
    let mut cluster = Cluster::start(&[3], &["a1", "a2"], settings()).await;
    cluster.world.change(pools(&["stay"]));
    cluster.run_until_logged(&["-a1"]).await;
    let name = cluster.world.cluster.list(DAEMON_SETS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    for _ in 0..20 {
        // Somebody else writes in each pass, before the operator does.
        let change = json!({"metadata": {"labels": {"x": "y"}}});
        cluster.world.pass_behind(|cluster| cluster.merge(DAEMON_SETS, &name, change)).await;
        cluster.daemon_sets.sync(&cluster.world).await;
    }
    assert_eq!(cluster.daemon_sets.log, ["-a1"]);
    cluster.run_until_logged(&["-a1", "-a2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_of_the_same_change_goes_before_the_nodes_leave() {
    let mut cluster = Cluster::start(&[3], &["a1", "a2"], settings()).await;
    let mut spec = pools(&["stay"]);
    spec["nodeCache"]["cache"] = json!({"maxTtl": "600s"});
    cluster.world.change(spec);
    cluster.run_until("a node has left", |this| !this.daemon_sets.log.is_empty()).await;
    assert_eq!(cluster.world.step(), "Done");
    assert_eq!(cluster.world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
    // Another one holds the nodes that are left.
    cluster.world.change(json!({"nodeCache": {"cache": {"maxTtl": "700s"}}}));
    cluster.run_until("it is on its way", |this| this.world.step() != "Done").await;
    cluster.run_until("it is over", |this| this.world.step() == "Done").await;
    assert_eq!(cluster.daemon_sets.log, ["-a1"]);
    assert_eq!(cluster.world.rolled_out().0, "False");
    cluster.run_to_the_end().await;
    assert_eq!(cluster.nodes(), ["a0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_a_taint_leave_in_waves_when_it_is_not_tolerated_any_more() {
    for effect in ["NoSchedule", "NoExecute"] {
        let mut cluster = Cluster::start(&[3, 2], &[], settings()).await;
        for node in ["a1", "a2", "b1"] {
            let taints = json!([{"key": "dedicated", "value": "db", "effect": effect}]);
            cluster.world.cluster.merge(NODES, node, json!({"spec": {"taints": taints}}));
        }
        cluster.run(3).await;
        cluster.world.change(json!({"nodeCache": {"tolerations": []}}));
        cluster.run_until_logged(&["-a1", "-b1"]).await;
        cluster.run(3).await;
        cluster.run_until_logged(&["-a1", "-b1", "-a2"]).await;
        cluster.run_to_the_end().await;
        assert_eq!(cluster.daemon_sets.log[3..], ["-a0", "+a0", "-b0", "+b0"], "{effect}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_while_others_leave_and_a_node_that_is_labelled_leaves_or_stays_at_once() {
    let mut cluster = Cluster::start(&[4], &["a1", "a2", "a3"], settings()).await;
    cluster.world.change(pools(&["stay", "new"]));
    cluster.run_until_logged(&["-a1"]).await;
    cluster.world.cluster.merge(NODES, "a1", json!({"metadata": {"labels": {"pool": "new"}}}));
    cluster.world.cluster.merge(NODES, "a2", json!({"metadata": {"labels": {"pool": "new"}}}));
    cluster.world.cluster.merge(NODES, "a0", json!({"metadata": {"labels": {"pool": "none"}}}));
    cluster.run_until_logged(&["-a1", "-a0", "+a1"]).await;
    cluster.run_until_logged(&["-a1", "-a0", "+a1", "-a3"]).await;
    cluster.run_to_the_end().await;
    assert_eq!(cluster.nodes(), ["a1", "a2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_or_deleted_holds_no_departure_up() {
    let mut cluster = Cluster::start(&[5], &["a1", "a2", "a3", "a4"], settings()).await;
    cluster.world.set_ready("a1", false);
    cluster.world.change(pools(&["stay"]));
    cluster.run_until_logged(&["-a2"]).await;
    cluster.world.cluster.delete(NODES, "a3");
    cluster.run_to_the_end().await;
    assert_eq!(cluster.nodes(), ["a0"]);
    assert_eq!(cluster.daemon_sets.log[..4], ["-a2", "-a3", "-a1", "-a4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_made_while_nodes_leave_and_does_not_run_is_told_after_five_minutes() {
    let mut cluster = Cluster::start(&[3], &["a1", "a2"], json!({"soak": "1h", "waveSize": 1})).await;
    cluster.world.change(pools(&["stay"]));
    cluster.run_until_logged(&["-a1"]).await;
    let (old, _) = cluster.world.pods.node_pods().into_iter().find(|(_, node)| node == "a2").unwrap();
    cluster.world.pods.delete(&old);
    cluster.daemon_sets.sync(&cluster.world).await;
    assert_eq!(cluster.daemon_sets.log, ["-a1", "+a2"], "a node that stays for now gets its pod again");
    let (new, _) = cluster.world.pods.node_pods().into_iter().find(|(_, node)| node == "a2").unwrap();
    let container = json!({"name": "x", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": {"waiting": {"reason": "ImagePullBackOff"}}});
    let status = json!({"phase": "Pending", "containerStatuses": [container],
        "conditions": [{"type": "Ready", "status": "False"}]});
    cluster.world.cluster.merge("/api/v1/namespaces/dnstier-node/pods", &new, json!({"status": status}));
    cluster.run(250).await;
    assert_eq!(cluster.world.condition("Stalled").0, "");
    cluster.run(60).await;
    assert_eq!(cluster.world.condition("Stalled").1, "PodsNotRunning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_nodes_than_can_leave_in_steps_stay_and_somebody_is_told() {
    let mut cluster = Cluster::start(&[2], &["a1"], settings()).await;
    for number in 0..MAX_NAMES {
        let labels = linux([("pool", "go")]);
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let node = json!({"metadata": {"labels": labels}, "status": {"conditions": conditions}});
        cluster.world.cluster.merge(NODES, &format!("n{number}"), node);
    }
    cluster.world.change(pools(&["stay"]));
    for _ in 0..10 {
        cluster.world.pass().await;
    }
    let text = text_of(&cluster.world);
    assert!(text.contains("\"go\"") && text.contains("RollingUpdate") && !text.contains("departure"), "{text}");
    let (status, reason, message) = cluster.world.rolled_out();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Wave"));
    assert!(message.starts_with("The placement excludes 2001 nodes, more than can leave in steps"), "{message}");
    assert_eq!(cluster.world.condition("Degraded").2, message);
}

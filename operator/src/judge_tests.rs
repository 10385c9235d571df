//! Judgement of changes by the whole controller in front of a fake cluster.

use serde_json::{Value, json};

use crate::fake_pods::Fault;
use crate::rollout_world::World;

/// Returns settings with a short soak and a probe whose records are compared.
fn settings() -> Value {
    json!({"soak": "5s", "waveSize": 1, "probes": [{"name": "www.example", "type": "A", "compare": "Answers"}]})
}

/// Sets whether a pod is ready.
fn set_pod_ready(world: &World, pod: &str, is_ready: bool) {
    let namespace = if pod.starts_with("cache-") { "dnstier-node" } else { "dnstier-system" };
    let condition = json!({"type": "Ready", "status": if is_ready { "True" } else { "False" }});
    let collection = format!("/api/v1/namespaces/{namespace}/pods");
    world.cluster.merge(&collection, pod, json!({"status": {"conditions": [condition]}}));
}

/// Returns the name of the pod of a node.
fn pod_of(world: &World, node: &str) -> String {
    world.pods.node_pods().into_iter().find(|(_, other)| other == node).unwrap().0
}

/// Rolls a change out to the first nodes, which has this fault there.
async fn begin_bad_change(world: &mut World, fault: Fault) -> String {
    let bad = world.change_nodes(600).await;
    world.pods.set_fault(&bad, "", Some(fault));
    world.run_until("the first nodes have it", |world| world.seen(&bad) == ["a0", "b0"]).await;
    bad
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_target_that_supersedes_a_bad_one_is_stopped() {
    for (fault, reason) in [(Fault::DeadRoute, "JudgedWorse"), (Fault::WrongAnswers, "WrongAnswers")] {
        for (zones, is_paused) in [([1, 1], false), ([2, 1], false), ([2, 1], true)] {
            let mut world = World::start(&zones, settings()).await;
            begin_bad_change(&mut world, fault).await;
            if is_paused {
                world.change(json!({"rollout": {"paused": true}}));
                world.run(20).await;
                world.change(json!({"rollout": {"paused": false}}));
            }
            let next = world.change_nodes(700).await;
            world.pods.set_fault(&next, "", Some(fault));
            world.run_until("it is stopped", |world| world.step() == "Stopped").await;
            world.run(2).await;
            assert_eq!((world.target(), world.rolled_out().1.as_str()), (next.clone(), reason));
            assert_eq!(world.seen(&next), ["a0", "b0"]);
            assert_eq!(world.record()["proven"]["id"], json!(world.first));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_target_that_supersedes_a_bad_one_is_rolled_out() {
    for fault in [Fault::DeadRoute, Fault::WrongAnswers] {
        let mut world = World::start(&[2, 1], settings()).await;
        let bad = begin_bad_change(&mut world, fault).await;
        let next = world.change_nodes(700).await;
        world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
        assert_eq!(world.target(), next, "{fault:?}");
        assert_eq!(world.seen(&bad), ["a0", "b0"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_stops_a_bad_target_that_supersedes_a_bad_one() {
    let mut world = World::start(&[2, 1], settings()).await;
    begin_bad_change(&mut world, Fault::DeadRoute).await;
    world.replace_process().await;
    let next = world.change_nodes(700).await;
    world.pods.set_fault(&next, "", Some(Fault::DeadRoute));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    assert_eq!((world.target(), world.seen(&next)), (next.clone(), vec!["a0".to_owned(), "b0".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_control_that_is_not_ready_a_dead_route_is_stopped_and_a_good_change_rolled_out() {
    for fault in [Some(Fault::DeadRoute), None] {
        let mut world = World::start(&[2], settings()).await;
        set_pod_ready(&world, &pod_of(&world, "a1"), false);
        let target = world.change_nodes(600).await;
        world.pods.set_fault(&target, "", fault);
        if fault.is_none() {
            world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
            continue;
        }
        world.run_until("it is stopped", |world| world.step() == "Stopped").await;
        world.run(2).await;
        assert_eq!((world.rolled_out().1.as_str(), world.seen(&target)), ("JudgedWorse", vec!["a0".to_owned()]));
    }
}

/// Starts a tier with this many nodes whose first one has a change and is not ready. Returns the revision and the pod.
async fn start_with_unready_first_node(nodes: usize) -> (World, String, String) {
    let mut world = World::start(&[nodes], settings()).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    let first = pod_of(&world, "a0");
    set_pod_ready(&world, &first, false);
    (world, target, first)
}

/// Asserts that a roll-out waits in a step for its first node and says so, and goes on once the pod is ready.
async fn assert_waits_for_first_node(mut world: World, step: &str, target: &str, first: &str) {
    world.run(60).await;
    assert_eq!((world.step().as_str(), world.seen(target)), (step, vec!["a0".to_owned()]));
    let message = world.rolled_out().2;
    assert!(message.contains("The pod on node a0 is not ready"), "{message}");
    set_pod_ready(&world, first, true);
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_node_that_is_not_ready_with_the_change_is_waited_for_and_told() {
    let (world, target, first) = start_with_unready_first_node(3).await;
    assert_waits_for_first_node(world, "Canary", &target, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_node_that_is_not_ready_and_goes_away_makes_room_for_another() {
    let (mut world, target, _) = start_with_unready_first_node(3).await;
    world.run(20).await;
    assert_eq!(world.step(), "Canary");
    world.set_ready("a0", false);
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_superseded_target_that_are_not_ready_are_waited_for() {
    let (mut world, _, first) = start_with_unready_first_node(2).await;
    let new = world.change_nodes(700).await;
    world.run_until("it has the new target", |world| world.seen(&new) == ["a0"]).await;
    assert_waits_for_first_node(world, "Moved", &new, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_resolver_that_is_not_ready_with_the_change_is_named() {
    let mut world = World::start(&[1], settings()).await;
    world.change(json!({"resolvers": {"upstreams": [{"addresses": ["192.0.2.53"]}]}}));
    world
        .run_until("a resolver is watched", |world| {
            world.step() == "Resolver" && !world.record()["watchedSince"].is_null()
        })
        .await;
    let first = world.record()["moved"][0].as_str().unwrap().to_owned();
    set_pod_ready(&world, &first, false);
    world.run(60).await;
    assert_eq!(world.step(), "Resolver");
    let message = world.rolled_out().2;
    assert!(message.contains(&format!("Resolver {first} is not ready")), "{message}");
    set_pod_ready(&world, &first, true);
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

//! Addresses that a roll-out gives up and that pods ask, by the whole controller in front of a fake cluster.

use serde_json::{Value, json};

use crate::fake_pods::Fault;
use crate::rollout_world::{RECORD, RECORDS, World, settings_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_pods_begin_to_ask_in_a_step_holds_the_next_one() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    world.change(json!({"nodeCache": {"capture": {"addresses": []}}}));
    // Resolvers without upstreams of their own go first: they leave the address out of a resolv.conf.
    let nodes = |world: &World| {
        let seen = world.seen(&world.target());
        seen.into_iter().filter(|key| ["a0", "a1", "a2"].contains(&key.as_str())).collect::<Vec<_>>()
    };
    let is_told = |world: &World| world.target() != world.first && nodes(world) == ["a0"];
    world.run_until("the first node has it", is_told).await;
    let target = world.target();
    world.pods.ask("169.254.20.10");
    world.run_until("it waits", |world| world.rolled_out().1 == "AddressInUse").await;
    world.run(60).await;
    assert_eq!((world.step().as_str(), nodes(&world)), ("Canary", vec!["a0".to_owned()]));
    let (_, reason, message) = world.rolled_out();
    assert_eq!(reason, "AddressInUse");
    // The first node does not capture it any more.
    assert!(message.contains(" on 2 nodes: a1 (") && message.contains("Nobody else is told before"), "{message}");
    world.annotate("dnstier.io/confirm-rollout", &target);
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(nodes(&world).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_no_node_captures_any_more_holds_nothing() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    world.change(json!({"nodeCache": {"capture": {"addresses": []}}}));
    world.run_until("there is another target", |world| world.target() != world.first).await;
    let is_watched = |world: &World| world.step() == "Wave" && !world.record()["watchedSince"].is_null();
    world.run_until("the last wave is watched", is_watched).await;
    world.pods.ask("169.254.20.10");
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_pods_ask_is_given_up_only_when_somebody_confirms_that() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    let addresses = |addresses: Value| json!({"nodeCache": {"capture": {"addresses": addresses}}});
    world.change(addresses(json!(["169.254.20.10", "169.254.20.11"])));
    world.run_until("both are captured", |world| world.target() != world.first && world.rolled_out().0 == "True").await;
    let before = world.target();
    world.pods.ask("169.254.20.10");
    world.change(addresses(json!(["169.254.20.10"])));
    world
        .run_until("the other one is given up", |world| world.target() != before && world.rolled_out().0 == "True")
        .await;
    let before = world.target();
    world.change(addresses(json!([])));
    world.run_until("it waits", |world| world.rolled_out().1 == "AddressInUse").await;
    world.run(60).await;
    let target = world.target();
    assert_eq!(world.seen(&target), Vec::<String>::new());
    let (_, reason, message) = world.condition("Stalled");
    assert_eq!(reason, "AddressInUse");
    assert!(
        message.contains("169.254.20.10 was asked in the last ten to fifteen minutes on 2 nodes: a0 ("),
        "{message}"
    );
    assert!(message.contains(&format!("dnstier.io/confirm-rollout={target}")), "{message}");
    assert_eq!(world.condition("Degraded").0, "False");
    world.annotate("dnstier.io/confirm-rollout", &before);
    world.run(40).await;
    assert_eq!(world.seen(&target), Vec::<String>::new(), "another target was confirmed");
    world.annotate("dnstier.io/confirm-rollout", &target);
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_pods_ask_is_not_given_up_when_the_record_is_lost_and_a_pod_made_again() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    world.pods.ask("169.254.20.10");
    world.run(10).await;
    world.pods.ask("10.96.0.10");
    for (old, node) in world.pods.node_pods() {
        world.pods.delete(&old);
        world.pods.add_node_pod("a", &node).await;
    }
    world.run(5).await;
    world.change(json!({"nodeCache": {"capture": {"addresses": []}}}));
    world.run_until("it waits", |world| world.rolled_out().1 == "AddressInUse").await;
    let target = world.target();
    world.pods.ask("169.254.20.10");
    world.run(5).await;
    world.cluster.delete(RECORDS, RECORD);
    // The watch tells that it is gone once the own write is forgotten.
    world.replace_process().await;
    world.run(60).await;
    assert_eq!((world.rolled_out().1.as_str(), world.target()), ("AddressInUse", target.clone()));
    assert_eq!(world.seen(&target), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_pods_ask_is_not_given_up_while_their_node_has_no_pod() {
    let mut world = World::start(&[1], settings_of("5s")).await;
    world.pods.ask("169.254.20.10");
    world.run(10).await;
    world.change(json!({"nodeCache": {"capture": {"addresses": []}}}));
    world.run_until("it waits", |world| world.rolled_out().1 == "AddressInUse").await;
    let target = world.target();
    let (pod, node) = world.pods.node_pods().remove(0);
    world.pods.delete(&pod);
    world.run(60).await;
    assert_eq!((world.step().as_str(), world.rolled_out().1.as_str()), ("Start", "AddressInUse"));
    world.pods.add_node_pod("a", &node).await;
    world.run(60).await;
    assert_eq!((world.step().as_str(), world.seen(&target)), ("Start", Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_gives_no_address_up_before_it_has_polled_every_node() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    world.pods.ask("169.254.20.10");
    world.run(10).await;
    world.change(json!({"nodeCache": {"capture": {"addresses": []}}}));
    world.run_until("it waits", |world| world.rolled_out().1 == "AddressInUse").await;
    let target = world.target();
    world.replace_process().await;
    world.is_polling = false;
    world.run(5).await;
    let (_, reason, message) = world.rolled_out();
    assert_eq!((world.step().as_str(), reason.as_str()), ("Start", "AddressInUse"));
    let expected = "Whether pods ask 169.254.20.10 is not known yet: no answer from 2 nodes so far.";
    assert!(message.starts_with(expected), "{message}");
    world.is_polling = true;
    world.run(30).await;
    assert!(world.rolled_out().2.contains("169.254.20.10 was asked"), "{:?}", world.rolled_out());
    assert_eq!(world.seen(&target), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_answers_a_new_leader_does_not_keep_an_address_for_ever() {
    for has_address in [true, false] {
        let mut world = World::start(&[2], settings_of("5s")).await;
        let (mute, _) = world.pods.node_pods().into_iter().find(|(_, node)| node == "a1").unwrap();
        if has_address {
            world.pods.set_fault(&world.first, &mute, Some(Fault::Mute));
        } else {
            world.cluster.merge("/api/v1/namespaces/dnstier-node/pods", &mute, json!({"status": {"podIP": null}}));
        }
        world.replace_process().await;
        world.change(json!({"nodeCache": {"capture": {"addresses": []}}}));
        let is_told = |world: &World| world.target() != world.first && !world.seen(&world.target()).is_empty();
        world.run_until("the first node has it", is_told).await;
    }
}

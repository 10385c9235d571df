//! Promises of a roll-out about pods that are not there, are not ready or do not answer, and about clocks that differ.

use std::collections::BTreeSet;

use dnstier_crds::v1alpha1::{Duration, WaveSize};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;

use super::pods::{Role, RolloutPod};
use super::record::Step;
use super::simulation::{World, revision};

/// Deletes the pod of a node.
fn delete(world: &mut World, node: &str) {
    world.pods.retain(|pod| pod.key() != node);
}

fn moved(world: &World) -> Vec<&str> {
    world.record().moved.iter().map(String::as_str).collect()
}

fn sentence(world: &mut World) -> String {
    world.pass(0).rolled_out.sentence
}

fn resolvers(world: &mut World) -> impl Iterator<Item = &mut RolloutPod> {
    world.pods.iter_mut().filter(|pod| pod.role == Role::Resolver)
}

/// Lets no poll of a pod succeed any more, and the last one be from before the change.
fn stop_answering(pod: &mut RolloutPod, mute: &mut BTreeSet<String>) {
    pod.is_unanswered = true;
    pod.in_force = Some("n1r1".to_owned());
    mute.insert(pod.name.clone());
}

#[test]
fn a_change_begins_with_one_resolver_that_answers_where_none_is_ready() {
    let mut world = World::new(&[2, 2]);
    resolvers(&mut world).for_each(|pod| pod.ready = false);
    world.change(revision(2, 2));
    world.run_until("a resolver has it", |world| {
        let running = world.pods.iter().filter(|pod| pod.role == Role::Resolver && pod.is_running("n2r2"));
        world.record().watched_since.is_some() && running.count() == 1
    });
    world.run(60);
    assert_eq!((world.record().step, moved(&world).len()), (Step::Resolver, 1), "it has shown nothing yet");
    let first = moved(&world)[0].to_owned();
    resolvers(&mut world).filter(|pod| pod.name == first).for_each(|pod| pod.ready = true);
    world.settle();
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Done, 4));
}

#[test]
fn a_change_waits_where_no_resolver_is_ready_or_answers() {
    let mut world = World::new(&[2]);
    for pod in world.pods.iter_mut().filter(|pod| pod.role == Role::Resolver) {
        (pod.ready, pod.in_force) = (false, None);
        world.mute.insert(pod.name.clone());
    }
    world.change(revision(2, 2));
    world.run(300);
    assert_eq!((world.record().step, moved(&world).len()), (Step::Resolver, 0));
    world.mute.clear();
    for pod in world.pods.iter_mut().filter(|pod| pod.role == Role::Resolver) {
        (pod.ready, pod.in_force) = (true, pod.asked.clone());
    }
    world.settle();
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Done, 2));
}

#[test]
fn a_resolver_that_is_not_ready_beside_others_is_in_no_step() {
    let mut world = World::new(&[2]);
    let dead = resolvers(&mut world).next().map(|pod| {
        pod.ready = false;
        pod.name.clone()
    });
    let dead = dead.unwrap();
    world.deaf.insert(dead.clone());
    world.change(revision(1, 2));
    world.run_until("it is proven", |world| {
        assert!(!world.record().moved.contains(&dead), "{:?}", world.record());
        matches!(world.record().step, Step::Finish | Step::Done) && world.record().target.id == "n1r2"
    });
}

#[test]
fn a_step_that_nobody_can_begin_says_what_it_waits_for() {
    let mut world = World::new(&[2]);
    resolvers(&mut world).for_each(|pod| pod.away = true);
    world.change(revision(1, 2));
    world.run(3);
    assert_eq!(sentence(&mut world), "Revision n1r2 waits for a resolver that is there and answers.");
    let mut world = World::new(&[2]);
    ["a000", "a001"].iter().for_each(|node| world.set_away(node, true));
    world.change(revision(2, 1));
    world.run(3);
    assert_eq!(sentence(&mut world), "Revision n2r1 waits for a node that is ready.");
}

#[test]
fn a_canary_without_a_pod_for_a_moment_of_a_long_step_gets_no_other_beside_it() {
    let mut world = World::new(&[3]);
    world.settings.soak = Duration::from_seconds(3_600);
    world.change(revision(2, 1));
    world.run_until("the canary is watched", |world| world.record().watched_since.is_some());
    world.run(600);
    delete(&mut world, "a000");
    world.run(200);
    assert_eq!((moved(&world), world.nodes_on("n2").len()), (vec!["a000"], 0));
    world.add_pod(Role::Node, "a", Some("a000"));
    world.run(2);
    assert_eq!(world.nodes_on("n2"), ["a000"]);
    delete(&mut world, "a000");
    world.run(310);
    assert_eq!(world.nodes_on("n2"), ["a001"], "five minutes are enough");
}

#[test]
fn a_wave_whose_pods_are_all_made_again_is_not_over() {
    let mut world = World::new(&[3]);
    world.settings.wave_size = WaveSize::Nodes(1);
    world.change(revision(2, 1));
    world
        .run_until("a wave runs it", |world| world.record().step == Step::Wave && world.pod("a001").is_running("n2r1"));
    delete(&mut world, "a001");
    world.run(30);
    assert_eq!((world.record().step, moved(&world)), (Step::Wave, vec!["a001"]));
    world.add_pod(Role::Node, "a", Some("a001"));
    world.run_until("the next wave begins", |world| moved(world) == ["a002"]);
    assert!(world.pod("a001").is_running("n2r1"));
    delete(&mut world, "a002");
    world.run(310);
    assert_eq!(world.record().step, Step::Done, "nobody waits for ever");
}

#[test]
fn a_target_is_not_proven_while_the_only_node_pod_is_made_again() {
    let mut world = World::new(&[1]);
    world.change(revision(2, 1));
    delete(&mut world, "a000");
    world.run(400);
    assert_eq!((world.record().step, moved(&world).len(), world.stable.as_deref()), (Step::Canary, 0, Some("n1r1")));
    assert_eq!(sentence(&mut world), "Revision n2r1 waits for a node that is ready.");
    world.add_pod(Role::Node, "a", Some("a000"));
    world.run_until("it goes first", |world| world.nodes_on("n2") == ["a000"]);
    assert_eq!((world.record().step, world.stable.as_deref()), (Step::Canary, Some("n1r1")));
    world.settle();
    assert_eq!((world.record().step, world.stable.as_deref()), (Step::Done, Some("n2r1")));
}

#[test]
fn a_bad_target_is_not_proven_while_all_node_pods_are_made_again() {
    let mut world = World::new(&[2, 1]);
    world.bad.insert("n5".to_owned());
    world.change(revision(5, 1));
    world.pods.retain(|pod| pod.role != Role::Node);
    world.run(10);
    for (zone, node) in [("a", "a000"), ("a", "a001"), ("b", "b000")] {
        world.add_pod(Role::Node, zone, Some(node));
        world.run(1);
    }
    world.settle();
    assert_eq!((world.record().step, world.stable.as_deref()), (Step::Stopped, Some("n1r1")));
}

#[test]
fn nodes_get_nothing_and_nothing_is_proven_while_all_resolvers_are_made_again() {
    for desired in [revision(2, 2), revision(1, 2)] {
        let mut world = World::new(&[2]);
        world.change(desired);
        world.pods.retain(|pod| pod.role == Role::Node);
        world.run(200);
        assert_eq!((world.record().step, moved(&world).len()), (Step::Resolver, 0));
        assert_eq!((world.nodes_on("n1").len(), world.stable.as_deref()), (2, Some("n1r1")));
        assert!(sentence(&mut world).ends_with("waits for a resolver that is there and answers."));
        (0..2).for_each(|_| world.add_pod(Role::Resolver, "a", None));
        world.run_until("one resolver goes first", |world| moved(world).len() == 1);
        world.settle();
        assert_eq!(world.record().step, Step::Done);
    }
}

#[test]
fn a_tier_without_any_node_ends_its_roll_out() {
    let mut world = World::new(&[1]);
    world.nodes.clear();
    world.pods.retain(|pod| pod.role != Role::Node);
    world.change(revision(2, 1));
    world.settle();
    assert_eq!((world.record().step, world.stable.as_deref()), (Step::Done, Some("n2r1")));
    // Its last node goes while its pod is the first: what that has shown is not known.
    world.add_node("a", "a000");
    world.settle();
    world.change(revision(3, 1));
    world.run_until("the canary runs it", |world| world.nodes_on("n3") == ["a000"]);
    world.nodes.clear();
    delete(&mut world, "a000");
    world.run(100);
    assert_eq!((world.record().step, world.stable.as_deref()), (Step::Canary, Some("n2r1")));
    world.add_node("a", "a001");
    world.settle();
    assert_eq!((world.record().step, world.stable.as_deref()), (Step::Done, Some("n3r1")));
}

#[test]
fn nodes_go_on_after_a_while_where_no_resolver_can_be_made() {
    let mut world = World::new(&[2]);
    world.pods.retain(|pod| pod.role == Role::Node);
    world.change(revision(2, 2));
    world.run_until("a resolver is waited for", |world| world.record().step == Step::Resolver);
    world.run(50);
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Resolver, 0));
    world.settle();
    assert_eq!((world.record().step, world.stable.as_deref()), (Step::Done, Some("n2r2")));
}

#[test]
fn the_first_nodes_of_a_zone_that_was_away_are_as_few_as_canaries() {
    let mut world = World::new(&[4, 8]);
    world.settings.wave_size = WaveSize::Nodes(5);
    let of_b: Vec<String> = (0..8).map(|number| format!("b{number:03}")).collect();
    of_b.iter().for_each(|node| world.set_away(node, true));
    world.change(revision(2, 1));
    world.run_until("a wave begins", |world| world.record().step == Step::Wave);
    of_b.iter().for_each(|node| world.set_away(node, false));
    let mut waves = Vec::new();
    for _ in 0..500 {
        world.run(1);
        let wave = world.record().moved.len();
        if world.record().step == Step::Wave && waves.last() != Some(&wave) {
            waves.push(wave);
        }
    }
    assert_eq!(waves, [3, 1, 5, 2]);
}

#[test]
fn a_node_that_returns_in_its_step_is_watched_for_the_whole_soak() {
    let mut world = World::new(&[2, 1]);
    world.settings.soak = Duration::from_seconds(30);
    world.is_past_known = false;
    world.change(revision(2, 1));
    world.run_until("canaries are chosen", |world| world.record().step == Step::Canary);
    world.set_away("b000", true);
    world.is_past_known = true;
    world.run_until("the other one is watched", |world| world.record().watched_since.is_some());
    world.run(25);
    world.set_away("b000", false);
    world.run(20);
    assert_eq!((world.record().step, world.nodes_on("n2")), (Step::Canary, vec!["a000", "b000"]));
    world.run(25);
    assert_ne!(world.record().step, Step::Canary);
}

#[test]
fn pods_that_nobody_can_poll_are_no_reason_to_reject_a_target() {
    let mut world = World::new(&[4, 4]);
    world.change(revision(2, 1));
    world.run_until("canaries are told", |world| world.nodes_on("n2").len() == 2);
    for pod in &mut world.pods {
        stop_answering(pod, &mut world.mute);
    }
    world.run(120);
    assert_eq!(world.record().step, Step::Canary);
    for pod in &mut world.pods {
        pod.is_unanswered = false;
        pod.in_force.clone_from(&pod.asked);
    }
    world.mute.clear();
    world.settle();
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Done, 8));
}

#[test]
fn canaries_that_alone_do_not_answer_are_not_in_force() {
    let mut world = World::new(&[4, 4]);
    world.change(revision(2, 1));
    world.run_until("canaries are told", |world| world.nodes_on("n2").len() == 2);
    for pod in world.pods.iter_mut().filter(|pod| ["a000", "b000"].contains(&pod.key())) {
        stop_answering(pod, &mut world.mute);
    }
    world.run_until("it is rejected", |world| world.record().step == Step::RollingBack);
}

#[test]
fn the_newest_wave_goes_back_first_when_the_spec_goes_back() {
    let mut world = World::new(&[8, 2]);
    world.settings.wave_size = WaveSize::Nodes(2);
    world.change(revision(2, 1));
    world.run_until("the third wave runs it", |world| {
        world.record().moved.contains("a003") && world.pod("a004").is_running("n2r1")
    });
    world.change(revision(1, 1));
    let plan = world.pass(usize::MAX);
    assert_eq!(plan.record.step, Step::RollingBack);
    let first: Vec<&str> = plan.asks.iter().take(2).map(|ask| ask.pod.as_str()).collect();
    assert_eq!(first, [world.pod("a004").name.as_str(), world.pod("a003").name.as_str()]);
    world.settle();
    assert_eq!((world.record().step, world.nodes_on("n1").len()), (Step::Done, 10));
}

#[test]
fn nobody_waits_for_a_clock_that_is_ahead() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("the canary is watched", |world| world.record().watched_since.is_some());
    let ahead = |time: &Time| Time(time.0 + SignedDuration::from_hours(24));
    let record = world.record.as_mut().unwrap();
    record.since = ahead(&record.since);
    record.watched_since = record.watched_since.as_ref().map(ahead);
    for pod in &mut world.pods {
        pod.told = pod.told.map(|told| told + SignedDuration::from_hours(24));
        pod.in_force = Some("n1r1".to_owned());
    }
    world.settle();
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Done, 4));
}

#[test]
fn a_pod_of_which_nothing_is_known_is_told_world_while_something_moves() {
    let world = World::new(&[1]);
    let pod = RolloutPod { in_force: None, told: None, tellings: 1, ..world.pod("a000").clone() };
    assert_eq!([true, false].map(|is_moving| pod.is_due_again(is_moving, pod.created)), [true, false]);
}

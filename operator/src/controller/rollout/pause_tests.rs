//! Pauses of a roll-out: nothing moves, and pods that are made again get the proven state.

use dnstier_crds::conditions::Reason as RolloutReason;

use super::record::Step;
use super::simulation::{World, revision};
use super::steps::soak;
use super::tests::reason;

#[test]
fn a_pause_holds_everything_but_new_pods() {
    let mut world = World::new(&[6]);
    world.change(revision(2, 1));
    world.run_until("the canary runs it", |world| world.nodes_on("n2").len() == 1);
    world.settings.paused = true;
    world.bad.insert("n2".to_owned());
    world.change(revision(3, 1));
    world.add_node("a", "a-new");
    world.run(120);
    assert_eq!((world.nodes_on("n2"), world.record().step), (vec!["a000"], Step::Canary), "neither forward nor back");
    assert_eq!(world.pod("a-new").asked.as_deref(), Some("n1r1"));
    let (reason, sentence) = reason(&mut world);
    assert_eq!(reason, RolloutReason::Paused);
    assert!(sentence.contains("It is bad."), "judging goes on and is shown: {sentence}");
    world.settings.paused = false;
    world.settle();
    assert_eq!(world.nodes_on("n3").len(), 7);
}

/// Pauses a tier, makes the pod of a place again, and lets time pass.
fn pause_and_recreate(world: &mut World, key: &str) {
    world.settings.paused = true;
    let index = world.pods.iter().position(|pod| pod.key() == key).unwrap();
    world.recreate(index);
    world.run(30);
}

#[test]
fn a_pod_of_a_wave_that_is_made_again_in_a_pause_gets_the_proven_state() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("a wave runs it", |world| world.nodes_on("n2") == ["a000", "a001"]);
    assert_eq!(world.record().step, Step::Wave);
    pause_and_recreate(&mut world, "a001");
    assert_eq!((world.nodes_on("n2"), world.record().step), (vec!["a000"], Step::Wave));
    pause_and_recreate(&mut world, "a000");
    assert_eq!(world.nodes_on("n2"), ["a000"], "a node that has gone first keeps it");
    world.settings.paused = false;
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 4);
}

#[test]
fn a_wave_that_is_made_again_in_a_long_pause_is_watched_anew() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    let is_watched = |world: &World| world.record().step == Step::Wave && world.record().watched_since.is_some();
    world.run_until("a wave is watched", is_watched);
    pause_and_recreate(&mut world, "a001");
    let soak = soak(&world.settings);
    world.run(usize::try_from(soak.as_secs()).unwrap() * 12);
    world.settings.paused = false;
    world.run_until("the pod runs it again", |world| world.nodes_on("n2") == ["a000", "a001"]);
    let since = world.now;
    world.run_until("the next wave begins", |world| !world.record().moved.contains("a001"));
    assert!(world.now.duration_since(since) >= soak, "{:?}", world.now.duration_since(since));
}

#[test]
fn a_pod_with_a_superseded_target_that_is_made_again_in_a_pause_gets_the_proven_state() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("a wave runs it", |world| world.nodes_on("n2") == ["a000", "a001"]);
    world.change(revision(3, 1));
    world.run_until("the moved ones have the new target", |world| world.nodes_on("n3") == ["a000", "a001"]);
    assert_eq!(world.record().step, Step::Moved);
    pause_and_recreate(&mut world, "a000");
    assert_eq!((world.nodes_on("n3"), world.pod("a000").asked.as_deref()), (vec!["a001"], Some("n1r1")));
    world.settings.paused = false;
    world.settle();
    assert_eq!(world.nodes_on("n3").len(), 4);
}

#[test]
fn a_resolver_of_a_step_that_was_not_told_yet_gets_the_proven_state_in_a_pause() {
    let mut world = World::new(&[2]);
    world.change(revision(1, 2));
    world.run_until("the other resolver runs it", |world| {
        let mut moved = world.record().moved.iter();
        world.record().step == Step::ResolverZone && moved.all(|key| world.pod(key).is_running("n1r2"))
    });
    world.settings.paused = true;
    let key = world.record().moved.first().unwrap().clone();
    let pod = world.pods.iter_mut().find(|pod| pod.key() == key).unwrap();
    (pod.asked, pod.in_force, pod.told) = (None, None, None);
    world.run(30);
    assert_eq!((world.record().step, world.pod(&key).asked.as_deref()), (Step::ResolverZone, Some("n1r1")));
    world.settings.paused = false;
    world.settle();
    assert!(world.pod(&key).is_running("n1r2"));
}

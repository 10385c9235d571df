//! Promises of a roll-out, each in a small tier.

use std::collections::BTreeSet;

use dnstier_crds::conditions::Reason as RolloutReason;
use dnstier_crds::v1alpha1::{Duration, WaveSize};

use super::plan::RolledOut;
use super::pods::{MAX_TELLINGS, Role};
use super::record::Step;
use super::simulation::{World, revision};
use crate::controller::judge::verdict::FailReason;

/// Runs a tier until its roll-out has ended and returns its steps, each with its zone and pods.
fn steps(world: &mut World) -> Vec<(Step, String, Vec<String>)> {
    let mut steps = Vec::new();
    for _ in 0..2_000 {
        world.run(1);
        let record = world.record();
        let moved: Vec<String> = record.moved.iter().cloned().collect();
        let step = (record.step, record.zone.clone().unwrap_or_default(), moved);
        if steps.last() != Some(&step) {
            steps.push(step);
        }
        if matches!(record.step, Step::Done | Step::Stopped) && record.target.id == world.desired.id {
            return steps;
        }
    }
    panic!("the roll-out does not end: {:#?}", world.record);
}

fn nodes(steps: &[(Step, String, Vec<String>)], step: Step) -> Vec<Vec<String>> {
    steps.iter().filter(|(one, ..)| *one == step).map(|(_, _, moved)| moved.clone()).collect()
}

/// Returns the condition `RolledOut`.
pub(super) fn rolled_out(world: &mut World) -> RolledOut {
    world.pass(0).rolled_out
}

/// Returns the reason and the sentence of the condition `RolledOut`.
pub(super) fn reason(world: &mut World) -> (RolloutReason, String) {
    let rolled_out = rolled_out(world);
    (rolled_out.reason, rolled_out.sentence)
}

#[test]
fn the_first_revision_goes_to_all_pods_at_once_and_is_proven_when_all_have_it() {
    let mut world = World::new(&[5, 3]);
    world.pods.iter_mut().for_each(|pod| (pod.asked, pod.in_force, pod.told) = (None, None, None));
    (world.record, world.stable, world.announced) = (None, None, None);
    let plan = world.pass(usize::MAX);
    assert_eq!((plan.asks.len(), plan.record.step), (12, Step::First));
    assert_eq!(plan.record.proven, None);
    world.change(revision(2, 2));
    assert_eq!(world.pass(usize::MAX).asks.len(), 12, "another first revision goes to all of them too");
    world.settle();
    assert_eq!(world.record().proven.as_ref().unwrap().id, "n2r2");
    assert_eq!(reason(&mut world).0, RolloutReason::RolledOut);
}

#[test]
fn resolvers_go_first_one_of_a_zone_then_its_others_zone_by_zone() {
    let mut world = World::new(&[2, 1]);
    world.change(revision(2, 2));
    let steps = steps(&mut world);
    let order: Vec<(Step, &str, usize)> =
        steps.iter().map(|(step, zone, moved)| (*step, zone.as_str(), moved.len())).collect();
    let expected = [
        (Step::Start, "", 0),
        (Step::Resolver, "a", 1),
        (Step::ResolverZone, "a", 1),
        (Step::Resolver, "b", 1),
        (Step::ResolverZone, "b", 1),
        (Step::Canary, "", 2),
        (Step::Wave, "a", 1),
        (Step::Done, "", 0),
    ];
    assert_eq!(order, expected);
}

#[test]
fn the_busiest_ready_nodes_of_each_zone_go_first_then_by_name() {
    let mut world = World::new(&[4, 4]);
    world.settings.canaries_per_zone = 2;
    for pod in &mut world.pods {
        match pod.key() {
            "a002" => pod.responses = 7,
            "b003" => (pod.responses, pod.ready) = (9, false),
            _ => {}
        }
    }
    world.change(revision(2, 1));
    world.run_until("canaries are chosen", |world| world.record().step == Step::Canary);
    assert_eq!(world.record().moved.iter().collect::<Vec<_>>(), ["a000", "a002", "b000", "b001"]);
}

#[test]
fn waves_go_through_the_smallest_zone_first_and_by_name_in_parts_that_are_rounded_up() {
    let mut world = World::new(&[11, 3]);
    world.settings.wave_size = WaveSize::Percent(10);
    world.change(revision(2, 1));
    let waves = nodes(&steps(&mut world), Step::Wave);
    assert_eq!(waves[..4], [vec!["b001"], vec!["b002"], vec!["a001", "a002"], vec!["a003", "a004"]]);
    assert_eq!(waves.len(), 7);
    let mut world = World::new(&[11, 3]);
    world.settings.wave_size = WaveSize::Nodes(6);
    world.change(revision(2, 1));
    let sizes: Vec<usize> = nodes(&steps(&mut world), Step::Wave).iter().map(Vec::len).collect();
    assert_eq!(sizes, [2, 6, 4]);
}

#[test]
fn who_does_not_read_what_changed_is_not_told() {
    let mut world = World::new(&[2]);
    world.change(revision(1, 2));
    let steps = steps(&mut world);
    assert!(nodes(&steps, Step::Canary).is_empty() && nodes(&steps, Step::Wave).is_empty(), "{steps:?}");
    world.settle();
    let asked =
        |world: &World, role| world.pods.iter().find(|pod| pod.role == role).and_then(|pod| pod.asked.clone()).unwrap();
    assert_eq!((asked(&world, Role::Node), asked(&world, Role::Resolver)), ("n1r1".into(), "n1r2".into()));
    world.change(revision(2, 2));
    world.settle();
    assert_eq!((asked(&world, Role::Node), asked(&world, Role::Resolver)), ("n2r2".into(), "n1r2".into()));
    assert_eq!(world.stable.as_deref(), Some("n2r2"));
    world.add_node("a", "a-new");
    world.settle();
    assert_eq!(world.pod("a-new").asked.as_deref(), Some("n2r2"));
}

#[test]
fn stable_becomes_the_target_with_the_last_step_and_not_before() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("the last step ends", |world| {
        let is_over =
            matches!(world.record().step, Step::Finish | Step::Done) && world.desired.id == world.record().target.id;
        assert_eq!(world.stable.as_deref() == Some("n2r1"), is_over);
        is_over
    });
    assert_eq!(world.nodes_on("n2").len(), 4);
}

#[test]
fn nobody_is_told_before_the_status_says_that_it_is_not_rolled_out() {
    let mut world = World::new(&[2]);
    world.change(revision(2, 1));
    for writes in [1, 0, 0, 0] {
        // Record and status are two writes; the second one fails.
        let plan = world.pass(writes);
        assert_eq!((plan.record.step, plan.asks), (Step::Start, vec![]));
        assert_ne!(plan.rolled_out.reason, RolloutReason::RolledOut);
        world.tick();
    }
    world.pass(usize::MAX);
    assert_eq!(world.pass(usize::MAX).record.step, Step::Canary);
}

#[test]
fn nobody_else_is_told_while_the_status_says_something_else_again() {
    let mut world = World::new(&[2]);
    world.change(revision(2, 1));
    world.run_until("canaries are chosen", |world| world.announced.is_some());
    world.announced = None;
    let record = world.pass(0).record;
    assert_eq!(record.step, Step::Start);
    world.announced = Some("n2r1".to_owned());
    world.pass(1);
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Canary, 0));
    // A leader of before has written its own status.
    world.announced = None;
    assert_eq!(world.pass(usize::MAX).asks, []);
    assert_eq!(world.pass(usize::MAX).asks.len(), 1, "the status is right again");
}

#[test]
fn a_new_leader_writes_the_record_before_it_tells_anybody() {
    let mut world = World::new(&[2]);
    assert!(!world.pass(usize::MAX).is_changed, "a leader that goes on writes nothing");
    world.add_node("a", "a-new");
    world.writer = "operator-1";
    let plan = world.pass(0);
    assert!(plan.is_changed && !plan.asks.is_empty(), "the write is refused where the record has another version");
    assert_eq!((plan.record.step, plan.record.writer.as_str()), (Step::Done, "operator-1"));
    assert_eq!(world.pod("a-new").asked, None);
    world.pass(usize::MAX);
    assert!(!world.pass(usize::MAX).is_changed, "once in a term");
}

#[test]
fn a_step_is_watched_for_the_soak_from_its_last_pod_on() {
    let mut world = World::new(&[2, 2]);
    world.settings.soak = Duration::from_seconds(60);
    let late = world.pod("b000").name.clone();
    world.deaf.insert(late);
    world.change(revision(2, 1));
    world.run(8);
    assert_eq!((world.record().step, &world.record().watched_since), (Step::Canary, &None));
    world.deaf.clear();
    world.run_until("it is watched", |world| world.record().watched_since.is_some());
    world.run(58);
    assert_eq!(world.record().step, Step::Canary);
    world.run(4);
    assert_eq!(world.record().step, Step::Wave);
}

#[test]
fn nobody_is_told_before_it_is_known_how_the_pods_of_the_step_were() {
    let mut world = World::new(&[4]);
    world.is_past_known = false;
    world.change(revision(2, 1));
    world.run_until("the canary is chosen", |world| world.record().step == Step::Canary);
    world.run(20);
    assert_eq!(world.nodes_on("n2").len(), 0);
    world.is_past_known = true;
    world.run(1);
    assert_eq!(world.nodes_on("n2"), ["a000"]);
}

#[test]
fn a_bad_target_goes_back_and_no_untouched_pod_ever_sees_it() {
    let mut world = World::new(&[6, 6]);
    world.bad.insert("n5".to_owned());
    world.change(revision(5, 1));
    world.settle();
    assert_eq!(world.record().step, Step::Stopped);
    let seen: Vec<&String> = world.seen.iter().filter(|(_, seen)| seen.contains("n5")).map(|(key, _)| key).collect();
    assert_eq!(seen, ["a000", "b000"], "one node of each zone");
    assert_eq!(reason(&mut world), (RolloutReason::JudgedWorse, "It is bad.".to_owned()));
    assert!(rolled_out(&mut world).is_stopped() && world.stable.as_deref() == Some("n1r1"));
}

#[test]
fn a_rejected_target_is_tried_again_when_somebody_asks_for_it_and_not_before() {
    let mut world = World::new(&[2]);
    world.bad.insert("n5".to_owned());
    world.change(revision(5, 1));
    world.settle();
    world.bad.clear();
    world.run(300);
    assert_eq!(world.record().step, Step::Stopped);
    world.change(revision(1, 1));
    world.settle();
    assert_eq!(reason(&mut world).0, RolloutReason::RolledOut, "the spec is back too");
    world.change(revision(5, 1));
    world.run(300);
    assert_eq!((world.record().step, world.nodes_on("n5").len()), (Step::Stopped, 0));
    world.retry = Some("1".to_owned());
    world.run_until("it is tried again", |world| world.record().step != Step::Stopped);
    world.settle();
    assert_eq!((world.record().step, world.nodes_on("n5").len()), (Step::Done, 2));
}

#[test]
fn the_newest_wave_goes_back_first_and_of_the_others_the_newest() {
    let mut world = World::new(&[8, 2]);
    world.settings.wave_size = WaveSize::Nodes(2);
    world.change(revision(5, 1));
    let third = |world: &World| world.record().moved.contains("a003");
    world.run_until("the third wave runs it", |world| third(world) && world.pod("a004").is_running("n5r1"));
    world.bad.insert("n5".to_owned());
    let plan = world.pass(usize::MAX);
    assert_eq!(plan.record.step, Step::RollingBack);
    let order: Vec<String> = plan.asks.iter().map(|ask| ask.pod.clone()).collect();
    let keys = ["a004", "a003", "a002", "a001", "b001", "a000", "b000"];
    let names: Vec<String> = keys.iter().map(|key| world.pod(key).name.clone()).collect();
    assert_eq!(order, names);
}

#[test]
fn a_wave_of_five_hundred_goes_back_within_a_minute() {
    let mut world = World::new(&[1_200]);
    world.settings.wave_size = WaveSize::Nodes(500);
    world.has_pauses = true;
    world.change(revision(5, 1));
    world.run_until("the second wave runs it", |world| {
        let moved = &world.record().moved;
        moved.contains("a600") && world.record().watched_since.is_some()
    });
    let wave = world.record().moved.clone();
    assert_eq!(wave.len(), 500);
    world.bad.insert("n5".to_owned());
    world.run(60);
    let is_back = |key: &String| world.pod(key).is_running("n1r1");
    assert!(wave.iter().all(is_back), "{} are back", wave.iter().filter(|key| is_back(key)).count());
}

#[test]
fn a_new_spec_supersedes_and_goes_to_the_moved_pods_first() {
    let mut world = World::new(&[6]);
    world.change(revision(2, 1));
    world.run_until("a wave runs it", |world| world.nodes_on("n2").len() == 2);
    world.change(revision(3, 1));
    world.run_until("the moved ones have the new target", |world| world.record().step == Step::Moved);
    assert_eq!((world.nodes_on("n3"), world.nodes_on("n2").len()), (vec!["a000", "a001"], 0));
    world.settle();
    assert_eq!(world.nodes_on("n3").len(), 6);
    let saw_old = world.seen.values().filter(|seen| seen.contains("n2")).count();
    assert_eq!(saw_old, 2, "untouched pods never see the superseded target");
}

#[test]
fn a_canary_that_is_made_again_stays_one_and_any_other_new_pod_gets_the_proven_state() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("the canary runs it", |world| world.nodes_on("n2") == ["a000"]);
    for key in ["a000", "a001"] {
        let index = world.pods.iter().position(|pod| pod.key() == key).unwrap();
        world.recreate(index);
    }
    world.run(2);
    assert_eq!(world.nodes_on("n2"), ["a000"]);
    assert_eq!(world.pod("a001").asked.as_deref(), Some("n1r1"));
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 4);
}

#[test]
fn a_pod_of_a_step_that_is_made_again_is_watched_for_the_whole_soak() {
    let mut world = World::new(&[4]);
    world.settings.soak = Duration::from_seconds(20);
    world.change(revision(2, 1));
    world.run_until("the canary is watched", |world| world.record().watched_since.is_some());
    world.run(15);
    let index = world.pods.iter().position(|pod| pod.key() == "a000").unwrap();
    world.recreate(index);
    let made = world.now;
    world.run_until("the wave", |world| world.record().step == Step::Wave);
    let watched = world.now.duration_since(made).as_secs();
    assert!((20..=23).contains(&watched), "{watched} s");
    // Where pods are made again all the time, a step ends all the same.
    for _ in 0..400 {
        if let (Step::Wave, Some(key)) = (world.record().step, world.record().moved.first().cloned()) {
            let index = world.pods.iter().position(|pod| pod.key() == key).unwrap();
            if world.now.as_second() % 10 == 0 {
                world.recreate(index);
            }
        }
        world.run(1);
    }
    assert_ne!(world.record().moved.first().map(String::as_str), Some("a001"));
}

#[test]
fn nodes_whose_pods_are_made_again_get_the_target_in_waves_and_those_that_joined_hold_nothing_up() {
    let mut world = World::new(&[4, 3]);
    world.settings.wave_size = WaveSize::Percent(100);
    world.change(revision(2, 1));
    world.run_until("the first nodes run it", |world| world.nodes_on("n2").len() == 2);
    for key in world.nodes.clone() {
        let index = world.pods.iter().position(|pod| pod.key() == key).unwrap();
        world.recreate(index);
    }
    let waves = nodes(&steps(&mut world), Step::Wave);
    assert_eq!(waves, [vec!["b001", "b002"], vec!["a001", "a002", "a003"]]);
    world.settings.wave_size = WaveSize::Nodes(1);
    world.change(revision(3, 1));
    world.run_until("the first nodes run it", |world| world.nodes_on("n3").len() == 2);
    world.add_node("a", "a9");
    assert_eq!(nodes(&steps(&mut world), Step::Wave).concat(), ["b001", "b002", "a001", "a002", "a003"]);
    assert_eq!(world.nodes_on("n3").len(), 8);
}

#[test]
fn a_new_leader_neither_gives_up_nor_tells_again_pods_that_it_has_not_polled_yet() {
    let mut world = World::new(&[4]);
    world.settings.soak = Duration::from_seconds(60);
    world.deaf = BTreeSet::from([world.pod("a000").name.clone()]);
    world.change(revision(2, 1));
    world.run_until("it is told as often as may be", |world| world.pod("a000").tellings == MAX_TELLINGS);
    world.deaf.clear();
    world.run_until("it is watched", |world| world.record().watched_since.is_some());
    world.run(30);
    world.set_unpolled(true);
    for _ in 0..20 {
        assert_eq!(world.pass(usize::MAX).asks, []);
        world.tick();
    }
    assert_eq!((world.record().step, &world.record().set_aside), (Step::Canary, &BTreeSet::new()));
    assert_eq!(world.nodes_on("n2"), ["a000"]);
    world.set_unpolled(false);
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 4);
}

#[test]
fn a_tier_is_proven_although_a_pod_says_nothing() {
    let mut world = World::new(&[4]);
    world.record = None;
    world.stable = None;
    for pod in &mut world.pods {
        (pod.asked, pod.in_force, pod.told) = (None, None, None);
    }
    let mute = world.pods.iter().find(|pod| pod.role == Role::Node).unwrap().name.clone();
    world.mute = BTreeSet::from([mute]);
    world.run(20);
    assert_eq!(world.record().step, Step::First, "it is told again first");
    world.run_until("it is proven", |world| world.record().step == Step::Done);
}

#[test]
fn a_pod_that_does_not_see_its_revision_is_told_three_times_more_and_replaced_once() {
    let mut world = World::new(&[4]);
    for key in ["a000", "a001"] {
        world.deaf.insert(world.pod(key).name.clone());
    }
    world.change(revision(2, 1));
    world.run_until("it is told as often as may be", |world| world.pod("a000").tellings == MAX_TELLINGS);
    let since = world.record().since.0;
    world.run_until("another one takes its place", |world| world.nodes_on("n2") == ["a001"]);
    let seconds = world.now.duration_since(since).as_secs();
    assert!((30..=33).contains(&seconds), "after {seconds} s");
    world.run_until("a second one is too much", |world| world.record().step == Step::Stopped);
    let (reason, sentence) = reason(&mut world);
    assert_eq!(reason, RolloutReason::NotInForce);
    assert!(sentence.contains("a001"), "{sentence}");
}

#[test]
fn half_a_wave_that_does_not_listen_stops_the_roll_out_and_less_does_not() {
    for (deaf, end) in [(1, Step::Done), (2, Step::Stopped)] {
        let mut world = World::new(&[5]);
        world.settings.wave_size = WaveSize::Nodes(4);
        world.change(revision(2, 1));
        world.run_until("the wave begins", |world| world.record().step == Step::Wave);
        for key in ["a001", "a002"].iter().take(deaf) {
            let pod = world.pods.iter_mut().find(|pod| pod.key() == *key).unwrap();
            (pod.in_force, pod.told) = (Some("n1r1".to_owned()), None);
            let name = pod.name.clone();
            world.deaf.insert(name);
        }
        world.run_until("it ends", |world| matches!(world.record().step, Step::Done | Step::Stopped));
        assert_eq!(world.record().step, end, "{deaf} of 4");
    }
}

#[test]
fn nodes_that_are_away_are_skipped_and_follow_when_they_return() {
    let mut world = World::new(&[3, 2]);
    ["a000", "b000", "b001"].iter().for_each(|node| world.set_away(node, true));
    for number in 2..5 {
        world.change(revision(number, 1));
        world.settle();
        assert_eq!(world.record().step, Step::Done, "three revisions pass by");
    }
    assert_eq!(world.pod("a000").in_force.as_deref(), Some("n1r1"));
    ["a000", "b000", "b001"].iter().for_each(|node| world.set_away(node, false));
    world.settle();
    assert_eq!(world.nodes_on("n4").len(), 5);
}

#[test]
fn a_canary_that_goes_away_makes_room_for_another_and_goes_back_when_it_returns() {
    let mut world = World::new(&[4]);
    world.settings.soak = Duration::from_seconds(60);
    world.change(revision(2, 1));
    world.run_until("the canary runs it", |world| world.pod("a000").is_running("n2r1"));
    world.set_away("a000", true);
    world.run(3);
    assert_eq!(world.nodes_on("n2"), ["a001"]);
    world.set_away("a000", false);
    world.run(3);
    assert!(world.pod("a000").is_running("n1r1"));
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 4);
}

#[test]
fn a_lost_record_is_made_again_from_stable_and_from_what_the_pods_are_asked() {
    let mut world = World::new(&[6]);
    world.record = None;
    assert_eq!(world.pass(usize::MAX).record.step, Step::Done, "nothing is on its way");
    world.change(revision(2, 1));
    world.run_until("a wave runs it", |world| world.nodes_on("n2").len() == 2);
    world.record = None;
    world.run(2);
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Moved, 2), "they are watched once more");
    assert_eq!(world.record().proven.as_ref().unwrap().id, "n1r1");
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 6);
}

#[test]
fn controls_that_fail_hold_a_roll_out_and_never_take_it_back() {
    let mut world = World::new(&[4]);
    world.are_controls_failing = true;
    world.change(revision(2, 1));
    world.run(600);
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Canary, 1));
    assert_eq!(reason(&mut world).0, RolloutReason::ControlsFailing);
    world.are_controls_failing = false;
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 4);
}

#[test]
fn the_status_counts_those_who_read_what_changed() {
    let mut world = World::new(&[3, 2]);
    world.change(revision(2, 1));
    world.run_until("the canaries have it", |world| world.nodes_on("n2").len() == 2);
    let status = world.pass(0).status;
    assert_eq!((status.step.as_str(), status.target.as_str(), status.moved, status.total), ("Canary", "n2r1", 2, 5));
}

#[test]
fn every_failure_that_the_judge_finds_is_a_reason_of_the_condition() {
    let failures =
        [FailReason::JudgedWorse, FailReason::RevisionRefused, FailReason::PodCrashed, FailReason::WrongAnswers];
    for failure in failures {
        let reason = RolloutReason::ALL.iter().find(|reason| reason.name() == failure.to_string());
        let rolled_out = RolledOut { reason: *reason.unwrap(), sentence: String::new() };
        assert!(rolled_out.is_stopped(), "{failure:?}");
    }
}

#[test]
fn a_revision_stays_in_the_config_map_while_a_pod_may_be_told_to_run_it() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("the canary runs it", |world| world.nodes_on("n2").len() == 1);
    world.change(revision(3, 1));
    world.run(1);
    let names: BTreeSet<&String> = world.record().named_revisions().collect();
    assert_eq!(Vec::from_iter(names), ["n1r1", "n2r1", "n3r1"]);
}

#[test]
fn targets_that_no_pod_was_told_leave_nothing_in_the_config_map() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("the canary runs it", |world| world.nodes_on("n2").len() == 1);
    world.address_in_use = Some("1 node was asked.".to_owned());
    for number in 3..30 {
        world.change(revision(number, 1));
        world.run(2);
    }
    assert_eq!(world.record().step, Step::Start);
    let names: BTreeSet<&String> = world.record().named_revisions().collect();
    assert_eq!(Vec::from_iter(names), ["n1r1", "n29r1", "n2r1"]);
    world.address_in_use = None;
    world.run_until("the canary has the newest one", |world| world.record().step == Step::Moved);
    world.settle();
    assert_eq!(world.nodes_on("n29").len(), 4);
}

#[test]
fn a_roll_back_ends_before_another_target_begins() {
    let mut world = World::new(&[4]);
    world.bad.insert("n5".to_owned());
    world.change(revision(5, 1));
    world.run_until("the canary runs it", |world| world.pod("a000").is_running("n5r1"));
    let name = world.pod("a000").name.clone();
    world.deaf.insert(name);
    world.run_until("it goes back", |world| world.record().step == Step::RollingBack);
    world.change(revision(3, 1));
    for _ in 0..10 {
        world.run(1);
        assert_eq!((world.record().step, world.nodes_on("n3").len()), (Step::RollingBack, 0));
        assert!(world.pod("a000").is_asked("n1r1"));
    }
    world.deaf.clear();
    world.settle();
    assert_eq!(world.nodes_on("n3").len(), 4);
}

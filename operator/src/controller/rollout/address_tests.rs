//! Addresses that a target gives up and that pods ask.

use dnstier_crds::conditions::Reason as RolloutReason;

use super::record::Step;
use super::simulation::{World, revision};
use super::tests::{reason, rolled_out};

#[test]
fn an_address_that_is_asked_is_given_up_only_when_somebody_confirms_that_target() {
    let mut world = World::new(&[2]);
    world.address_in_use = Some("2 nodes were asked at 169.254.20.10.".to_owned());
    world.change(revision(2, 1));
    world.confirm = Some("n9r9".to_owned());
    world.run(120);
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Start, 0));
    let (reason, sentence) = reason(&mut world);
    assert_eq!(reason, RolloutReason::AddressInUse);
    let rolled_out = rolled_out(&mut world);
    assert!(rolled_out.is_stalled() && !rolled_out.is_stopped());
    assert!(sentence.contains("169.254.20.10") && sentence.contains("confirm-rollout=n2r1"), "{sentence}");
    world.confirm = Some("n2r1".to_owned());
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 2);
}

#[test]
fn an_address_of_which_nodes_have_not_told_yet_whether_it_is_asked_waits_for_them_or_for_the_confirmation() {
    for is_confirmed in [false, true] {
        let mut world = World::new(&[2]);
        world.address_unknown = Some("1 node has not told.".to_owned());
        world.change(revision(2, 1));
        world.run(120);
        assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Start, 0));
        let (reason, sentence) = reason(&mut world);
        assert_eq!(reason, RolloutReason::AddressInUse);
        let end = "Until then nobody is told, unless you annotate the DnsTier with dnstier.io/confirm-rollout=n2r1";
        assert_eq!(sentence, format!("1 node has not told. {end} to go on."));
        if is_confirmed {
            world.confirm = Some("n2r1".to_owned());
        } else {
            world.address_unknown = None;
        }
        world.settle();
        assert_eq!(world.nodes_on("n2").len(), 2);
    }
}

#[test]
fn no_further_step_begins_while_pods_ask_an_address_that_the_target_gives_up() {
    let mut world = World::new(&[4]);
    world.change(revision(2, 1));
    world.run_until("the canary is watched", |world| world.record().watched_since.is_some());
    world.address_in_use = Some("1 node was asked at 169.254.20.10.".to_owned());
    assert_eq!(reason(&mut world).0, RolloutReason::Canary, "the step goes on");
    world.run(120);
    assert_eq!((world.record().step, world.nodes_on("n2")), (Step::Canary, vec!["a000"]));
    let (in_use, sentence) = reason(&mut world);
    assert_eq!(in_use, RolloutReason::AddressInUse);
    let expected = "1 node was asked at 169.254.20.10. Nobody else is told before you annotate the DnsTier with \
                    dnstier.io/confirm-rollout=n2r1 to go on.";
    assert_eq!(sentence, expected);
    assert!(rolled_out(&mut world).is_stalled());
    world.address_in_use = None;
    world.run_until("a wave runs it", |world| world.nodes_on("n2") == ["a000", "a001"]);
    world.address_unknown = Some("1 node has not told.".to_owned());
    world.run(120);
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Wave, 2));
    assert!(reason(&mut world).1.starts_with("1 node has not told. Until then nobody else is told, unless"));
    world.confirm = Some("n2r1".to_owned());
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 4);
}

#[test]
fn a_target_goes_back_although_pods_ask_an_address_that_it_gives_up() {
    for is_bad in [true, false] {
        let mut world = World::new(&[4]);
        world.change(revision(2, 1));
        world.run_until("a wave is watched", |world| {
            world.record().step == Step::Wave && world.record().watched_since.is_some()
        });
        world.address_in_use = Some("1 node was asked.".to_owned());
        world.run(30);
        assert_eq!(world.nodes_on("n2").len(), 2);
        if is_bad {
            world.bad.insert("n2".to_owned());
        } else {
            world.change(revision(1, 1));
        }
        world.settle();
        let step = if is_bad { Step::Stopped } else { Step::Done };
        assert_eq!((world.record().step, world.nodes_on("n1").len()), (step, 4));
    }
}

#[test]
fn no_other_node_goes_first_while_pods_ask_an_address_that_the_target_gives_up() {
    let mut world = World::new(&[3]);
    world.change(revision(2, 1));
    world.run_until("the canary runs it", |world| world.pod("a000").is_running("n2r1"));
    world.address_in_use = Some("1 node was asked.".to_owned());
    world.set_away("a000", true);
    world.run(60);
    assert_eq!((world.record().step, world.nodes_on("n2")), (Step::Canary, vec!["a000"]));
    assert_eq!(reason(&mut world).0, RolloutReason::AddressInUse);
    world.address_in_use = None;
    world.run(3);
    assert_eq!(world.nodes_on("n2"), ["a001"]);
    let mut world = World::new(&[2]);
    ["a000", "a001"].iter().for_each(|node| world.set_away(node, true));
    world.change(revision(2, 1));
    world.run(3);
    assert_eq!((world.record().step, world.record().moved.len()), (Step::Canary, 0));
    world.address_in_use = Some("1 node was asked.".to_owned());
    ["a000", "a001"].iter().for_each(|node| world.set_away(node, false));
    world.run(60);
    assert_eq!((world.record().step, world.nodes_on("n2").len()), (Step::Canary, 0));
    world.confirm = Some("n2r1".to_owned());
    world.settle();
    assert_eq!(world.nodes_on("n2").len(), 2);
}

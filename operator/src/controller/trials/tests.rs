//! Trials of tiers that come and go, and of steps that an earlier process has begun.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::controller::fixtures::{self, serving};
use crate::controller::observe::poll::AddressUses;
use crate::controller::rollout::store::StoredRecord;
use crate::rollout_world::World;

/// Returns a tier of this name in the step of its first nodes.
fn tier_in_a_step(name: &str) -> Observed {
    let mut observed = serving("{}");
    observed.tier = Arc::new(fixtures::tier(name, "2026-01-01T00:00:00Z", "{}"));
    let proven = observed.pods[0].annotated_revision.clone().unwrap();
    let revision = |id: &str| TierRevision { id: id.to_owned(), nodes: id.to_owned(), resolvers: proven.clone() };
    let mut record = Record::new(revision("new"), Some(revision(&proven)), Step::Canary, observed.now);
    record.moved = BTreeSet::from(["node-a".to_owned()]);
    observed.record = StoredRecord { record: Some(record), ..StoredRecord::default() };
    observed
}

fn judge(trials: &Trials, observed: &Observed) -> Judgement {
    let settings = fixtures::settings();
    let situation = Situation::collect(observed, &settings, None, &AddressUses::default(), &HashSet::new()).unwrap();
    trials.judge(observed, &situation)
}

/// Returns trials of two tiers, of which the first one does not know the other.
fn trials_of_two() -> Trials {
    let trials = Trials::new(RoleStore::default(), mpsc::channel(1).0);
    let one = tier_in_a_step("one");
    let mut other = tier_in_a_step("other");
    other.other_tiers.push((*one.tier).clone());
    for observed in [&one, &other] {
        judge(&trials, observed);
    }
    assert_eq!(names(&trials), ["one", "other"]);
    trials
}

fn names(trials: &Trials) -> Vec<String> {
    let mut names: Vec<String> = trials.lock().keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn a_tier_that_is_being_deleted_takes_no_share_of_the_probes() {
    let trials = trials_of_two();
    trials.forget("one");
    assert_eq!(names(&trials), ["other"]);
}

#[test]
fn a_tier_that_is_deleted_at_once_takes_no_share_of_the_probes() {
    let trials = trials_of_two();
    judge(&trials, &tier_in_a_step("other"));
    assert_eq!(names(&trials), ["other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_looks_at_the_pods_of_a_step_before_it_tells_the_first() {
    let mut world = World::start(&[3], json!({"soak": "30s", "waveSize": 1})).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node is chosen", |world| world.step() == "Canary").await;
    world.run(28).await;
    world.replace_process().await;
    world.run(25).await;
    assert_eq!(world.seen(&target), Vec::<String>::new());
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

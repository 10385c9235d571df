//! Model of roll-outs: the planner, two operators, crashes, and pods that take over late, explored to closure.
//!
//! A state is what the cluster holds. An action is a pass of the leader with all of its writes or with the first ones
//! only, or something that happens to the tier: a pod takes over what it was told, time passes, the spec changes, a
//! node goes away. Every order of actions is explored, each kind as often as a budget allows.

mod cluster;
mod pass;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Instant;

use stateright::{Checker, Model, Property};

use crate::controller::rollout::model::cluster::{Budget, Cluster, Place, Pod, Presence, Revisions};
use crate::controller::rollout::model::pass::Tier;
use crate::controller::rollout::pods::Role;
use crate::controller::rollout::record::Step;

/// Threads of an exploration.
const THREADS: usize = 2;

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// The leader reads, plans and writes.
    Pass {
        /// Whether the next leader does not see the write of the record.
        is_unseen: bool,
    },
    /// The leader ends after so many writes, and another one leads.
    Crash { writes: u8, is_unseen: bool },
    /// The leader stands still after so many writes, and another one leads.
    Stall { writes: u8 },
    /// The leader that stood still carries out the rest.
    GoOn,
    /// The leader sees the record as it is.
    Deliver,
    /// A pod runs what it is asked to run.
    TakeOver(usize),
    /// Time passes.
    Tick,
    /// The spec changes.
    Change(u8),
    /// The roll-out is paused, or goes on.
    Pause(bool),
    /// A node goes away.
    Leave(usize),
    /// A node returns.
    Return(usize),
    /// A pod is deleted.
    Remove(usize),
    /// The pod that follows is there.
    Make(usize),
    /// The record is deleted.
    LoseRecord,
    /// Another try, for which somebody asks.
    Retry,
    /// Pods begin to ask an address that every target gives up, or cease to.
    Ask(bool),
}

/// Model of a tier.
struct Rollouts {
    tier: Tier,
    /// Whether the tier has no revision yet when the model begins.
    is_new: bool,
    budget: Budget,
    /// States, by hash, from which the roll-out is known to end when nothing more happens.
    ending: Mutex<HashSet<u64>>,
    /// Number of transitions to each step and end.
    seen: Mutex<BTreeMap<String, usize>>,
}

impl Rollouts {
    /// Returns a model of zone a with so many nodes, and zone b with one; each has one resolver.
    fn new(nodes: usize, revisions: &[(u32, u32)], budget: Budget) -> Self {
        let place = |role, zone, name| Place { role, zone, name };
        let mut places = vec![place(Role::Resolver, "a", "ra"), place(Role::Resolver, "b", "rb")];
        places.extend(["a0", "a1", "a2"].iter().take(nodes).map(|name| place(Role::Node, "a", name)));
        places.push(place(Role::Node, "b", "b0"));
        let tier = Tier { places, revisions: Revisions::new(revisions) };
        Self { tier, is_new: false, budget, ending: Mutex::default(), seen: Mutex::default() }
    }

    fn act(&self, cluster: &Cluster, action: &Action) -> Cluster {
        let mut next = cluster.clone();
        match action {
            Action::Pass { is_unseen } => {
                self.pass(&mut next, u8::MAX, *is_unseen);
                next.has_foreign_writes &= next.leader_read.is_some();
            }
            Action::Crash { writes, is_unseen } => {
                self.pass(&mut next, *writes, *is_unseen);
                next.budget.crashes -= 1;
                lead_next(&mut next);
            }
            Action::Stall { writes } => {
                let left = self.pass(&mut next, *writes, false);
                next.budget.stalls -= 1;
                next.stalled = Some(left);
                lead_next(&mut next);
            }
            Action::GoOn => {
                let writes = next.stalled.take();
                writes.into_iter().for_each(|writes| {
                    self.tier.carry_out(&mut next, writes, u8::MAX, false);
                });
            }
            Action::Deliver => (next.leader_read, next.standby_read) = (None, None),
            Action::TakeOver(number) => {
                let pod = &mut next.pods[*number];
                pod.in_force = pod.asked;
            }
            Action::Tick => {
                if next.pods.iter().any(Pod::is_behind) {
                    next.budget.slow_ticks -= 1;
                }
                next.tick();
            }
            Action::Change(desired) => {
                next.budget.changes -= 1;
                next.desired = *desired;
            }
            Action::Pause(paused) => {
                next.budget.pauses -= u8::from(*paused);
                next.paused = *paused;
            }
            Action::Leave(number) => {
                next.budget.departures -= 1;
                next.pods[*number].presence = Presence::Away;
                next.pods[*number].was_away = true;
            }
            Action::Return(number) => next.pods[*number].presence = Presence::Here,
            Action::Remove(number) => {
                next.budget.removals -= 1;
                next.pods[*number] = Pod { presence: Presence::Gone, ..Pod::new(next.pods[*number].made, 0, None) };
            }
            Action::Make(number) => {
                let is_node = self.tier.places[*number].role == Role::Node;
                let made = next.pods[*number].made + u8::from(!is_node);
                // A pod that was not told anything runs what is stable.
                next.pods[*number] = Pod { in_force: next.stable, ..Pod::new(made, 0, None) };
            }
            Action::LoseRecord => {
                next.budget.losses -= 1;
                let lost = next.record.take();
                if let Some(stalled) = &mut next.stalled {
                    stalled.is_outdated = true;
                }
                drop(lost);
            }
            Action::Retry => {
                next.budget.retries -= 1;
                next.retry = true;
            }
            Action::Ask(is_asked) => {
                next.budget.uses -= u8::from(*is_asked);
                next.is_address_asked = *is_asked;
            }
        }
        next.normalize();
        next
    }

    /// Plans a pass and carries it out until so many writes are done. Returns the writes that are left.
    fn pass(&self, cluster: &mut Cluster, may_write: u8, is_unseen: bool) -> cluster::Writes {
        let before = cluster.record.clone();
        let writes = self.tier.plan(cluster);
        if writes.record.is_some() && writes.is_outdated {
            self.see("conflict");
        }
        let left = self.tier.carry_out(cluster, writes, may_write, true);
        if is_unseen {
            cluster.budget.unseen -= 1;
            cluster.standby_read.get_or_insert(before);
        }
        left
    }

    fn see(&self, what: &str) {
        *self.seen.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    /// Returns what happens next when nothing disturbs the roll-out any more; `None` once it has ended.
    fn calm_successor(&self, cluster: &Cluster) -> Option<Cluster> {
        let pods = || cluster.pods.iter().enumerate();
        let find = |presence| pods().find(|(_, pod)| pod.presence == presence).map(|(number, _)| number);
        let is_outdated = cluster.leader_read.is_some() || cluster.standby_read.is_some();
        let action = if cluster.stalled.is_some() {
            Some(Action::GoOn)
        } else if is_outdated {
            Some(Action::Deliver)
        } else if cluster.paused {
            Some(Action::Pause(false))
        } else if cluster.is_address_asked {
            Some(Action::Ask(false))
        } else if let Some(number) = find(Presence::Away) {
            Some(Action::Return(number))
        } else if let Some(number) = find(Presence::Gone) {
            Some(Action::Make(number))
        } else {
            pods().find(|(_, pod)| pod.is_behind()).map(|(number, _)| Action::TakeOver(number))
        };
        let actions = action.into_iter().chain([Action::Pass { is_unseen: false }, Action::Tick]);
        actions.map(|action| self.act(cluster, &action)).find(|next| next != cluster)
    }

    /// Returns whether the roll-out ends as it has to when nothing disturbs it any more.
    fn ends(&self, cluster: &Cluster) -> bool {
        let mut path = HashSet::new();
        let mut current = cluster.clone();
        loop {
            let hash = hash(&current);
            if self.ending.lock().unwrap().contains(&hash) {
                break;
            }
            if !path.insert(hash) {
                return false;
            }
            match self.calm_successor(&current) {
                Some(next) => current = next,
                None if self.tier.is_ended(&current) => break,
                None => return false,
            }
        }
        self.ending.lock().unwrap().extend(path);
        true
    }
}

fn lead_next(cluster: &mut Cluster) {
    cluster.term += 1;
    cluster.leader_read = cluster.standby_read.take();
}

fn hash(cluster: &Cluster) -> u64 {
    let mut hasher = DefaultHasher::new();
    cluster.hash(&mut hasher);
    hasher.finish()
}

impl Model for Rollouts {
    type State = Cluster;
    type Action = Action;

    fn init_states(&self) -> Vec<Cluster> {
        let running = (!self.is_new).then_some(0);
        let mut cluster = Cluster {
            record: None,
            stable: running,
            announced: None,
            pods: self.tier.places.iter().map(|_| Pod::old(running)).collect(),
            desired: 0,
            paused: false,
            is_address_asked: false,
            retry: false,
            term: 0,
            leader_read: None,
            standby_read: None,
            stalled: None,
            passed: BTreeSet::new(),
            has_foreign_writes: false,
            budget: self.budget,
            broken: None,
        };
        if !self.is_new {
            cluster = self.act(&cluster, &Action::Pass { is_unseen: false });
        }
        vec![cluster]
    }

    fn actions(&self, cluster: &Cluster, actions: &mut Vec<Action>) {
        let Cluster { budget, pods, .. } = cluster;
        let may = |left: u8| left > 0;
        actions.push(Action::Pass { is_unseen: false });
        if budget.crashes + budget.stalls > 0 {
            let writes = self.tier.plan(cluster);
            let is_written = writes.record.is_some() && !writes.is_outdated;
            let may_miss = is_written && budget.unseen.min(budget.crashes) > 0 && cluster.standby_read.is_none();
            let may_stall = budget.stalls > 0 && cluster.stalled.is_none();
            if may_miss {
                actions.push(Action::Pass { is_unseen: true });
            }
            for number in 0..writes.number().max(1) {
                if may(budget.crashes) {
                    actions.push(Action::Crash { writes: number, is_unseen: false });
                    if may_miss && number > 0 {
                        actions.push(Action::Crash { writes: number, is_unseen: true });
                    }
                }
                if may_stall && writes.number() > 0 {
                    actions.push(Action::Stall { writes: number });
                }
            }
        }
        if cluster.stalled.is_some() {
            actions.push(Action::GoOn);
        }
        if cluster.leader_read.is_some() || cluster.standby_read.is_some() {
            actions.push(Action::Deliver);
        }
        if !pods.iter().any(Pod::is_behind) || may(budget.slow_ticks) {
            actions.push(Action::Tick);
        }
        for (number, pod) in pods.iter().enumerate() {
            let is_node = self.tier.places[number].role == Role::Node;
            match pod.presence {
                Presence::Here => {
                    if pod.is_behind() {
                        actions.push(Action::TakeOver(number));
                    }
                    if may(budget.departures) && is_node {
                        actions.push(Action::Leave(number));
                    }
                    if may(budget.removals) {
                        actions.push(Action::Remove(number));
                    }
                }
                Presence::Away => actions.push(Action::Return(number)),
                Presence::Gone => actions.push(Action::Make(number)),
            }
        }
        if may(budget.changes) {
            let others = (0..self.tier.revisions.len()).filter(|number| *number != cluster.desired);
            actions.extend(others.map(Action::Change));
        }
        if cluster.paused || may(budget.pauses) {
            actions.push(Action::Pause(!cluster.paused));
        }
        if may(budget.losses) && cluster.record.is_some() && cluster.leader_read.is_none() {
            actions.push(Action::LoseRecord);
        }
        if may(budget.retries) {
            actions.push(Action::Retry);
        }
        if cluster.is_address_asked || may(budget.uses) {
            actions.push(Action::Ask(!cluster.is_address_asked));
        }
    }

    fn next_state(&self, cluster: &Cluster, action: Action) -> Option<Cluster> {
        let next = self.act(cluster, &action);
        if next.step() != cluster.step() {
            self.see(next.step().map_or("no record", |step| step.name()));
            if cluster.step() == Some(Step::Stopped) && next.target() == cluster.target() {
                self.see("another try");
            }
        }
        (next != *cluster).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no action breaks a promise", |_: &Self, cluster: &Cluster| cluster.broken.is_none()),
            Property::always("few nodes of a zone have what is not proven", |model: &Self, cluster: &Cluster| {
                model.tier.is_within_bounds(cluster)
            }),
            Property::always(
                "the status never says too early that it is rolled out",
                |model: &Self, cluster: &Cluster| model.tier.is_status_right(cluster),
            ),
            Property::always("the roll-out ends", |model: &Self, cluster: &Cluster| model.ends(cluster)),
        ]
    }
}

/// Explores a model to closure and prints its size. These steps and events have to be among the transitions.
fn explore(name: &str, model: Rollouts, expected: &[&str]) {
    let start = Instant::now();
    let checker = model.checker().threads(THREADS).spawn_bfs().join();
    let (states, depth, taken) = (checker.unique_state_count(), checker.max_depth(), start.elapsed());
    let seen = checker.model().seen.lock().unwrap().clone();
    eprintln!("{name}: {states} states, depth {depth}, {:.1} s, {seen:?}", taken.as_secs_f64());
    if let Some((promise, path)) = checker.discoveries().into_iter().next() {
        let last = path.last_state().clone();
        let actions: Vec<String> = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
        panic!("{name}: {promise}: {actions:#?}\n{last:#?}");
    }
    for what in expected {
        assert!(seen.contains_key(*what), "{name}: {what} never happens");
    }
}

/// Proven, good for both roles, bad for nodes.
const CHANGES: [(u32, u32); 3] = [(1, 1), (2, 2), (5, 1)];
/// Also bad for resolvers, and good for nodes or nothing to them.
const MORE_CHANGES: [(u32, u32); 5] = [(1, 1), (2, 2), (5, 1), (1, 5), (2, 5)];
/// Steps in which most models end.
const ENDS: [&str; 2] = ["Done", "Stopped"];

/// Nothing happens.
const NONE: Budget = Budget {
    changes: 0,
    crashes: 0,
    unseen: 0,
    stalls: 0,
    removals: 0,
    departures: 0,
    pauses: 0,
    losses: 0,
    slow_ticks: 0,
    retries: 0,
    uses: 0,
};

#[test]
fn a_crash_after_any_write_ends_where_no_crash_would_whatever_the_spec_becomes() {
    let budget = Budget { changes: 2, crashes: 1, ..NONE };
    explore("crash", Rollouts::new(3, &MORE_CHANGES, budget), &["Done", "Stopped", "Moved", "Canary", "Wave"]);
}

#[test]
fn the_next_leader_does_no_harm_when_it_has_not_seen_the_last_writes() {
    let budget = Budget { changes: 1, crashes: 2, unseen: 1, ..NONE };
    explore("outdated leader", Rollouts::new(2, &CHANGES, budget), &["Done", "Stopped", "conflict"]);
}

#[test]
fn a_leader_that_stood_still_in_a_pass_changes_no_end() {
    let budget = Budget { changes: 1, crashes: 1, stalls: 1, ..NONE };
    explore("two leaders", Rollouts::new(2, &CHANGES, budget), &["Done", "Stopped", "conflict"]);
}

#[test]
fn pods_that_take_over_late_or_not_at_all_stop_a_roll_out_or_follow() {
    let budget = Budget { changes: 1, slow_ticks: 4, ..NONE };
    explore("late pods", Rollouts::new(3, &CHANGES, budget), &["Done", "Stopped", "Finish"]);
}

#[test]
fn pods_that_are_made_again_and_nodes_that_are_away_follow() {
    let budget = Budget { changes: 1, removals: 1, departures: 1, ..NONE };
    explore("pods and nodes", Rollouts::new(2, &CHANGES, budget), &ENDS);
}

#[test]
fn a_pause_at_any_time_changes_no_end() {
    let budget = Budget { changes: 2, pauses: 1, ..NONE };
    explore("pause", Rollouts::new(2, &MORE_CHANGES, budget), &ENDS);
}

#[test]
fn a_pause_moves_no_pod_that_is_made_again() {
    let budget = Budget { changes: 1, pauses: 1, removals: 1, ..NONE };
    explore("pause and new pod", Rollouts::new(2, &CHANGES, budget), &ENDS);
}

#[test]
fn no_step_begins_while_an_address_is_asked_that_the_target_gives_up() {
    let explore = |name: &str, budget| explore(name, Rollouts::new(2, &CHANGES, budget), &ENDS);
    explore("address in use and a crash", Budget { changes: 1, uses: 1, crashes: 1, ..NONE });
    explore("address in use and a node away", Budget { changes: 1, uses: 1, departures: 1, ..NONE });
}

#[test]
fn nothing_is_proven_while_all_pods_of_a_role_are_made_again() {
    let budget = Budget { changes: 1, removals: 2, ..NONE };
    explore("all pods made again", Rollouts::new(0, &CHANGES, budget), &ENDS);
}

#[test]
fn a_record_that_is_lost_at_any_time_changes_no_end() {
    let budget = Budget { changes: 2, losses: 1, crashes: 1, ..NONE };
    explore("lost record", Rollouts::new(2, &CHANGES, budget), &["Done", "Stopped", "Moved", "no record"]);
}

#[test]
fn a_record_that_is_lost_while_a_pod_is_made_again_changes_no_end() {
    let budget = Budget { changes: 1, losses: 1, removals: 1, ..NONE };
    explore("lost record and new pod", Rollouts::new(2, &CHANGES, budget), &["Done", "Stopped", "Moved", "no record"]);
}

#[test]
fn the_first_revision_is_in_force_after_any_crash() {
    let model = Rollouts::new(1, &CHANGES[..2], Budget { changes: 1, crashes: 1, ..NONE });
    explore("first revision", Rollouts { is_new: true, ..model }, &["First", "Done"]);
}

#[test]
fn a_target_that_was_taken_back_and_is_tried_again_is_taken_back_again() {
    let budget = Budget { changes: 2, retries: 1, ..NONE };
    explore("retry", Rollouts::new(2, &CHANGES, budget), &["Done", "Stopped", "another try"]);
}

#[test]
fn what_happens_once_in_the_short_models_may_happen_together() {
    let explore = |name: &str, budget| explore(name, Rollouts::new(2, &CHANGES, budget), &ENDS);
    explore("late pods and a crash", Budget { changes: 1, crashes: 1, slow_ticks: 4, ..NONE });
    explore("a node away and a crash", Budget { changes: 1, crashes: 1, departures: 1, ..NONE });
    explore("a pod made again and a crash", Budget { changes: 1, crashes: 1, removals: 1, ..NONE });
    explore("a pause and a crash", Budget { changes: 2, crashes: 1, pauses: 1, ..NONE });
}

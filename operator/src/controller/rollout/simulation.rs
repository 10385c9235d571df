//! Simulation of a tier for tests: pods that take over revisions late or not at all, nodes that go away, an operator
//! that crashes after any write, and a judge that knows the bad revisions.

use std::collections::{BTreeMap, BTreeSet};

use dnstier_crds::v1alpha1::{Duration, Rollout, WaveSize};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use node_cache_config::PartFingerprints;

use super::plan::{Inputs, Plan, plan};
use super::pods::{Role, RolloutPod, zone_size};
use super::record::{Record, Step};
use super::revision::{KnownRevision, assign, rebuild_proven};
use super::situation::running;
use super::steps::{Surroundings, Verdict, members};
use crate::controller::judge::verdict::FailReason;

/// Pods told in a second: the pace of all writes of the operator.
const PACE: usize = 16;
/// Seconds for which a pass tells pods, and until the next pass begins.
const PASS: (i64, i64) = (4, 1);
/// Seconds after which a pod has in force what it was told.
const DELAY: i64 = 1;

/// Returns the configuration with these parts.
pub(super) fn revision(nodes: u32, resolvers: u32) -> KnownRevision {
    let parts = PartFingerprints { nodes: format!("n{nodes}"), resolvers: format!("r{resolvers}") };
    KnownRevision { id: format!("n{nodes}r{resolvers}"), parts }
}

/// Returns the part of a configuration that a role reads.
fn part(id: &str, role: Role) -> &str {
    let (nodes, resolvers) = id.split_at(id.find('r').unwrap());
    if role == Role::Node { nodes } else { resolvers }
}

/// A tier.
pub(super) struct World {
    pub(super) pods: Vec<RolloutPod>,
    /// Nodes that are there; those of pods that are made again too.
    pub(super) nodes: BTreeSet<String>,
    pub(super) away: BTreeSet<String>,
    /// Pods that do not see what they are told, by name.
    pub(super) deaf: BTreeSet<String>,
    /// Pods that never say what they run, by name.
    pub(super) mute: BTreeSet<String>,
    /// Pods that cannot be told, by name, and since when it was tried.
    pub(super) refusing: BTreeMap<String, Option<Timestamp>>,
    pub(super) record: Option<Record>,
    pub(super) stable: Option<String>,
    pub(super) desired: KnownRevision,
    known: BTreeMap<String, KnownRevision>,
    pub(super) settings: Rollout,
    pub(super) announced: Option<String>,
    pub(super) is_past_known: bool,
    pub(super) retry: Option<String>,
    pub(super) confirm: Option<String>,
    pub(super) address_in_use: Option<String>,
    pub(super) address_unknown: Option<String>,
    /// Parts that the judge fails.
    pub(super) bad: BTreeSet<String>,
    pub(super) are_controls_failing: bool,
    /// Whether nobody is told in the pauses between two passes. Without them, every second has a whole pass.
    pub(super) has_pauses: bool,
    pub(super) now: Timestamp,
    /// Name of the operator.
    pub(super) writer: &'static str,
    /// Nodes that ran something else than the proven revision when a target was adopted.
    superseded: BTreeSet<String>,
    /// Every part that a pod was asked to run, by key.
    pub(super) seen: BTreeMap<String, BTreeSet<String>>,
    made: u32,
}

impl World {
    /// Returns a tier that runs `n1r1`: `sizes` nodes in zones `a`, `b`, …, two resolvers each.
    pub(super) fn new(sizes: &[usize]) -> Self {
        let first = revision(1, 1);
        let mut world = Self {
            pods: Vec::new(),
            nodes: BTreeSet::new(),
            away: BTreeSet::new(),
            deaf: BTreeSet::new(),
            mute: BTreeSet::new(),
            refusing: BTreeMap::new(),
            record: None,
            stable: None,
            known: BTreeMap::from([(first.id.clone(), first.clone())]),
            desired: first,
            settings: Rollout { soak: Duration::from_seconds(5), ..Rollout::default() },
            announced: None,
            is_past_known: true,
            retry: None,
            confirm: None,
            address_in_use: None,
            address_unknown: None,
            bad: BTreeSet::new(),
            are_controls_failing: false,
            has_pauses: false,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            writer: "operator-0",
            superseded: BTreeSet::new(),
            seen: BTreeMap::new(),
            made: 0,
        };
        for (number, size) in sizes.iter().enumerate() {
            let zone = char::from(b'a' + u8::try_from(number).unwrap()).to_string();
            (0..2).for_each(|_| world.add_pod(Role::Resolver, &zone, None));
            for node in 0..*size {
                world.add_node(&zone, &format!("{zone}{node:03}"));
            }
        }
        world.settle();
        assert_eq!(world.record().step, Step::Done);
        world
    }

    pub(super) fn add_node(&mut self, zone: &str, node: &str) {
        self.nodes.insert(node.to_owned());
        self.add_pod(Role::Node, zone, Some(node));
    }

    pub(super) fn add_pod(&mut self, role: Role, zone: &str, node: Option<&str>) {
        self.made += 1;
        self.pods.push(RolloutPod {
            role,
            name: format!("pod-{zone}-{:04}", self.made),
            zone: zone.to_owned(),
            node: node.map(str::to_owned),
            ready: true,
            away: node.is_some_and(|node| self.away.contains(node)),
            out_of_reach: false,
            unpolled: false,
            is_unanswered: false,
            asked: None,
            in_force: None,
            tellings: 0,
            told: None,
            responses: 0,
            created: self.now,
            joined: self.now,
        });
    }

    /// Makes the pod of this place again.
    pub(super) fn recreate(&mut self, index: usize) {
        let old = self.pods.remove(index);
        self.deaf.remove(&old.name);
        self.refusing.remove(&old.name);
        self.add_pod(old.role, &old.zone, old.node.as_deref());
        if let (Role::Node, Some(new)) = (old.role, self.pods.last_mut()) {
            new.joined = old.joined;
        }
    }

    /// Makes another operator the leader, which has polled no pod yet, or lets it poll all of them.
    pub(super) fn set_unpolled(&mut self, unpolled: bool) {
        for pod in &mut self.pods {
            pod.unpolled = unpolled;
            pod.in_force = if unpolled { None } else { pod.asked.clone() };
        }
    }

    pub(super) fn set_away(&mut self, node: &str, away: bool) {
        if away {
            self.away.insert(node.to_owned());
        } else {
            self.away.remove(node);
        }
        let pods = self.pods.iter_mut().filter(|pod| pod.node.as_deref() == Some(node));
        pods.for_each(|pod| (pod.away, pod.ready) = (away, !away));
    }

    pub(super) fn change(&mut self, desired: KnownRevision) {
        self.known.insert(desired.id.clone(), desired.clone());
        self.desired = desired;
    }

    pub(super) fn record(&self) -> &Record {
        self.record.as_ref().unwrap()
    }

    pub(super) fn pod(&self, key: &str) -> &RolloutPod {
        self.pods.iter().find(|pod| pod.key() == key).unwrap()
    }

    /// Returns the nodes that are asked to run this part, by name.
    pub(super) fn nodes_on(&self, wanted: &str) -> Vec<&str> {
        let is_on = |pod: &&RolloutPod| pod.asked.as_deref().is_some_and(|id| part(id, Role::Node) == wanted);
        let mut nodes: Vec<&str> =
            self.pods.iter().filter(|pod| pod.role == Role::Node).filter(is_on).map(RolloutPod::key).collect();
        nodes.sort_unstable();
        nodes
    }

    fn verdict(&self, around: &Surroundings<'_>) -> Option<Verdict> {
        let record = self.record.as_ref().filter(|record| record.step.is_judged())?;
        let proven = record.proven.as_ref()?;
        let is_bad = |pod: &&RolloutPod| {
            let runs = pod.in_force.as_deref();
            runs == Some(record.target.part(pod.role)) && self.bad.contains(part(runs.unwrap(), pod.role))
        };
        if members(record, proven, around).iter().any(is_bad) {
            return Some(Verdict::Fail { reason: FailReason::JudgedWorse, sentence: "It is bad.".to_owned() });
        }
        if self.are_controls_failing {
            return Some(Verdict::Hold { are_controls_failing: true, sentence: "All are bad.".to_owned() });
        }
        // The planner has to wait for the end of the soak by itself.
        Some(Verdict::Pass)
    }

    /// Marks the pods that could not be told for half a minute.
    fn mark_out_of_reach(&mut self) {
        for pod in &mut self.pods {
            let since = self.refusing.get(&pod.name).copied().flatten();
            pod.out_of_reach = since.is_some_and(|since| self.now.duration_since(since).as_secs() >= 30);
        }
    }

    /// Plans a pass and carries it out, until so many writes are done.
    pub(super) fn pass(&mut self, mut writes_left: usize) -> Plan {
        self.mark_out_of_reach();
        let plan = self.plan();
        let mut write = || {
            let may = writes_left > 0;
            writes_left = writes_left.saturating_sub(1);
            may
        };
        if plan.is_changed {
            if !write() {
                return plan;
            }
            let is_new_target = self.record.as_ref().is_none_or(|record| record.started != plan.record.started);
            if is_new_target && let Some(proven) = &plan.record.proven {
                let is_other = |pod: &&RolloutPod| pod.asked.as_deref().is_some_and(|id| id != proven.part(pod.role));
                self.superseded = self.pods.iter().filter(is_other).map(|pod| pod.key().to_owned()).collect();
            }
            if self.record.as_ref().is_none_or(|record| record.moved != plan.record.moved) {
                self.check_wave(&plan.record);
            }
            self.record = Some(plan.record.clone());
        }
        let stable = plan.record.proven.as_ref().unwrap_or(&plan.record.target).id.clone();
        if self.stable.as_ref() != Some(&stable) {
            if !write() {
                return plan;
            }
            self.stable = Some(stable);
        }
        let is_pause = self.has_pauses && self.now.as_second() % (PASS.0 + PASS.1) >= PASS.0;
        for ask in plan.asks.iter().take(if is_pause { 0 } else { PACE }) {
            if !write() {
                return plan;
            }
            self.check_ask(&plan.record, &ask.pod, &ask.revision);
            let now = self.now;
            if let Some(since) = self.refusing.get_mut(&ask.pod) {
                since.get_or_insert(now);
                continue;
            }
            let pod = self.pods.iter_mut().find(|pod| pod.name == ask.pod).unwrap();
            pod.asked = Some(ask.revision.clone());
            pod.tellings = ask.telling;
            pod.told = Some(now);
            let seen = self.seen.entry(pod.key().to_owned()).or_default();
            seen.insert(part(&ask.revision, pod.role).to_owned());
        }
        self.check_canaries(&plan.record);
        if write() {
            self.announced = (plan.record.step != Step::Done).then(|| plan.record.target.id.clone());
        }
        plan
    }

    /// Plans a pass, which goes as far as it can.
    fn plan(&self) -> Plan {
        let known: Vec<KnownRevision> = self.known.values().cloned().collect();
        let stable = self.stable.as_ref().map(|id| rebuild_proven(&self.known[id], &known, &self.pods));
        let desired = assign(&self.desired, &running(self.record.as_ref(), stable.as_ref(), None), &known);
        let nodes: BTreeSet<String> = self.nodes.difference(&self.away).cloned().collect();
        let around = Surroundings {
            pods: &self.pods,
            nodes: &nodes,
            settings: &self.settings,
            announced: self.announced.as_deref(),
            is_past_known: self.is_past_known,
            address_in_use: self.address_in_use.as_deref(),
            address_unknown: self.address_unknown.as_deref(),
            confirm: self.confirm.as_deref(),
            retry: self.retry.as_deref(),
            now: self.now,
        };
        let verdict = self.verdict(&around);
        let inputs = Inputs {
            record: self.record.as_ref(),
            stable: stable.as_ref(),
            desired: &desired,
            verdict: verdict.as_ref(),
            wants_nodes: !self.nodes.is_empty(),
            writer: self.writer,
            around,
        };
        let plan = plan(&inputs);
        let again = super::plan::plan(&Inputs { record: Some(&plan.record), verdict: None, ..inputs });
        let is_ended = matches!(plan.record.step, Step::Done | Step::Stopped);
        assert!(!again.is_changed || is_ended, "a pass goes as far as it can: {:#?} {:#?}", plan.record, again.record);
        plan
    }

    /// Lets a second pass, without the operator.
    pub(super) fn tick(&mut self) {
        self.now += SignedDuration::from_secs(1);
        let now = self.now;
        for pod in self.pods.iter_mut().filter(|pod| !pod.away && !pod.unpolled && !self.mute.contains(&pod.name)) {
            let is_due = pod.told.is_some_and(|told| now.duration_since(told).as_secs() >= DELAY);
            if is_due && !self.deaf.contains(&pod.name) {
                pod.in_force.clone_from(&pod.asked);
            } else if pod.in_force.is_none() {
                pod.in_force.clone_from(&self.stable);
            }
        }
    }

    /// Lets seconds pass, with the operator.
    pub(super) fn run(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.pass(usize::MAX);
            self.tick();
        }
    }

    /// Runs until this holds.
    pub(super) fn run_until(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) {
        for _ in 0..5_000 {
            if is_true(self) {
                return;
            }
            self.run(1);
        }
        panic!("never: {what}; {:#?}", self.record);
    }

    /// Runs until the roll-out has ended, one way or the other, and every pod runs what is proven.
    pub(super) fn settle(&mut self) {
        self.run_until("the roll-out ends", |world| {
            let Some(record) = &world.record else { return false };
            let is_ended = matches!(record.step, Step::Done | Step::Stopped) && record.target.id == world.desired.id;
            let Some(proven) = record.proven.as_ref().filter(|_| is_ended) else { return false };
            world
                .pods
                .iter()
                .all(|pod| pod.away || world.refusing.contains_key(&pod.name) || pod.is_running(proven.part(pod.role)))
        });
    }

    /// An untouched pod sees only the desired target, and in a pause no pod but that of a node which goes first.
    fn check_ask(&self, record: &Record, pod: &str, id: &str) {
        let Some(proven) = &record.proven else { return };
        let pod = self.pods.iter().find(|one| one.name == pod).unwrap();
        let (asked, proven) = (part(id, pod.role), part(proven.part(pod.role), pod.role));
        if asked == proven {
            return;
        }
        let stays = pod.asked.is_none() && pod.role == Role::Node && record.canaries.contains(pod.key());
        assert!(!self.settings.paused || stays, "{} is told {id} in a pause", pod.name);
        let desired = if pod.role == Role::Node { &self.desired.parts.nodes } else { &self.desired.parts.resolvers };
        assert!(asked == desired || self.settings.paused, "{} is told {id}, which nobody wants", pod.name);
        let is_rejected = record.rejection(&record.target.id, self.retry.as_deref()).is_some();
        assert!(!is_rejected, "{} is told {id}, which was rejected", pod.name);
        if pod.role == Role::Node && matches!(record.step, Step::Resolver | Step::ResolverZone) {
            assert!(self.superseded.contains(pod.key()), "{} is told before the resolvers are", pod.name);
        }
        assert!(!matches!(record.step, Step::Start | Step::RollingBack | Step::Stopped), "{:?}", record.step);
    }

    /// No more nodes of a zone than may go first have the target before these have passed.
    fn check_canaries(&self, record: &Record) {
        if record.step != Step::Canary {
            return;
        }
        for zone in self.pods.iter().map(|pod| &pod.zone).collect::<BTreeSet<_>>() {
            let is_unproven = |pod: &&RolloutPod| {
                let is_here = pod.role == Role::Node && pod.zone == *zone && !pod.away;
                is_here && pod.is_asked(&record.target.nodes) && !self.superseded.contains(pod.key())
            };
            // One that is set aside is told to go back in the same pass, which may not be carried out wholly.
            let is_leaving = |pod: &&RolloutPod| record.set_aside.contains(pod.key());
            let unproven = self.pods.iter().filter(is_unproven).filter(|pod| !is_leaving(pod)).count();
            let may = usize::from(self.settings.canaries_per_zone);
            assert!(unproven <= may, "{unproven} nodes of zone {zone} have the target");
        }
    }

    fn check_wave(&self, record: &Record) {
        if record.step == Step::Wave {
            let zone = record.zone.as_deref().unwrap();
            let may = self.settings.wave_size.nodes_of(zone_size(&self.pods, Role::Node, zone));
            assert!(record.moved.len() <= may, "{} nodes are more than a wave of {may}", record.moved.len());
        }
    }
}

/// A generator of random numbers (xorshift), the same for each seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}

/// Lets everything happen that may, for ten minutes, then nothing any more until the roll-out has ended.
fn simulate(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let sizes: Vec<usize> = (0..=random.below(3)).map(|_| 1 + random.below(12)).collect();
    let mut world = World::new(&sizes);
    world.settings.canaries_per_zone = 1 + u16::try_from(random.below(2)).unwrap();
    world.settings.wave_size = [WaveSize::Percent(10), WaveSize::Percent(50), WaveSize::Nodes(1)][random.below(3)];
    // Parts from 5 on are bad.
    world.bad = (5..8).flat_map(|number| [format!("n{number}"), format!("r{number}")]).collect();
    for second in 0..600 {
        if random.one_in(60) {
            let mut number = |limit| u32::try_from(1 + random.below(limit)).unwrap();
            let desired = revision(number(7), number(7));
            world.change(desired);
        }
        let index = random.below(world.pods.len());
        if random.one_in(40) {
            world.recreate(index);
        } else if random.one_in(40) && world.deaf.len() < 2 {
            world.deaf.insert(world.pods[index].name.clone());
        } else if random.one_in(40) {
            world.deaf.clear();
        } else if random.one_in(60) {
            world.refusing.clear();
            world.refusing.insert(world.pods[index].name.clone(), None);
        } else if let Some(node) = world.pods[index].node.clone().filter(|_| random.one_in(40)) {
            let is_away = world.away.contains(&node);
            world.set_away(&node, !is_away);
        } else if random.one_in(80) {
            world.settings.paused = !world.settings.paused;
        } else if random.one_in(100) {
            let zone = world.pods[index].zone.clone();
            world.add_node(&zone, &format!("{zone}-{second}"));
        } else if random.one_in(120) {
            world.record = None;
        } else if random.one_in(100) {
            world.retry = Some(second.to_string());
        } else if random.one_in(60) {
            world.are_controls_failing = !world.are_controls_failing;
        }
        let writes = if random.one_in(4) { random.below(6) } else { usize::MAX };
        world.pass(writes);
        world.tick();
        let proven = world.record.as_ref().and_then(|record| record.proven.as_ref());
        if let Some(proven) = proven {
            let is_bad = [Role::Node, Role::Resolver].iter().any(|role| world.bad.contains(part(&proven.id, *role)));
            assert!(!is_bad, "seed {seed}: {} is bad and proven", proven.id);
        }
    }
    world.settings.paused = false;
    world.are_controls_failing = false;
    world.deaf.clear();
    world.refusing.clear();
    world.away.clone().iter().for_each(|node| world.set_away(node, false));
    world.settle();
    let record = world.record();
    let is_bad = world.bad.contains(&world.desired.parts.nodes) || world.bad.contains(&world.desired.parts.resolvers);
    match record.step {
        Step::Done => assert!(!is_bad, "seed {seed}"),
        _ => assert_eq!(record.rejections[0].target, world.desired.id, "seed {seed}"),
    }
}

#[test]
fn whatever_happens_no_bad_revision_is_proven_and_every_roll_out_ends() {
    (0..100).for_each(simulate);
}

/// Rolls out a change that is interrupted after its n-th write, and looks at where that ends.
#[test]
fn a_crash_after_any_write_ends_where_no_crash_would() {
    for desired in [revision(2, 2), revision(5, 1), revision(2, 5)] {
        let end = |crash: usize| {
            let mut world = World::new(&[3, 2]);
            world.bad = BTreeSet::from(["n5".to_owned(), "r5".to_owned()]);
            world.change(desired.clone());
            let mut left = crash;
            for _ in 0..200 {
                // One pass is interrupted: the one with the n-th write.
                let plan = world.pass(left);
                let writes = usize::from(plan.is_changed) + plan.asks.len().min(PACE) + 1;
                left = if left < writes { usize::MAX } else { left - writes };
                world.tick();
            }
            world.settle();
            let asked: Vec<String> = world.pods.iter().filter_map(|pod| pod.asked.clone()).collect();
            (world.record().step, world.record().proven.clone(), asked)
        };
        let clean = end(usize::MAX);
        for crash in 0..120 {
            assert_eq!(end(crash), clean, "{} after write {crash}", desired.id);
        }
    }
}

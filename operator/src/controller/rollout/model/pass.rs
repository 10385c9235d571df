//! Pass of a leader in the model: the planner's plan, and its writes up to a crash.

use std::collections::BTreeSet;

use crate::controller::judge::verdict::FailReason;
use crate::controller::rollout::model::cluster::{
    Cluster, Place, Pod, Presence, Revisions, Stored, Writes, now, settings,
};
use crate::controller::rollout::plan::{Inputs, plan};
use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::revision::{assign, rebuild_proven};
use crate::controller::rollout::situation::running;
use crate::controller::rollout::steps::{Surroundings, Verdict, members};

/// Constants of a model.
#[derive(Clone, Debug)]
pub(super) struct Tier {
    pub(super) places: Vec<Place>,
    pub(super) revisions: Revisions,
}

impl Tier {
    /// Returns the writes of a pass.
    pub(super) fn plan(&self, cluster: &Cluster) -> Writes {
        let Cluster { record, leader_read, pods, .. } = cluster;
        let read = leader_read.as_ref().unwrap_or(record).as_ref().map(Stored::get);
        let numbered = || pods.iter().zip(&self.places).zip(0_u8..);
        let present = || numbered().filter(|((pod, _), _)| pod.presence != Presence::Gone);
        let seen: Vec<RolloutPod> = present().map(|((pod, place), _)| pod.seen(place, &self.revisions)).collect();
        let nodes: BTreeSet<String> = numbered()
            .filter(|((pod, place), _)| place.role == Role::Node && pod.presence != Presence::Away)
            .map(|((_, place), _)| place.name.to_owned())
            .collect();
        let known = &self.revisions.known;
        let find = |number: u8| &known[usize::from(number)];
        let stable = cluster.stable.map(|stable| rebuild_proven(find(stable), known, &seen));
        let retry = cluster.retry.then_some("again");
        let desired = assign(find(cluster.desired), &running(read, stable.as_ref(), retry), known);
        let announced = cluster.announced.map(|announced| self.revisions.id(announced));
        let settings = settings(cluster.paused);
        let around = Surroundings {
            pods: &seen,
            nodes: &nodes,
            settings: &settings,
            announced,
            is_past_known: true,
            address_in_use: cluster.is_address_asked.then_some("It is asked."),
            address_unknown: None,
            confirm: None,
            retry,
            now: now(),
        };
        let verdict = read.and_then(|record| self.verdict(record, &around));
        let writer = writer(cluster.term);
        let (stable, verdict) = (stable.as_ref(), verdict.as_ref());
        let inputs =
            Inputs { record: read, stable, desired: &desired, verdict, wants_nodes: true, writer: &writer, around };
        let plan = plan(&inputs);
        let proven = self.revisions.number(&plan.record.proven.as_ref().unwrap_or(&plan.record.target).id);
        let target = (!plan.rolled_out.is_true()).then(|| self.revisions.number(&plan.status.target));
        let number_of = |name: &str| {
            let ((pod, _), number) = numbered().find(|((pod, place), _)| pod.name(place) == name).unwrap();
            (number, pod.made)
        };
        let asks = plan.asks.iter().map(|ask| {
            let (place, made) = number_of(&ask.pod);
            (place, made, self.revisions.number(&ask.revision), ask.telling)
        });
        Writes {
            record: plan.is_changed.then(|| Stored::write(plan.record)),
            is_outdated: leader_read.as_ref().is_some_and(|read| read != record),
            stable: (cluster.stable != Some(proven)).then_some(proven),
            asks: asks.collect(),
            announced: (cluster.announced != target).then_some(target),
        }
    }

    /// Returns what the judge says: it finds bad parts that are in force, and knows nothing of a pod that has not taken
    /// over yet.
    fn verdict(&self, record: &Record, around: &Surroundings<'_>) -> Option<Verdict> {
        let proven = record.proven.as_ref().filter(|_| record.step.is_judged())?;
        let is_bad = |pod: &&RolloutPod| {
            let runs = pod.in_force.as_deref().filter(|runs| *runs == record.target.part(pod.role));
            runs.is_some_and(|runs| self.revisions.is_part_bad(self.revisions.number(runs), pod.role))
        };
        Some(if members(record, proven, around).iter().any(is_bad) {
            Verdict::Fail { reason: FailReason::JudgedWorse, sentence: String::new() }
        } else {
            Verdict::Pass
        })
    }

    /// Carries out the writes of a pass until so many are done, and returns those that are left. `is_leader` is false
    /// for an operator that stood still while another one became the leader.
    pub(super) fn carry_out(
        &self,
        cluster: &mut Cluster,
        mut writes: Writes,
        mut may_write: u8,
        is_leader: bool,
    ) -> Writes {
        let mut has_turn = || {
            let has = may_write > 0;
            may_write = may_write.saturating_sub(1);
            has
        };
        if writes.record.is_some() {
            if !has_turn() {
                return writes;
            }
            if writes.is_outdated {
                // The API server refuses it, and the pass ends.
                return Writes { is_outdated: true, ..Writes::default() };
            }
        }
        if let Some(record) = writes.record.take() {
            self.write_record(cluster, record, is_leader);
        }
        if let Some(stable) = writes.stable {
            if !has_turn() {
                return writes;
            }
            writes.stable = None;
            cluster.stable = Some(stable);
            self.check_stable(cluster, is_leader);
        }
        while let Some(ask) = writes.asks.first().copied() {
            if !has_turn() {
                return writes;
            }
            writes.asks.remove(0);
            self.tell(cluster, ask, is_leader);
        }
        if let Some(announced) = writes.announced {
            if !has_turn() {
                return writes;
            }
            writes.announced = None;
            cluster.announced = announced;
            cluster.has_foreign_writes |= !is_leader;
        }
        writes
    }

    fn write_record(&self, cluster: &mut Cluster, record: Stored, is_leader: bool) {
        let old = cluster.record.take();
        let broken = broken_by_step(cluster, old.as_ref().map(Stored::get), record.get());
        cluster.broken = cluster.broken.or(broken);
        self.check_record(cluster, old.as_ref().map(Stored::get), record.get());
        cluster.record = Some(record);
        if is_leader {
            cluster.leader_read = None;
        } else if cluster.leader_read.is_none() {
            // A leader of before came in between; the present one has not seen that yet.
            cluster.leader_read = Some(old);
        }
        if let Some(stalled) = &mut cluster.stalled {
            stalled.is_outdated = true;
        }
    }

    fn tell(&self, cluster: &mut Cluster, (place, made, revision, telling): (u8, u8, u8, u8), is_leader: bool) {
        let number = usize::from(place);
        let pod = &cluster.pods[number];
        if pod.presence == Presence::Gone || pod.made != made {
            return;
        }
        if is_leader {
            let broken = self.broken_by_telling(cluster, number, revision);
            cluster.broken = cluster.broken.or(broken);
        } else {
            cluster.passed.insert(pod.key(&self.places[number]));
            cluster.has_foreign_writes = true;
        }
        let pod = &mut cluster.pods[number];
        (pod.asked, pod.tellings, pod.told) = (Some(revision), telling, Some(0));
    }

    /// Returns whether a revision differs from another one for a place.
    fn differs(&self, place: &Place, one: u8, other: u8) -> bool {
        self.revisions.part(one, place.role) != self.revisions.part(other, place.role)
    }

    /// Returns the number of the proven revision; `None` before the first.
    fn proven(&self, cluster: &Cluster) -> Option<u8> {
        match &cluster.record {
            Some(record) => record.get().proven.as_ref().map(|proven| self.revisions.number(&proven.id)),
            None => cluster.stable,
        }
    }

    /// Returns the promise that the telling of a pod breaks.
    fn broken_by_telling(&self, cluster: &Cluster, number: usize, revision: u8) -> Option<&'static str> {
        let place = &self.places[number];
        let Some(record) = cluster.record.as_ref().map(Stored::get) else {
            return Some("a pod was told without a record");
        };
        let proven = self.proven(cluster)?;
        let is_moved = cluster.pods[number].asked.is_some_and(|asked| self.differs(place, asked, revision));
        if cluster.paused && is_moved {
            return Some("a pod was moved while the roll-out was paused");
        }
        if !self.differs(place, revision, proven) {
            return None;
        }
        if cluster.paused && (place.role != Role::Node || !record.canaries.contains(place.name)) {
            return Some("a pod that was made again was moved while the roll-out was paused");
        }
        let target = self.revisions.number(&record.target.id);
        if cluster.announced != Some(target) {
            return Some("a pod was told before the status said that the target is not rolled out");
        }
        if self.differs(place, revision, target) {
            return Some("a pod was told neither the target nor what is proven");
        }
        let pod = &cluster.pods[number];
        let is_touched = match pod.asked {
            Some(asked) => self.differs(place, asked, proven),
            None => record.moved.contains(place.name) || record.canaries.contains(place.name),
        };
        if !is_touched && self.differs(place, revision, cluster.desired) {
            return Some("an untouched pod was told what nobody wants");
        }
        let retry = cluster.retry.then_some("again");
        if record.rejection(&record.target.id, retry).is_some() || !record.step.is_judged() {
            return Some("a pod was told a target that was taken back");
        }
        None
    }

    /// Notes who may have the target, and checks that nothing counts as proven that was not watched.
    fn check_record(&self, cluster: &mut Cluster, old: Option<&Record>, new: &Record) {
        let Some(proven) = new.proven.as_ref().map(|proven| self.revisions.number(&proven.id)) else { return };
        if self.revisions.is_bad(proven) {
            cluster.broken = cluster.broken.or(Some("a bad revision counts as proven"));
        }
        let asked_otherwise =
            |pod: &Pod, place: &Place, than: u8| pod.asked.is_some_and(|asked| self.differs(place, asked, than));
        let keys_of = |cluster: &Cluster, than: u8| -> BTreeSet<String> {
            let pods = cluster.pods.iter().zip(&self.places).filter(|(pod, place)| asked_otherwise(pod, place, than));
            pods.map(|(pod, place)| pod.key(place)).collect()
        };
        let Some(old) = old.filter(|old| old.target.id == new.target.id) else {
            cluster.passed = keys_of(cluster, proven);
            return;
        };
        let is_over = (old.step, &old.since) != (new.step, &new.since);
        if is_over && old.step.is_judged() && !new.step.is_going_back() {
            let members = match old.step {
                Step::Moved => keys_of(cluster, proven),
                _ => old.moved.clone(),
            };
            cluster.passed.extend(members);
        }
        let Some(before) = old.proven.as_ref().map(|proven| self.revisions.number(&proven.id)) else { return };
        if proven != before {
            let is_left_out = |(pod, place): (&Pod, &Place)| {
                let is_late = pod.is_new(place) || pod.was_away || old.set_aside.contains(&pod.key(place));
                let reads = self.differs(place, proven, before);
                pod.is_here() && reads && !is_late && !cluster.passed.contains(&pod.key(place))
            };
            if cluster.pods.iter().zip(&self.places).any(is_left_out) {
                cluster.broken = cluster.broken.or(Some("a revision counts as proven where it was not watched"));
            }
            if [Role::Node, Role::Resolver].into_iter().any(|role| self.is_unshown(cluster, role, proven, before)) {
                cluster.broken = cluster.broken.or(Some("a revision counts as proven that no pod has shown"));
            }
        }
        if matches!(new.step, Step::Done | Step::Stopped) {
            cluster.passed.clear();
            cluster.pods.iter_mut().for_each(|pod| pod.was_away = pod.presence == Presence::Away);
        }
    }

    /// Returns whether a role reads what changed, and no pod of it has passed a step.
    fn is_unshown(&self, cluster: &Cluster, role: Role, proven: u8, before: u8) -> bool {
        let is_key = |place: &Place, key: &String| match role {
            Role::Node => key == place.name,
            Role::Resolver => key.strip_prefix(place.name).is_some_and(|rest| rest.starts_with('-')),
        };
        let mut places = self.places.iter().filter(|place| place.role == role);
        let reads = self.revisions.part(proven, role) != self.revisions.part(before, role);
        reads && !places.any(|place| cluster.passed.iter().any(|key| is_key(place, key)))
    }

    fn check_stable(&self, cluster: &mut Cluster, is_leader: bool) {
        let is_proven = self.proven(cluster).is_none_or(|proven| cluster.stable == Some(proven));
        if is_leader && !is_proven || cluster.stable.is_some_and(|stable| self.revisions.is_bad(stable)) {
            cluster.broken = cluster.broken.or(Some("`stable` names a revision that is not proven"));
        }
    }

    /// Returns whether no more nodes of a zone than a step has are on a target that is not proven, beside those that
    /// have passed a step or had an older target.
    pub(super) fn is_within_bounds(&self, cluster: &Cluster) -> bool {
        let Some(proven) = self.proven(cluster) else { return true };
        let is_unproven = |pod: &Pod, place: &Place| {
            let is_other = pod.asked.is_some_and(|asked| self.differs(place, asked, proven));
            place.role == Role::Node && is_other && !cluster.passed.contains(place.name)
        };
        let limit = match cluster.record.as_ref().map(Stored::get) {
            // One that is set aside may not have gone back yet.
            Some(record) if matches!(record.step, Step::Canary | Step::Wave) => 1 + record.set_aside.len(),
            _ => 2,
        };
        let zones: BTreeSet<&str> = self.places.iter().map(|place| place.zone).collect();
        zones.into_iter().all(|zone| {
            let in_zone = cluster.pods.iter().zip(&self.places).filter(|(_, place)| place.zone == zone);
            in_zone.filter(|(pod, place)| is_unproven(pod, place)).count() <= limit
        })
    }

    /// Returns whether the status says `RolledOut` only while no pod has a target that is not proven. After writes of a
    /// leader of before that holds only once the present one has looked again.
    pub(super) fn is_status_right(&self, cluster: &Cluster) -> bool {
        let Some(proven) = self.proven(cluster).filter(|_| cluster.announced.is_none()) else { return true };
        let is_other = |(pod, place): (&Pod, &Place)| pod.asked.is_some_and(|asked| self.differs(place, asked, proven));
        cluster.has_foreign_writes || !cluster.pods.iter().zip(&self.places).any(is_other)
    }

    /// Returns whether the roll-out has ended as it has to, and every pod runs what is proven.
    pub(super) fn is_ended(&self, cluster: &Cluster) -> bool {
        let Some(record) = cluster.record.as_ref().map(Stored::get) else { return false };
        let Some(proven) = &record.proven else { return false };
        let is_running = |(pod, place): (&Pod, &Place)| {
            pod.is_here() && pod.seen(place, &self.revisions).is_running(proven.part(place.role))
        };
        let is_end = match record.step {
            Step::Done => proven.id == self.revisions.id(cluster.desired) && cluster.announced.is_none(),
            Step::Stopped => {
                let rejection = record.rejections.iter().find(|rejection| rejection.target == record.target.id);
                let is_right = |reason: &str| reason == "NotInForce" || self.revisions.is_bad(cluster.desired);
                record.target.id == self.revisions.id(cluster.desired)
                    && rejection.is_some_and(|rejection| is_right(&rejection.reason))
                    && cluster.announced == Some(cluster.desired)
            }
            _ => false,
        };
        let stable = cluster.stable.map(|stable| self.revisions.id(stable));
        is_end && stable == Some(proven.id.as_str()) && cluster.pods.iter().zip(&self.places).all(is_running)
    }
}

/// Returns the promise that the begin of a step breaks.
fn broken_by_step(cluster: &Cluster, old: Option<&Record>, new: &Record) -> Option<&'static str> {
    let old = old?;
    let is_forward = new.step.is_judged() || new.step == Step::Finish;
    let is_further = old.step != new.step || !new.moved.is_subset(&old.moved);
    let is_broken = cluster.is_address_asked && is_forward && is_further;
    is_broken.then_some("a step began while an address was asked that the target gives up")
}

/// Returns the name of the operator that leads in a term.
fn writer(term: u8) -> String {
    format!("operator-{term}")
}

//! Cluster of the model: what the API server holds and what pods run, with coarse time, so that states repeat.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex};

use dnstier_crds::v1alpha1::{Duration, Rollout, WaveSize};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::record::{Record, Rejection, Step};
use crate::controller::rollout::revision::{KnownRevision, TierRevision};
use crate::controller::rollout::simulation::revision;
use crate::controller::rollout::store::StoredRecord;

/// Duration of a tick: longer than the soak, and than what a pod is given after a telling.
const TICK: SignedDuration = SignedDuration::from_secs(15);
/// Age in ticks of what was made before the model begins.
const OLD: u8 = 20;
/// Parts of revisions from this number on are bad.
const FIRST_BAD: u32 = 5;

/// Returns the present time of every state: ages grow instead.
pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn time(age: u8) -> Time {
    Time(now() - TICK * i32::from(age))
}

fn age(time: &Time) -> u8 {
    u8::try_from(now().duration_since(time.0).as_secs() / TICK.as_secs()).unwrap_or(OLD).min(OLD)
}

/// Place of a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) role: Role,
    pub(super) zone: &'static str,
    pub(super) name: &'static str,
}

/// Revisions of the model, by number. The first is the one that runs when the model begins.
#[derive(Clone, Debug)]
pub(super) struct Revisions {
    parts: Vec<(u32, u32)>,
    pub(super) known: Vec<KnownRevision>,
}

impl Revisions {
    /// Returns revisions with these parts for nodes and for resolvers.
    pub(super) fn new(parts: &[(u32, u32)]) -> Self {
        let known = parts.iter().map(|(nodes, resolvers)| revision(*nodes, *resolvers)).collect();
        Self { parts: parts.to_vec(), known }
    }

    pub(super) fn number(&self, id: &str) -> u8 {
        u8::try_from(self.known.iter().position(|known| known.id == id).unwrap()).unwrap()
    }

    pub(super) fn id(&self, number: u8) -> &str {
        &self.known[usize::from(number)].id
    }

    /// Returns the part of a revision that a role reads.
    pub(super) fn part(&self, number: u8, role: Role) -> u32 {
        let (nodes, resolvers) = self.parts[usize::from(number)];
        if role == Role::Node { nodes } else { resolvers }
    }

    pub(super) fn is_part_bad(&self, number: u8, role: Role) -> bool {
        self.part(number, role) >= FIRST_BAD
    }

    pub(super) fn is_bad(&self, number: u8) -> bool {
        [Role::Node, Role::Resolver].into_iter().any(|role| self.is_part_bad(number, role))
    }

    pub(super) fn len(&self) -> u8 {
        u8::try_from(self.parts.len()).unwrap()
    }
}

/// Whether a pod is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Presence {
    Here,
    /// Pod whose node is away.
    Away,
    /// Pod that was deleted, while the one that follows is not there yet.
    Gone,
}

/// Pod of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pod {
    pub(super) asked: Option<u8>,
    pub(super) in_force: Option<u8>,
    pub(super) tellings: u8,
    /// Age of the last telling in ticks, at most 1.
    pub(super) told: Option<u8>,
    /// Age in ticks.
    pub(super) created: u8,
    /// Number of pods before it in this place.
    pub(super) made: u8,
    pub(super) presence: Presence,
    /// Whether its node was away in this roll-out: nobody watched what it did meanwhile.
    pub(super) was_away: bool,
}

impl Pod {
    pub(super) const fn new(made: u8, created: u8, asked: Option<u8>) -> Self {
        let tellings = if asked.is_some() { 1 } else { 0 };
        let (presence, was_away) = (Presence::Here, false);
        Self { asked, in_force: asked, tellings, told: None, created, made, presence, was_away }
    }

    pub(super) const fn old(asked: Option<u8>) -> Self {
        Self::new(0, OLD, asked)
    }

    pub(super) fn is_here(&self) -> bool {
        self.presence == Presence::Here
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_here() && self.asked.is_some() && self.asked != self.in_force
    }

    /// Returns whether a resolver may be younger than the roll-out: it gets the target at the end. Nodes are older.
    pub(super) fn is_new(&self, place: &Place) -> bool {
        place.role == Role::Resolver && (self.created != OLD || self.made > 0)
    }

    /// Returns the pod as the planner sees it.
    pub(super) fn seen(&self, place: &Place, revisions: &Revisions) -> RolloutPod {
        let id = |number: Option<u8>| number.map(|number| revisions.id(number).to_owned());
        RolloutPod {
            role: place.role,
            name: self.name(place),
            zone: place.zone.to_owned(),
            node: (place.role == Role::Node).then(|| place.name.to_owned()),
            ready: self.is_here(),
            away: self.presence == Presence::Away,
            out_of_reach: false,
            unpolled: false,
            is_unanswered: false,
            asked: id(self.asked),
            in_force: id(self.in_force),
            tellings: self.tellings,
            told: self.told.map(|age| time(age).0),
            responses: 0,
            created: time(self.created).0,
            joined: time(if place.role == Role::Node { OLD } else { self.created }).0,
        }
    }

    pub(super) fn name(&self, place: &Place) -> String {
        format!("{}-{}", place.name, self.made)
    }

    /// Returns what a record knows the pod by.
    pub(super) fn key(&self, place: &Place) -> String {
        if place.role == Role::Node { place.name.to_owned() } else { self.name(place) }
    }
}

/// Record in its ConfigMap. It is shared, because most actions leave it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored(Arc<Record>);

impl Stored {
    /// Writes a record and reads it back.
    pub(super) fn write(record: Record) -> Self {
        static WRITTEN: LazyLock<Mutex<HashMap<u64, Stored>>> = LazyLock::new(Mutex::default);
        let new = Self(Arc::new(record));
        let mut hasher = DefaultHasher::new();
        new.hash(&mut hasher);
        let hash = hasher.finish();
        // To write and to read takes longer than all else, so that it is done once for each record.
        if let Some(written) = WRITTEN.lock().unwrap().get(&hash).filter(|written| **written == new) {
            return written.clone();
        }
        let config_map: ConfigMap = StoredRecord::default().replaced_by(&new.0, ObjectMeta::default());
        let read = StoredRecord::read(Some(&config_map)).record;
        assert_eq!(read.as_ref(), Some(&*new.0), "a record is read as it was written");
        WRITTEN.lock().unwrap().insert(hash, new.clone());
        new
    }

    pub(super) fn get(&self) -> &Record {
        &self.0
    }

    /// Makes a tick pass, and maps the times of the record by their ages. What says nothing to the planner is dropped.
    fn map_ages(&mut self, map: &impl Fn(u8) -> u8) {
        let (started, since) = (map(age(&self.0.started)), map(age(&self.0.since)));
        let watched = self.0.watched_since.as_ref().map(|since| age(since).min(1));
        let ages = (age(&self.0.started), age(&self.0.since), self.0.watched_since.as_ref().map(age));
        let is_plain = |rejection: &Rejection| rejection.sentence.is_empty() && age(&rejection.time) == OLD;
        let is_absent_now = self.0.absent.values().all(|since| age(since) == 0);
        if (started, since, watched) == ages && is_absent_now && self.0.rejections.iter().all(is_plain) {
            return;
        }
        let mut record = (*self.0).clone();
        (record.started, record.since, record.watched_since) = (time(started), time(since), watched.map(time));
        record.absent.values_mut().for_each(|since| *since = time(0));
        for rejection in &mut record.rejections {
            rejection.time = time(OLD);
            rejection.sentence.clear();
        }
        self.0 = Arc::new(record);
    }

    fn tick(&mut self) {
        let mut record = (*self.0).clone();
        let later = |of: &Time| time(age(of) + 1);
        (record.started, record.since) = (later(&record.started), later(&record.since));
        record.watched_since = record.watched_since.as_ref().map(later);
        self.0 = Arc::new(record);
    }
}

impl Hash for Stored {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let record = &*self.0;
        let hash_revision = |revision: &TierRevision, hasher: &mut H| {
            (&revision.id, &revision.nodes, &revision.resolvers).hash(hasher);
        };
        hash_revision(&record.target, hasher);
        record.proven.is_some().hash(hasher);
        record.proven.iter().for_each(|proven| hash_revision(proven, hasher));
        (record.step.name(), &record.zone, &record.moved, &record.canaries, &record.zones).hash(hasher);
        (&record.superseded, &record.set_aside, record.replaced).hash(hasher);
        (record.resolvers_passed, record.nodes_passed, &record.writer).hash(hasher);
        (age(&record.started), age(&record.since), record.watched_since.as_ref().map(age)).hash(hasher);
        for rejection in &record.rejections {
            (&rejection.target, &rejection.reason, &rejection.retry).hash(hasher);
        }
    }
}

/// Copy of the record's ConfigMap that an operator has read, where that is not what the ConfigMap holds.
pub(super) type Outdated = Option<Option<Stored>>;

/// Writes of a pass, or those that are left of it, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Writes {
    /// Record, when it differs from the one that was read.
    pub(super) record: Option<Stored>,
    /// Whether the ConfigMap has another version than the one that was read.
    pub(super) is_outdated: bool,
    /// Revision for the key `stable`, when it differs.
    pub(super) stable: Option<u8>,
    /// Pods to tell: place, number of the pod there, revision, number of the telling.
    pub(super) asks: Vec<(u8, u8, u8, u8)>,
    /// Target of the status, while it is not rolled out.
    pub(super) announced: Option<Option<u8>>,
}

impl Writes {
    /// Returns the number of writes.
    pub(super) fn number(&self) -> u8 {
        let others = [self.record.is_some(), self.stable.is_some(), self.announced.is_some()];
        others.into_iter().map(u8::from).sum::<u8>() + u8::try_from(self.asks.len()).unwrap()
    }
}

/// How often things may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Changes of the spec.
    pub(super) changes: u8,
    /// Crashes, or changes of the leader.
    pub(super) crashes: u8,
    /// Writes of the record that the next leader does not see.
    pub(super) unseen: u8,
    /// Leaders that stand still in a pass and go on when another one leads.
    pub(super) stalls: u8,
    /// Pods that are made again.
    pub(super) removals: u8,
    /// Nodes that go away.
    pub(super) departures: u8,
    /// Pauses.
    pub(super) pauses: u8,
    /// Losses of the record.
    pub(super) losses: u8,
    /// Ticks that pass while pods have not taken over what they were told.
    pub(super) slow_ticks: u8,
    /// Requests for another try.
    pub(super) retries: u8,
    /// Times at which pods begin to ask an address that every target gives up.
    pub(super) uses: u8,
}

/// State of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cluster {
    pub(super) record: Option<Stored>,
    pub(super) stable: Option<u8>,
    /// Target of the status, while the condition `RolledOut` is not true.
    pub(super) announced: Option<u8>,
    pub(super) pods: Vec<Pod>,
    pub(super) desired: u8,
    pub(super) paused: bool,
    /// Whether pods ask an address that every target gives up.
    pub(super) is_address_asked: bool,
    pub(super) retry: bool,
    /// Number of the leader.
    pub(super) term: u8,
    /// Copy that the leader has read, when it is outdated.
    pub(super) leader_read: Outdated,
    /// Copy that the next leader has read, when it is outdated.
    pub(super) standby_read: Outdated,
    /// Pass of a leader of before that stands still.
    pub(super) stalled: Option<Writes>,
    /// Nodes that may have the target beside those of the step: they passed one, or came with an older target.
    pub(super) passed: BTreeSet<String>,
    /// Whether a leader of before has written something, and the present one has not looked since.
    pub(super) has_foreign_writes: bool,
    pub(super) budget: Budget,
    /// First promise that an action broke.
    pub(super) broken: Option<&'static str>,
}

impl Cluster {
    /// Lets a tick pass.
    pub(super) fn tick(&mut self) {
        self.records_mut().into_iter().for_each(Stored::tick);
        for pod in &mut self.pods {
            pod.told = pod.told.map(|age| age + 1);
            if pod.created != OLD {
                pod.created += 1;
            }
        }
    }

    /// Forgets of the time what nothing depends on: the order of starts remains, and whether a tick has passed.
    pub(super) fn normalize(&mut self) {
        let starts = |stored: &mut Stored| [age(&stored.0.started), age(&stored.0.since)];
        let of_records: BTreeSet<u8> = self.records_mut().into_iter().flat_map(starts).collect();
        for pod in &mut self.pods {
            pod.told = pod.told.map(|age| age.min(1));
            // A pod that is older than all steps is like one that was always there.
            if of_records.first().is_some_and(|_| of_records.iter().all(|age| pod.created >= *age)) && pod.created > 0 {
                pod.created = OLD;
            }
        }
        let created = self.pods.iter().map(|pod| pod.created).filter(|age| *age != OLD);
        let ages: BTreeSet<u8> = of_records.iter().copied().chain(created).collect();
        let mut new_ages = Vec::new();
        let mut last: Option<(u8, u8)> = None;
        for age in ages {
            let new = last.map_or_else(|| age.min(1), |(old, new)| new + (age - old).min(1));
            new_ages.push((age, new));
            last = Some((age, new));
        }
        let map = |age: u8| new_ages.iter().find(|(old, _)| *old == age).map_or(age, |(_, new)| *new);
        self.records_mut().into_iter().for_each(|stored| stored.map_ages(&map));
        for pod in self.pods.iter_mut().filter(|pod| pod.created != OLD) {
            pod.created = map(pod.created);
        }
    }

    fn records_mut(&mut self) -> Vec<&mut Stored> {
        let stalled = self.stalled.as_mut().and_then(|writes| writes.record.as_mut());
        let read = [&mut self.leader_read, &mut self.standby_read];
        let read = read.into_iter().filter_map(|read| read.as_mut().and_then(Option::as_mut));
        self.record.iter_mut().chain(read).chain(stalled).collect()
    }

    /// Returns the step of the record.
    pub(super) fn step(&self) -> Option<Step> {
        self.record.as_ref().map(|record| record.get().step)
    }

    /// Returns the target of the record.
    pub(super) fn target(&self) -> Option<&str> {
        self.record.as_ref().map(|record| record.get().target.id.as_str())
    }
}

/// Returns the settings: a wave is one node, and a soak is over after a tick.
pub(super) fn settings(paused: bool) -> Rollout {
    Rollout {
        soak: Duration::from_seconds(10),
        canaries_per_zone: 1,
        wave_size: WaveSize::Nodes(1),
        paused,
        ..Rollout::default()
    }
}

//! The pods of a tier as a roll-out sees them: who is there, who goes next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Number of times that a pod is told its revision: once, and three times again.
pub(crate) const MAX_TELLINGS: u8 = 4;
/// Time after which a pod that does not have its revision in force is told again.
pub(crate) const TELL_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// Time after the last telling at which a pod is given up, half a minute after the first.
const GIVE_UP_AFTER: SignedDuration = SignedDuration::from_secs(15);
/// Time by which the clock of an operator may be behind that of the one that wrote a time.
const MAX_CLOCK_LAG: SignedDuration = SignedDuration::from_secs(5);

/// Role of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// Resolver of a zone.
    Resolver,
    /// Caches of a node.
    Node,
}

/// A pod that is not terminating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RolloutPod {
    /// Role.
    pub(crate) role: Role,
    /// Name of the pod: what the caller finds it by.
    pub(crate) name: String,
    /// Zone.
    pub(crate) zone: String,
    /// Node; the pod that follows this one there takes its place in a step. `None` until the pod is scheduled.
    pub(crate) node: Option<String>,
    /// Whether the pod is ready.
    pub(crate) ready: bool,
    /// Whether its node is away.
    pub(crate) away: bool,
    /// Whether the API server has refused for half a minute to let the pod be told a revision.
    pub(crate) out_of_reach: bool,
    /// Whether the first poll of the pod in this term of the operator is still to come. What it runs is not known yet.
    pub(crate) unpolled: bool,
    /// Whether the last poll of the pod has failed.
    pub(crate) is_unanswered: bool,
    /// Configuration that the pod is asked to run; `None` for a new pod.
    pub(crate) asked: Option<String>,
    /// Configuration that the pod says it runs; `None` while it has not said.
    pub(crate) in_force: Option<String>,
    /// Number of times that the pod was told `asked`, and the last time; once, long ago, where that is not known.
    pub(crate) tellings: u8,
    /// Time of the last telling; `None` where that is not known.
    pub(crate) told: Option<Timestamp>,
    /// Responses of the pod in the last minute.
    pub(crate) responses: u64,
    /// Time at which the pod was made.
    pub(crate) created: Timestamp,
    /// Time at which the Node was made, however often its pod was made again; of a resolver, that of the pod.
    pub(crate) joined: Timestamp,
}

impl RolloutPod {
    /// Returns what a pod is known by in a record: a node, on which another pod takes its place, or a resolver's name.
    #[must_use]
    pub(crate) fn key(&self) -> &str {
        match (self.role, &self.node) {
            (Role::Node, Some(node)) => node,
            _ => &self.name,
        }
    }

    /// Returns whether the pod can be told a revision and is seen to take it over.
    #[must_use]
    pub(crate) const fn is_reachable(&self) -> bool {
        !self.away && !self.out_of_reach
    }

    /// Returns whether the pod is asked to run a configuration.
    #[must_use]
    pub(crate) fn is_asked(&self, revision: &str) -> bool {
        self.asked.as_deref() == Some(revision)
    }

    /// Returns whether the pod is asked to run a configuration and runs it.
    #[must_use]
    pub(crate) fn is_running(&self, revision: &str) -> bool {
        self.is_asked(revision) && self.in_force.as_deref() == Some(revision)
    }

    /// Returns whether the pod does not have in force what it is asked to run and is to be told again by now.
    ///
    /// A pod that was not polled yet may have it. One that does not say what it runs is told again only while something
    /// moves.
    #[must_use]
    pub(crate) fn is_due_again(&self, is_moving: bool, now: Timestamp) -> bool {
        let is_late = self.told.is_none_or(|told| has_passed(told, TELL_AGAIN_AFTER, now));
        let is_known = self.in_force.is_some() || is_moving;
        let is_behind = self.asked.is_some() && self.in_force != self.asked;
        !self.away && !self.unpolled && is_known && is_behind && self.tellings < MAX_TELLINGS && is_late
    }

    /// Returns whether the pod was told often enough and does not have in force what it is asked to run. One that was
    /// not polled yet may have it.
    #[must_use]
    pub(crate) fn is_silent(&self, now: Timestamp) -> bool {
        let is_given_up = self.told.is_none_or(|told| has_passed(told, GIVE_UP_AFTER, now));
        let is_behind = self.asked.is_some() && self.in_force != self.asked;
        !self.unpolled && is_behind && self.tellings >= MAX_TELLINGS && is_given_up
    }

    /// Returns whether the pod can be chosen for a step, ready or not. One that was not asked anything yet runs what is
    /// proven.
    fn is_candidate(&self, role: Role, proven: &str, set_aside: &BTreeSet<String>) -> bool {
        let runs_proven = self.asked.as_deref().is_none_or(|asked| asked == proven);
        self.role == role && self.is_reachable() && runs_proven && !set_aside.contains(self.key())
    }
}

/// Returns whether a span has passed since a time that some operator wrote. One that lies ahead is of another clock,
/// and nobody waits for it.
fn has_passed(since: Timestamp, span: SignedDuration, now: Timestamp) -> bool {
    now.duration_since(since) >= span || is_ahead(since, now)
}

/// Returns whether a time lies so far ahead that an operator with another clock has written it.
#[must_use]
pub(crate) fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) > MAX_CLOCK_LAG
}

/// Returns the zones with pods of a role: those with the fewest first, then by name.
#[must_use]
pub(crate) fn zones(pods: &[RolloutPod], role: Role) -> Vec<&str> {
    let mut sizes = BTreeMap::<&str, usize>::new();
    for pod in pods.iter().filter(|pod| pod.role == role) {
        *sizes.entry(&pod.zone).or_default() += 1;
    }
    let mut zones: Vec<(usize, &str)> = sizes.into_iter().map(|(zone, size)| (size, zone)).collect();
    zones.sort_unstable();
    zones.into_iter().map(|(_, zone)| zone).collect()
}

/// Returns the pods of a zone that run the proven configuration and can be chosen for a step, by name. They are ready.
/// Where no resolver of the tier is, those that answer polls can be chosen: the change may be what makes them ready.
#[must_use]
pub(crate) fn candidates<'a>(
    pods: &'a [RolloutPod],
    role: Role,
    zone: &str,
    proven: &str,
    set_aside: &BTreeSet<String>,
) -> Vec<&'a RolloutPod> {
    let is_ready = |pod: &RolloutPod| pod.role == role && pod.ready && pod.is_reachable();
    let needs_ready = role == Role::Node || pods.iter().any(is_ready);
    let answers = |pod: &RolloutPod| pod.in_force.is_some() && !pod.is_unanswered;
    let may_go = |pod: &RolloutPod| pod.ready || !needs_ready && answers(pod);
    let is_one = |pod: &&RolloutPod| pod.zone == zone && may_go(pod) && pod.is_candidate(role, proven, set_aside);
    let mut candidates: Vec<&RolloutPod> = pods.iter().filter(is_one).collect();
    candidates.sort_by_key(|pod| pod.key());
    candidates
}

/// Sorts candidates for the first step of their zone: those with the most responses first, then by name.
pub(crate) fn sort_by_traffic(candidates: &mut [&RolloutPod]) {
    candidates.sort_by_key(|pod| (Reverse(pod.responses), pod.key()));
}

/// Returns the number of pods of a role in a zone.
#[must_use]
pub(crate) fn zone_size(pods: &[RolloutPod], role: Role, zone: &str) -> usize {
    pods.iter().filter(|pod| pod.role == role && pod.zone == zone).count()
}

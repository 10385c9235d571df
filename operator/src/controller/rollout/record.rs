//! Record of a roll-out: what the operator has to know that the pods do not tell.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::controller::rollout::pods::Role;
use crate::controller::rollout::revision::TierRevision;

/// Maximum number of rejections in a record.
const MAX_REJECTIONS: usize = 10;

/// Record of a roll-out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Revision that is rolled out, or was.
    pub(crate) target: TierRevision,
    /// Last revision that was proven; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proven: Option<TierRevision>,
    /// Step of the roll-out.
    pub(crate) step: Step,
    /// Zone of the step; `None` where it is about all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// Pods of the step: nodes, or names of resolvers.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) moved: BTreeSet<String>,
    /// Nodes that go first. They keep the target when their pod is made again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) canaries: BTreeSet<String>,
    /// Zones of the nodes that go first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) zones: BTreeMap<String, String>,
    /// Configurations that were on their way when this target took their place, and that pods may be asked to run.
    /// Pods on one of them get the target first.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) superseded: BTreeSet<String>,
    /// Pods that were to go first and did not take over the target, or are away: they stay on the proven revision until
    /// the end.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) set_aside: BTreeSet<String>,
    /// Nodes of the step, and nodes that go first, that have no pod: each with the time since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) absent: BTreeMap<String, Time>,
    /// Whether a pod that goes first was replaced, because it did not take over the target. That is done once.
    #[serde(default)]
    pub(crate) replaced: bool,
    /// Whether resolvers with this target have passed a step.
    #[serde(default)]
    pub(crate) resolvers_passed: bool,
    /// Whether nodes with this target have passed a step.
    #[serde(default)]
    pub(crate) nodes_passed: bool,
    /// Start of the roll-out of this target.
    pub(crate) started: Time,
    /// Start of the step.
    pub(crate) since: Time,
    /// Time at which the last pod of the step had the target in force: from here on the step is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) watched_since: Option<Time>,
    /// Targets that were taken back, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rejections: Vec<Rejection>,
    /// Operator that wrote the record, and its term.
    pub(crate) writer: String,
}

/// Step of a roll-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// The first revision goes to all pods at once.
    First,
    /// No pod has been told yet.
    Start,
    /// Pods that ran a superseded revision have the target.
    Moved,
    /// One resolver of a zone has the target.
    Resolver,
    /// The other resolvers of the zone have the target.
    ResolverZone,
    /// Some nodes of each zone have the target.
    Canary,
    /// Some more nodes of a zone have the target.
    Wave,
    /// The target is proven; the last pods get it.
    Finish,
    /// All pods have the target.
    Done,
    /// Pods go back to the proven revision.
    RollingBack,
    /// All pods are back.
    Stopped,
}

impl Step {
    /// Returns the step as the status shows it.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::First => "First",
            Self::Start => "Start",
            Self::Moved => "Moved",
            Self::Resolver => "Resolver",
            Self::ResolverZone => "ResolverZone",
            Self::Canary => "Canary",
            Self::Wave => "Wave",
            Self::Finish => "Finish",
            Self::Done => "Done",
            Self::RollingBack => "RollingBack",
            Self::Stopped => "Stopped",
        }
    }

    /// Returns the role of the pods of the step; `None` where it is about both.
    #[must_use]
    pub(crate) const fn role(self) -> Option<Role> {
        match self {
            Self::Resolver | Self::ResolverZone => Some(Role::Resolver),
            Self::Canary | Self::Wave => Some(Role::Node),
            _ => None,
        }
    }

    /// Returns whether the step is watched and judged.
    #[must_use]
    pub(crate) const fn is_judged(self) -> bool {
        matches!(self, Self::Moved | Self::Resolver | Self::ResolverZone | Self::Canary | Self::Wave)
    }

    /// Returns whether pods go back to the proven revision, or have gone back.
    #[must_use]
    pub(crate) const fn is_going_back(self) -> bool {
        matches!(self, Self::RollingBack | Self::Stopped)
    }
}

/// A target that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rejection {
    /// Name of the target's configuration.
    pub(crate) target: String,
    /// Reason of the condition `RolledOut`.
    pub(crate) reason: String,
    /// Sentence with the figures.
    pub(crate) sentence: String,
    /// Value of the annotation that asks for another try, at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<String>,
    /// Time of the rejection.
    pub(crate) time: Time,
}

impl Record {
    /// Returns the record of a new target.
    #[must_use]
    pub(crate) fn new(target: TierRevision, proven: Option<TierRevision>, step: Step, now: Timestamp) -> Self {
        Self {
            target,
            proven,
            step,
            zone: None,
            moved: BTreeSet::new(),
            canaries: BTreeSet::new(),
            zones: BTreeMap::new(),
            superseded: BTreeSet::new(),
            set_aside: BTreeSet::new(),
            absent: BTreeMap::new(),
            replaced: false,
            resolvers_passed: false,
            nodes_passed: false,
            started: Time(now),
            since: Time(now),
            watched_since: None,
            rejections: Vec::new(),
            writer: String::new(),
        }
    }

    /// Returns the configurations that the record names, which stay in the ConfigMap.
    pub(crate) fn named_revisions(&self) -> impl Iterator<Item = &String> {
        let revisions = [Some(&self.target), self.proven.as_ref()];
        let names = revisions.into_iter().flatten().flat_map(|each| [&each.id, &each.nodes, &each.resolvers]);
        names.chain(&self.superseded)
    }

    /// Returns the configurations of the record that nodes run or will run.
    pub(crate) fn node_revisions(&self) -> impl Iterator<Item = &String> {
        let revisions = [Some(&self.target), self.proven.as_ref()];
        revisions.into_iter().flatten().map(|each| &each.nodes).chain(&self.superseded)
    }

    /// Begins a step for these pods.
    pub(crate) fn begin(&mut self, step: Step, zone: Option<&str>, moved: BTreeSet<String>, now: Timestamp) {
        self.step = step;
        self.zone = zone.map(str::to_owned);
        self.moved = moved;
        self.since = Time(now);
        self.watched_since = None;
    }

    /// Returns the rejection of a target, unless the annotation has asked for another try since.
    #[must_use]
    pub(crate) fn rejection(&self, target: &str, retry: Option<&str>) -> Option<&Rejection> {
        let rejection = self.rejections.iter().find(|rejection| rejection.target == target)?;
        let is_asked_again = retry.is_some() && retry != rejection.retry.as_deref();
        (!is_asked_again).then_some(rejection)
    }

    /// Rejects the target: its pods go back. The pods of this step remain those of the record, and go first.
    pub(crate) fn reject(&mut self, reason: &str, sentence: String, retry: Option<&str>, now: Timestamp) {
        let target = self.target.id.clone();
        self.rejections.retain(|rejection| rejection.target != target);
        let retry = retry.map(str::to_owned);
        self.rejections.insert(0, Rejection { target, reason: reason.to_owned(), sentence, retry, time: Time(now) });
        self.rejections.truncate(MAX_REJECTIONS);
        let (zone, moved) = (self.zone.take(), std::mem::take(&mut self.moved));
        self.begin(Step::RollingBack, zone.as_deref(), moved, now);
    }
}

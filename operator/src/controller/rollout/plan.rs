//! Plan of a pass: the next record, the pods to tell, and what the conditions say. A pure function.

use std::collections::BTreeSet;
use std::time::Duration;

use dnstier_crds::conditions::Reason;
use dnstier_crds::v1alpha1::RolloutStatus;

use crate::controller::rollout::asks::{Ask, asks};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::revision::TierRevision;
use crate::controller::rollout::steps::{Surroundings, Verdict, advance, soak};

/// Interval of looks at pods that are about to take over a revision.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Interval of looks at a step that is watched.
const LOOK: Duration = Duration::from_secs(5);
/// Interval of looks while a roll-out waits for a person.
const LOOK_SELDOM: Duration = Duration::from_secs(30);
/// Reasons of a target that was taken back.
const STOPPED: [Reason; 5] =
    [Reason::JudgedWorse, Reason::RevisionRefused, Reason::NotInForce, Reason::PodCrashed, Reason::WrongAnswers];
/// Kind of a roll-out: its subject.
const KIND: &str = "Configuration";

/// Inputs of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// Record; `None` before the first and when it is lost.
    pub(crate) record: Option<&'a Record>,
    /// Revision of the key `stable`; `None` before there is one.
    pub(crate) stable: Option<&'a TierRevision>,
    /// Revision that the spec results in.
    pub(crate) desired: &'a TierRevision,
    /// Verdict on the step of `record`; `None` before the first look.
    pub(crate) verdict: Option<&'a Verdict>,
    /// Whether the tier should have node pods, also where it has none for a moment.
    pub(crate) wants_nodes: bool,
    /// Name of this operator in its term as the leader.
    pub(crate) writer: &'a str,
    /// Pods, nodes, settings, annotations and the time.
    pub(crate) around: Surroundings<'a>,
}

/// Plan of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Record from now on.
    pub(crate) record: Record,
    /// Whether the record differs from the one that was read. It is written before any pod is told; when that fails,
    /// nobody is told.
    pub(crate) is_changed: bool,
    /// Pods to tell, in this order.
    pub(crate) asks: Vec<Ask>,
    /// State of the condition `RolledOut`.
    pub(crate) rolled_out: RolledOut,
    /// The roll-out as the status shows it.
    pub(crate) status: RolloutStatus,
    /// Time until the next look; `None` while only an event changes anything.
    pub(crate) next_look: Option<Duration>,
}

/// State of the condition `RolledOut`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RolledOut {
    /// Reason; the condition is true for [`Reason::RolledOut`] alone.
    pub(crate) reason: Reason,
    /// Sentence.
    pub(crate) sentence: String,
}

impl RolledOut {
    /// Returns whether the target is in force wherever it is read.
    #[must_use]
    pub(crate) fn is_true(&self) -> bool {
        self.reason == Reason::RolledOut
    }

    /// Returns whether the roll-out was stopped: Degraded and Stalled.
    #[must_use]
    pub(crate) fn is_stopped(&self) -> bool {
        STOPPED.contains(&self.reason)
    }

    /// Returns whether somebody has to do something before the roll-out goes on: Stalled.
    #[must_use]
    pub(crate) fn is_stalled(&self) -> bool {
        self.is_stopped() || self.reason == Reason::AddressInUse
    }
}

/// Plans a pass.
#[must_use]
pub(crate) fn plan(inputs: &Inputs<'_>) -> Plan {
    let around = &inputs.around;
    let mut record = inputs.record.cloned().unwrap_or_else(|| rebuild(inputs));
    adopt(&mut record, inputs);
    // The verdict is about the step that was read.
    let is_same_step = inputs.record.is_some_and(|read| (read.step, &read.since) == (record.step, &record.since));
    advance(&mut record, around, inputs.wants_nodes, inputs.verdict.filter(|_| is_same_step));
    // A new leader writes the record before anything else, also where it leaves it as it is: its copy may be older than
    // what the leader before it has written, and then the write is refused.
    inputs.writer.clone_into(&mut record.writer);
    let is_changed = inputs.record != Some(&record);
    let asks = asks(&record, around);
    let rolled_out = rolled_out(&record, inputs);
    let next_look = next_look(&record, inputs, &asks);
    Plan { is_changed, status: status(&record, inputs), rolled_out, next_look, asks, record }
}

/// Returns the record of a tier that has none: from the proven revision, and from what pods are asked to run.
fn rebuild(inputs: &Inputs<'_>) -> Record {
    let Inputs { around, desired, .. } = inputs;
    let Some(proven) = inputs.stable else {
        return Record::new((*desired).clone(), None, Step::First, around.now);
    };
    let mut record = Record::new(proven.clone(), Some(proven.clone()), Step::Done, around.now);
    let moved = around.pods.iter().filter_map(|pod| pod.asked.as_ref().filter(|asked| *asked != proven.part(pod.role)));
    record.superseded = moved.cloned().collect();
    if !record.superseded.is_empty() {
        // Whose turn it was is not known: they are the first to get the target, or go back.
        record.step = if desired.id == proven.id { Step::RollingBack } else { Step::Moved };
    }
    record
}

/// Makes the desired revision the target, unless the roll-out has to end something first.
fn adopt(record: &mut Record, inputs: &Inputs<'_>) {
    let Inputs { around, desired, .. } = inputs;
    let now = around.now;
    let Some(proven) = record.proven.clone() else {
        if record.target != **desired {
            let rejections = std::mem::take(&mut record.rejections);
            *record = Record { rejections, ..Record::new((*desired).clone(), None, Step::First, now) };
        }
        return;
    };
    let is_rejected = record.rejection(&desired.id, around.retry).is_some();
    let is_retry = record.target.id == desired.id && record.step == Step::Stopped && !is_rejected;
    let is_ending = matches!(record.step, Step::RollingBack | Step::Finish);
    if around.settings.paused || is_ending || (record.target.id == desired.id && !is_retry) {
        return;
    }
    let mut superseded = std::mem::take(&mut record.superseded);
    let parts = [record.target.nodes.clone(), record.target.resolvers.clone()];
    if record.step == Step::Start {
        superseded.extend(parts.clone());
    }
    // One that no pod is asked to run would keep its key in the ConfigMap for nothing.
    superseded.retain(|revision| around.pods.iter().any(|pod| pod.is_asked(revision)));
    if record.step.is_judged() {
        // The watch may not have delivered the last tellings yet.
        superseded.extend(parts);
    }
    let mut rejections = std::mem::take(&mut record.rejections);
    if !is_rejected {
        rejections.retain(|rejection| rejection.target != desired.id);
    }
    let step = if is_rejected || desired.id == proven.id { Step::RollingBack } else { Step::Start };
    let target = if desired.id == proven.id { proven.clone() } else { (*desired).clone() };
    let (zone, moved) = match step {
        // The pods of the newest step go back first.
        Step::RollingBack => (record.zone.take(), std::mem::take(&mut record.moved)),
        _ => (None, BTreeSet::new()),
    };
    *record = Record { superseded, rejections, zone, moved, ..Record::new(target, Some(proven), step, now) };
}

fn rolled_out(record: &Record, inputs: &Inputs<'_>) -> RolledOut {
    let Inputs { around, desired, verdict, .. } = inputs;
    let target = &record.target.id;
    let is_awaited = record.target.id != desired.id;
    let (paused, said) = (around.settings.paused && record.proven.is_some(), verdict_sentence(*verdict));
    let rejection = record.rejections.iter().find(|rejection| rejection.target == *target);
    let stopped = rejection.map(|rejection| {
        let reason = STOPPED.iter().find(|reason| reason.name() == rejection.reason);
        (*reason.unwrap_or(&Reason::JudgedWorse), rejection.sentence.clone())
    });
    let zone = record.zone.as_deref().unwrap_or_default();
    let standstill = around.standstill(record);
    let (reason, sentence) = match record.step {
        Step::Done if !is_awaited => (Reason::RolledOut, format!("Revision {target} is in force wherever it is read.")),
        Step::Stopped if !is_awaited => {
            stopped.unwrap_or_else(|| (Reason::JudgedWorse, format!("Revision {target} was taken back.")))
        }
        _ if paused => (Reason::Paused, format!("The roll-out of revision {} is paused.{said}", desired.id)),
        Step::RollingBack => {
            let why = stopped.map(|(_, sentence)| format!(" {sentence}")).unwrap_or_default();
            let proven = record.proven.as_ref().map_or("", |proven| &proven.id);
            (Reason::RollingBack, format!("Pods go back to revision {proven}.{why}"))
        }
        _ if matches!(verdict, Some(Verdict::Hold { are_controls_failing: true, .. })) => {
            (Reason::ControlsFailing, format!("Pods that are not changed fail too.{said}"))
        }
        _ if standstill.is_some() => (Reason::AddressInUse, standstill.unwrap_or_default()),
        Step::Start | Step::Done | Step::Stopped => {
            let proven = record.proven.as_ref();
            let is_of_resolvers = proven.is_none_or(|proven| proven.resolvers != desired.resolvers);
            let reason = if is_of_resolvers { Reason::Resolvers } else { Reason::Canary };
            (reason, format!("The roll-out of revision {} begins.", desired.id))
        }
        Step::Moved => (Reason::Canary, format!("Pods of a superseded revision take over revision {target}.{said}")),
        Step::Resolver if record.moved.is_empty() => {
            (Reason::Resolvers, format!("Revision {target} waits for a resolver that is there and answers."))
        }
        Step::Canary if record.moved.is_empty() => {
            (Reason::Canary, format!("Revision {target} waits for a node that is ready."))
        }
        Step::Resolver => {
            (Reason::Resolvers, format!("A resolver of zone {zone:?} takes over revision {target}.{said}"))
        }
        Step::ResolverZone => {
            (Reason::Resolvers, format!("The resolvers of zone {zone:?} take over revision {target}.{said}"))
        }
        Step::Canary => (Reason::Canary, format!("The first nodes of each zone take over revision {target}.{said}")),
        Step::Wave => (Reason::Wave, format!("Nodes of zone {zone:?} take over revision {target}.{said}")),
        Step::First | Step::Finish => (Reason::Wave, format!("All pods take over revision {target}.")),
    };
    RolledOut { reason, sentence }
}

fn verdict_sentence(verdict: Option<&Verdict>) -> String {
    match verdict {
        Some(Verdict::Fail { sentence, .. } | Verdict::Hold { sentence, .. }) => format!(" {sentence}"),
        Some(Verdict::Pass) | None => String::new(),
    }
}

fn status(record: &Record, inputs: &Inputs<'_>) -> RolloutStatus {
    let pods = inputs.around.pods;
    let is_proven = matches!(record.step, Step::First | Step::Finish | Step::Done) || record.proven.is_none();
    let reads = |target: &TierRevision, role| {
        is_proven || record.proven.as_ref().is_none_or(|proven| proven.part(role) != target.part(role))
    };
    let readers = pods.iter().filter(|pod| reads(&record.target, pod.role));
    let (mut moved, mut total) = (0, 0);
    for pod in readers {
        total += 1;
        moved += u32::from(pod.is_asked(record.target.part(pod.role)));
    }
    RolloutStatus {
        kind: KIND.to_owned(),
        target: record.target.id.clone(),
        step: record.step.name().to_owned(),
        zone: record.zone.clone(),
        moved,
        total,
        since: Some(record.since.clone()),
    }
}

fn next_look(record: &Record, inputs: &Inputs<'_>, asks: &[Ask]) -> Option<Duration> {
    let around = &inputs.around;
    let soak = soak(around.settings);
    match record.step {
        Step::Done | Step::Stopped if asks.is_empty() && record.target.id == inputs.desired.id => None,
        _ if around.settings.paused && record.proven.is_some() => Some(LOOK),
        Step::Start if around.obstacle(record).is_some() => Some(LOOK_SELDOM),
        step if step.is_judged() => Some(match &record.watched_since {
            Some(since) => {
                let left = Duration::try_from(soak - around.now.duration_since(since.0)).unwrap_or_default();
                if left.is_zero() { LOOK } else { left.clamp(LOOK_SOON, LOOK) }
            }
            None => LOOK_SOON,
        }),
        _ => Some(LOOK_SOON),
    }
}

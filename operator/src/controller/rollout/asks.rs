//! Which pod should run which revision now, and in which order they are told.

use std::cmp::Reverse;

use crate::controller::rollout::pods::{Role, RolloutPod, zones};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::revision::TierRevision;
use crate::controller::rollout::steps::{Surroundings, is_moved};

/// Pod that is to be told its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Role of the pod.
    pub(crate) role: Role,
    /// Name of the pod.
    pub(crate) pod: String,
    /// Configuration to run.
    pub(crate) revision: String,
    /// Number of this telling, from 1. Another number than before is what the kubelet notices.
    pub(crate) telling: u8,
}

/// Returns the pods to tell, in order: new pods, then the step's, and on the way back the newest first.
#[must_use]
pub(crate) fn asks(record: &Record, around: &Surroundings<'_>) -> Vec<Ask> {
    let zone_order = [Role::Resolver, Role::Node].map(|role| zones(around.pods, role));
    let is_moving = !matches!(record.step, Step::Done | Step::Stopped);
    let mut asks = Vec::new();
    for pod in around.pods {
        let Some(revision) = revision_of(record, around, pod) else { continue };
        let telling = if !pod.is_asked(revision) {
            1
        } else if pod.is_due_again(is_moving, around.now) && !around.settings.paused {
            pod.tellings + 1
        } else {
            continue;
        };
        let is_known = pod.asked.is_some();
        let of_role = &zone_order[usize::from(pod.role == Role::Node)];
        let zone = of_role.iter().position(|zone| *zone == pod.zone).unwrap_or_default();
        let is_first = record.canaries.contains(pod.key());
        let forward = (is_known, pod.role, !is_first, zone, pod.key());
        let back = (is_known, !record.moved.contains(pod.key()), Reverse((pod.role, !is_first, zone, pod.key())));
        let order = if record.step.is_going_back() { (Some(back), None) } else { (None, Some(forward)) };
        asks.push((order, Ask { role: pod.role, pod: pod.name.clone(), revision: revision.to_owned(), telling }));
    }
    asks.sort_by_key(|(order, _)| *order);
    asks.into_iter().map(|(_, ask)| ask).collect()
}

/// Returns the configuration that a pod should run; `None` where it stays as it is.
fn revision_of<'a>(record: &'a Record, around: &Surroundings<'_>, pod: &RolloutPod) -> Option<&'a str> {
    let target = record.target.part(pod.role);
    let Some(proven) = &record.proven else { return Some(target) };
    let revision = revision_of_known(record, around, proven, pod);
    if !around.settings.paused {
        return revision;
    }
    // While the roll-out is paused, only pods without a revision get one: the proven one, but on nodes that go first.
    let is_first = pod.role == Role::Node && record.canaries.contains(pod.key());
    match &pod.asked {
        Some(_) => revision.filter(|revision| pod.is_asked(revision)),
        None if is_first => revision,
        None => Some(proven.part(pod.role)),
    }
}

fn revision_of_known<'a>(
    record: &'a Record,
    around: &Surroundings<'_>,
    proven: &'a TierRevision,
    pod: &RolloutPod,
) -> Option<&'a str> {
    let (target, proven_part) = (record.target.part(pod.role), proven.part(pod.role));
    let is_moved = is_moved(record, proven, pod);
    match record.step {
        Step::First | Step::Finish | Step::Done | Step::RollingBack | Step::Stopped => Some(proven_part),
        _ if target == proven_part => Some(proven_part),
        Step::Start => (!is_moved).then_some(proven_part),
        Step::Moved if is_moved && (pod.away || !around.may_tell(record)) => None,
        Step::Moved => Some(if is_moved { target } else { proven_part }),
        Step::Resolver | Step::ResolverZone | Step::Canary | Step::Wave => {
            let key = pod.key();
            let role =
                if matches!(record.step, Step::Resolver | Step::ResolverZone) { Role::Resolver } else { Role::Node };
            let is_of_step = pod.role == role && record.moved.contains(key);
            let is_first = pod.role == Role::Node && record.canaries.contains(key);
            if record.set_aside.contains(key) {
                return Some(proven_part);
            }
            match is_of_step || is_first {
                _ if pod.is_asked(target) => Some(target),
                // What it is asked stays while the node is away: nobody would see what it does.
                true if pod.away && pod.asked.is_some() => None,
                true if is_of_step && !around.may_tell(record) => Some(proven_part),
                true => Some(target),
                false => Some(proven_part),
            }
        }
    }
}

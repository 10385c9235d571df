//! Start of a tier: the first minutes, in which parts that do not answer yet are no problem, and whether a tier was
//! ready before.

use dnstier_crds::conditions::{ConditionStatus, ConditionType, Reason};
use dnstier_crds::v1alpha1::DnsTierStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;

use crate::controller::observe::Observed;
use crate::controller::owned::names;

/// Time after the creation of a tier in which parts that do not answer yet are no problem.
const START_PERIOD: SignedDuration = SignedDuration::from_mins(3);
/// Time after the creation of a tier that was never ready, and of its DaemonSet, in which they are none.
const FIRST_START_PERIOD: SignedDuration = SignedDuration::from_mins(5);

/// Returns whether a tier is in its first minutes. One that was never ready starts when it has its DaemonSet: it may
/// have been there before the operator, or may have been refused at first.
#[must_use]
pub(crate) fn is_starting(observed: &Observed) -> bool {
    let (tier, now) = (&observed.tier, observed.now);
    let is_within = |period: SignedDuration, begin: Option<Time>| {
        begin.is_some_and(|Time(begin)| now.duration_since(begin) < period)
    };
    if was_ready(tier.status.as_ref()) {
        return is_within(START_PERIOD, tier.creation_timestamp());
    }
    let name = names::node_cache(&tier.name_any());
    let daemon_set = observed.owned.daemon_sets.iter().find(|daemon_set| daemon_set.name_any() == name);
    daemon_set.is_none_or(|daemon_set| {
        is_within(FIRST_START_PERIOD, tier.creation_timestamp().max(daemon_set.creation_timestamp()))
    })
}

/// Returns whether a reason is usual in the first minutes of a tier.
#[must_use]
pub(super) const fn is_usual(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Starting
            | Reason::NodesNotReady
            | Reason::ResolversNotReady
            | Reason::NoResolvers
            | Reason::StatusUnknown
            | Reason::UpstreamUnreachable
    )
}

/// Returns the time at which a tier was ready for the first time, by its previous status and its conditions now.
#[must_use]
pub(super) fn first_ready_time(previous: &DnsTierStatus, conditions: &[Condition]) -> Option<Time> {
    let by_condition = || ready_time(&previous.conditions).or_else(|| ready_time(conditions));
    previous.first_ready_time.clone().or_else(by_condition)
}

/// Returns whether a tier was ready before, by its status.
#[must_use]
pub(super) fn was_ready(status: Option<&DnsTierStatus>) -> bool {
    status.is_some_and(|status| first_ready_time(status, &[]).is_some())
}

/// Returns the time since which the condition `Ready` is true; `None` while it is not.
fn ready_time(conditions: &[Condition]) -> Option<Time> {
    let is_ready = |condition: &&Condition| {
        condition.type_ == ConditionType::Ready.name() && condition.status == ConditionStatus::True.name()
    };
    conditions.iter().find(is_ready).map(|condition| condition.last_transition_time.clone())
}

mod away;
mod deadline;
mod degradation;
mod exclusion;
mod local_percent;
mod readiness;
mod recorded;
mod rollout;
mod stall;
mod start;
mod throttling;
mod upstreams;

use std::sync::Arc;

use dnstier_crds::conditions::Reason;
use dnstier_crds::v1alpha1::RolloutStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;
use crate::controller::apply::RolloutState;
use crate::controller::fixtures::{build_desired, cluster, serving, settings};
use crate::controller::rollout::plan::RolledOut;
use crate::controller::rollout::revision::TierRevision;
use crate::controller::validate::validate;

/// Returns the status after a reconciliation without failures.
fn reconciled_status(observed: &Observed) -> DnsTierStatus {
    compute(observed, &settings(), &valid_outcome(observed, None))
}

/// Returns the outcome of applying the desired state when all objects are up to date.
fn valid_outcome(observed: &Observed, failure: Option<Finding>) -> ApplyOutcome {
    let warnings = validate(observed, &settings()).unwrap().warnings;
    let rollout = build_desired(observed).revision.map(|revision| rolled_out(&revision.id));
    ApplyOutcome::Valid { warnings, rollout, writes: 0, failure }
}

/// Returns the state of a roll-out that has ended.
fn rolled_out(id: &str) -> RolloutState {
    let (nodes, resolvers) = (id.to_owned(), id.to_owned());
    RolloutState {
        desired: TierRevision { id: id.to_owned(), nodes, resolvers },
        rolled_out: RolledOut { reason: Reason::RolledOut, sentence: "It is in force.".to_owned() },
        status: RolloutStatus { step: "Done".to_owned(), target: id.to_owned(), ..RolloutStatus::default() },
    }
}

/// Returns the cluster after a status was written.
fn with_status(mut observed: Observed, status: DnsTierStatus) -> Observed {
    let tier = Arc::make_mut(&mut observed.tier);
    tier.status = Some(status);
    observed
}

/// Returns a cluster in which the tier is in force and its status was written.
fn settled() -> Observed {
    let observed = serving("{}");
    let status = reconciled_status(&observed);
    with_status(observed, status)
}

fn condition<'a>(status: &'a DnsTierStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Asserts that a condition is present, with this status and reason and these parts in its message.
#[track_caller]
fn assert_condition(status: &DnsTierStatus, type_: &str, truth: &str, reason: Reason, parts: &[&str]) {
    let condition = condition(status, type_).unwrap_or_else(|| panic!("no {type_} in {:?}", status.conditions));
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), (truth, reason.name()), "{condition:?}");
    for part in parts {
        assert!(condition.message.contains(part), "{part:?} is not in {:?}", condition.message);
    }
}

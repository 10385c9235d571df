//! Signs of one pod that need no statistics: rejection, restart, a failed self-query.

use std::net::IpAddr;

use crate::controller::judge::pod_look::PodLook;
use crate::controller::judge::track::Baseline;
use crate::controller::judge::verdict::FailReason;
use crate::controller::rollout::pods::Role;

/// Returns the reason to roll back and a sentence, when a pod shows a hard sign. `is_sign` tells whether a failed
/// self-query at an address is one. Of a pod that does not answer, the kubelet still tells that it restarts.
#[must_use]
pub(crate) fn find(
    look: &PodLook,
    baseline: &Baseline,
    is_sign: impl Fn(&IpAddr) -> bool,
) -> Option<(FailReason, String)> {
    let pod = describe(look);
    let report = look.report.as_ref();
    if let Some(refusal) = report.and_then(|report| report.refusal.as_ref()) {
        return Some((FailReason::RevisionRefused, format!("{pod} refuses the revision: {refusal}")));
    }
    let of_processes = report.filter(|report| baseline.is_before_restart(report)).map(|report| {
        // A process that was started by another one than the kubelet may not be counted.
        report.restarts.saturating_sub(baseline.restarts).max(1)
    });
    let restarts = of_processes.unwrap_or(0).max(look.container_restarts.saturating_sub(baseline.container_restarts));
    if restarts > 0 {
        let times = if restarts == 1 { "once".to_owned() } else { format!("{restarts} times") };
        return Some((FailReason::PodCrashed, format!("{pod} has restarted {times} since it was told of the change")));
    }
    let mut failures = report?.self_query_failures.iter();
    let (address, reason) = failures.find(|(address, _)| is_sign(address))?;
    Some((FailReason::PodCrashed, describe_failure(look, address, reason)))
}

/// Returns the sentence about a failed self-query of a pod.
#[must_use]
pub(crate) fn describe_failure(look: &PodLook, address: &IpAddr, reason: &str) -> String {
    format!("{} does not reach its own caches: {address}: {reason}", describe(look))
}

/// Returns a pod as sentences name it.
#[must_use]
pub(crate) fn describe(look: &PodLook) -> String {
    match look.role {
        Role::Node => format!("The pod on node {}", look.name),
        Role::Resolver => format!("Resolver {}", look.name),
    }
}

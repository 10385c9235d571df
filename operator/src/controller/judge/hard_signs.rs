//! Signs of one pod that need no statistics: rejection, restart, a failed self-query.

use crate::controller::judge::pod_look::PodLook;
use crate::controller::judge::track::Baseline;
use crate::controller::judge::verdict::FailReason;
use crate::controller::rollout::pods::Role;

/// Returns the reason to roll back and a sentence, when a pod shows a hard sign. Of a pod that does not answer, the
/// kubelet still tells that it restarts.
#[must_use]
pub(crate) fn find(look: &PodLook, baseline: &Baseline) -> Option<(FailReason, String)> {
    let pod = match look.role {
        Role::Node => format!("The pod on node {}", look.name),
        Role::Resolver => format!("Resolver {}", look.name),
    };
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
    let (address, reason) = failures.find(|(address, _)| !baseline.unanswered.contains(*address))?;
    Some((FailReason::PodCrashed, format!("{pod} does not reach its own caches: {address}: {reason}")))
}

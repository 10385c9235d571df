//! Signs of one pod that need no statistics: rejection, restart, a failed self-query.

use crate::controller::judge::pod_look::PodReport;
use crate::controller::judge::track::Baseline;
use crate::controller::judge::verdict::FailReason;
use crate::controller::rollout::pods::Role;

/// Returns the reason to roll back and a sentence, when a pod shows a hard sign.
#[must_use]
pub(crate) fn find(name: &str, role: Role, report: &PodReport, baseline: &Baseline) -> Option<(FailReason, String)> {
    let pod = match role {
        Role::Node => format!("The pod on node {name}"),
        Role::Resolver => format!("Resolver {name}"),
    };
    if let Some(refusal) = &report.refusal {
        return Some((FailReason::RevisionRefused, format!("{pod} refuses the revision: {refusal}")));
    }
    if baseline.is_before_restart(report) {
        let restarts = report.restarts.saturating_sub(baseline.restarts).max(1);
        let times = if restarts == 1 { "once".to_owned() } else { format!("{restarts} times") };
        return Some((FailReason::PodCrashed, format!("{pod} has restarted {times} since it was told of the change")));
    }
    let failure = report.self_query_failure.as_ref().filter(|_| !baseline.is_self_query_failing)?;
    Some((FailReason::PodCrashed, format!("{pod} does not reach its own caches: {failure}")))
}

//! Looks at pods for the judge, from what the pods and their status pages tell.

use std::collections::BTreeMap;

use node_cache_config::distinct_names::{DistinctNames, Registers as PageRegisters};

use crate::controller::judge::figures::{Counts, Figures, Responses};
use crate::controller::judge::names::{MeasuredNames, RecentNames, Registers};
use crate::controller::judge::pod_look::{InForce, PodLook, PodReport, ProbeOutcome};
use crate::controller::observe::pods::TierPod;
use crate::controller::observe::poll::{self, Evidence};
use crate::controller::rollout::pods::RolloutPod;
use crate::controller::rollout::revision::TierRevision;

/// Returns the look at a pod. `report` is that of the poller; a pod whose last poll failed reports nothing.
#[must_use]
pub(crate) fn pod_look(
    pod: &RolloutPod,
    found: &TierPod,
    report: Option<&poll::PodReport>,
    evidence: Option<&Evidence>,
    target: &TierRevision,
    proven: &TierRevision,
    probes: Vec<ProbeOutcome>,
) -> PodLook {
    let is_current = report.is_some_and(|report| report.current_status().is_some());
    let evidence = evidence.filter(|_| is_current);
    PodLook {
        name: pod.key().to_owned(),
        uid: found.uid.clone(),
        zone: pod.zone.clone(),
        role: pod.role,
        is_asked: pod.is_asked(target.part(pod.role)),
        is_away: pod.away,
        is_ready: pod.ready,
        container_restarts: found.lifecycle.restarts,
        report: evidence.map(|evidence| pod_report(pod, evidence, target, proven, probes)),
    }
}

fn pod_report(
    pod: &RolloutPod,
    evidence: &Evidence,
    target: &TierRevision,
    proven: &TierRevision,
    probes: Vec<ProbeOutcome>,
) -> PodReport {
    let (target, proven) = (target.part(pod.role), proven.part(pod.role));
    let in_force = match pod.in_force.as_deref() {
        Some(revision) if revision == proven => InForce::Proven,
        Some(revision) if revision == target && pod.is_asked(target) => InForce::Target,
        _ => InForce::Other,
    };
    let refusal = evidence.refusal.as_ref().filter(|(asked, _)| asked == target && pod.is_asked(target));
    PodReport {
        in_force,
        started: evidence.started,
        restarts: evidence.restarts,
        refusal: refusal.map(|(_, reason)| reason.clone()),
        self_query_failures: evidence.self_query_failures(),
        figures: figures(evidence),
        probes,
    }
}

fn figures(evidence: &Evidence) -> Figures {
    let mut scopes: BTreeMap<String, Responses> = BTreeMap::new();
    for row in &evidence.figures.responses {
        let responses =
            Responses { noerror: row.noerror, nxdomain: row.nxdomain, servfail: row.servfail, other: row.other };
        scopes.entry(row.scope.clone()).or_default().add(&responses);
    }
    Figures {
        counts: Counts {
            scopes,
            slow_misses: evidence.figures.slow_misses,
            stale: evidence.stale,
            timeouts: evidence.timeouts,
        },
        names: MeasuredNames {
            servfail: recent_names(&evidence.figures.servfail_names),
            slow: evidence.figures.slow_names.as_ref().map(recent_names),
        },
    }
}

fn recent_names(names: &DistinctNames) -> RecentNames {
    let registers = |registers: &PageRegisters| Registers(*registers.ranks());
    RecentNames { minute: names.minute, current: registers(&names.current), previous: registers(&names.previous) }
}

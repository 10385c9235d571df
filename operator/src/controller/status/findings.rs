//! Findings about a tier, computed from the facts and the outcome of the apply step.

use std::collections::BTreeMap;

use dnstier_crds::conditions::Reason;
use kube::ResourceExt;

use crate::controller::apply::ApplyOutcome;
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::creation_failure::CreationFailure;
use crate::controller::placement::Exclusion;
use crate::controller::rollout::plan::RolledOut;
use crate::controller::rollout::{START_DEADLINE, to_count};
use crate::controller::status::facts::{Facts, ZoneFacts};
use crate::controller::status::upstreams;
use crate::controller::text::{join_some, plural, sanitize, zone_text};

/// Returns the findings that keep the newest spec from being in force.
pub(super) fn blocking_findings(observed: &Observed, outcome: &ApplyOutcome) -> Vec<Finding> {
    let mut blocking = match outcome {
        ApplyOutcome::Invalid { findings, rollout } => findings
            .iter()
            .map(|finding| match rollout {
                Some(rollout) => Finding::new(
                    finding.reason,
                    format!("{} Configuration {} stays in force.", finding.message, rollout.desired.id),
                ),
                None => finding.clone(),
            })
            .collect(),
        ApplyOutcome::Valid { failure, .. } => failure.iter().cloned().collect::<Vec<_>>(),
    };
    blocking.extend(uncreated_node_pods(observed).filter(|finding| !is_overdue(finding)));
    blocking
}

/// Returns the finding for node pods that cannot be created, with the command that helps where there is one. One that
/// may pass by itself, such as the refusal of a webhook that is away, is overdue after [`START_DEADLINE`].
fn uncreated_node_pods(observed: &Observed) -> Option<Finding> {
    let CreationFailure { message, since } = observed.pod_creation_failure.as_ref()?;
    let message = sanitize(message);
    let daemon_set = observed.owned.daemon_sets.first();
    let namespace = daemon_set.and_then(ResourceExt::namespace).unwrap_or_default();
    if is_refused_for_quota(&message) {
        return Some(quota_finding("Node pods", &namespace));
    }
    if !message.contains("violates PodSecurity") {
        let reason = if message.contains("forbidden") {
            Reason::Forbidden
        } else if observed.now.duration_since(*since) >= START_DEADLINE {
            Reason::PodsNotRunning
        } else {
            Reason::ApplyFailed
        };
        return Some(Finding::new(reason, format!("Node pods cannot be created: {message}.")));
    }
    Some(Finding::new(
        Reason::PodSecurity,
        format!(
            "Node pods need the host network and NET_ADMIN, which namespace {namespace} does not permit: allow it with \
             `kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged --overwrite`."
        ),
    ))
}

/// Returns whether a finding is about pods that should run by now.
fn is_overdue(finding: &Finding) -> bool {
    finding.reason == Reason::PodsNotRunning
}

/// Returns whether the API server refused a pod because its namespace has no ResourceQuota for its priority class (as
/// on GKE), and not because a quota is used up.
fn is_refused_for_quota(message: &str) -> bool {
    message.contains("insufficient quota to match these scopes")
}

/// Returns the finding for pods of a priority class that their namespace admits only with a ResourceQuota.
fn quota_finding(pods: &str, namespace: &str) -> Finding {
    Finding::new(
        Reason::QuotaMissing,
        format!(
            "{pods} have a priority class that namespace {namespace} admits only with a ResourceQuota of that scope: \
             make it with the value resourceQuota.enabled=true of the chart, or with `kubectl -n {namespace} create \
             quota critical-pods --hard=pods=1G --scopes=PriorityClass`."
        ),
    )
}

/// Returns the blocking findings that only a change of the spec or of the cluster resolves. The others are retried.
pub(super) fn stalling_findings(blocking: &[Finding]) -> Vec<Finding> {
    blocking.iter().filter(|finding| !is_retried(finding)).cloned().collect()
}

/// Returns whether a blocking finding is about a write that failed and is tried again.
pub(super) fn is_retried(finding: &Finding) -> bool {
    finding.reason == Reason::ApplyFailed
}

/// Returns the finding about a roll-out that was stopped, or that waits for somebody.
pub(super) fn stopped_finding(outcome: &ApplyOutcome) -> Option<Finding> {
    let ApplyOutcome::Valid { rollout: Some(rollout), .. } = outcome else { return None };
    let RolledOut { reason, sentence } = &rollout.rolled_out;
    rollout.rolled_out.is_stalled().then(|| Finding::new(*reason, sentence.clone()))
}

/// Returns the findings about pods of the newest template that should run by now, node pods included that should have
/// been created.
pub(super) fn overdue_findings(observed: &Observed, facts: &Facts) -> Vec<Finding> {
    let message = format!("Pods of the newest template do not run: {}.", join_some(&facts.overdue_pods));
    let overdue = (!facts.overdue_pods.is_empty()).then(|| Finding::new(Reason::PodsNotRunning, message));
    overdue.into_iter().chain(uncreated_node_pods(observed).filter(is_overdue)).collect()
}

/// Returns the findings about zones whose resolvers should have been created by now.
pub(super) fn overdue_creations(observed: &Observed, facts: &Facts) -> Vec<Finding> {
    let overdue = facts.zones.iter().filter(|zone| zone.is_creation_overdue && !zone.is_away);
    overdue.filter_map(|zone| uncreated_resolvers(zone, observed)).collect()
}

/// Returns the finding about resolvers of a zone that cannot be created.
fn uncreated_resolvers(zone: &ZoneFacts, observed: &Observed) -> Option<Finding> {
    let message = sanitize(zone.creation_failure.as_ref()?);
    if is_refused_for_quota(&message) {
        let namespace = observed.owned.deployments.first().and_then(ResourceExt::namespace).unwrap_or_default();
        return Some(quota_finding(&format!("Resolvers of {}", zone_text(&zone.name)), &namespace));
    }
    let reason = match &message {
        text if text.contains("violates PodSecurity") => Reason::PodSecurity,
        text if text.contains("forbidden") => Reason::Forbidden,
        _ => Reason::ResolversNotReady,
    };
    Some(Finding::new(reason, format!("Resolvers of {} cannot be created: {message}.", zone_text(&zone.name))))
}

/// Returns the findings about missing nodes and resolvers. Those that progress explains have its reason.
pub(super) fn not_ready_findings(facts: &Facts, progress: Option<&Finding>) -> Vec<Finding> {
    let nodes = &facts.nodes;
    let with_progress_reason = |finding: Finding| match progress {
        Some(progress) => Finding::new(progress.reason, finding.message),
        None => finding,
    };
    let mut findings = Vec::new();
    if nodes.desired == 0 && !nodes.is_any_eligible && !nodes.excluded.is_empty() {
        let message = format!(
            "No node may run the caches: {}; look at spec.nodeCache.nodeSelector, affinity and tolerations.",
            excluded_text(&nodes.excluded)
        );
        findings.push(Finding::new(Reason::NoNodes, message));
    } else if nodes.desired == 0 {
        findings.push(with_progress_reason(Finding::new(
            Reason::NoNodes,
            "No node runs the caches yet; when this stays, look at spec.nodeCache.nodeSelector and affinity.",
        )));
    } else if nodes.expected() == 0 {
        let message = format!("Kubernetes reports none of the {} as ready.", plural(nodes.desired, "node"));
        findings.push(Finding::new(Reason::NodesNotReady, message));
    } else if nodes.ready + nodes.tolerated < nodes.expected() {
        let message = format!(
            "The caches of {} of {} do not answer: {}{}.",
            nodes.expected() - nodes.ready,
            plural(nodes.desired, "node"),
            join_some(&nodes.not_ready),
            away_text(nodes.away)
        );
        let finding = Finding::new(Reason::NodesNotReady, message);
        let starting = progress.is_some_and(|progress| progress.reason == Reason::Starting);
        findings.push(if nodes.rolling_out || starting { with_progress_reason(finding) } else { finding });
    }
    let zones_down: Vec<&ZoneFacts> = facts.zones.iter().filter(|zone| zone.ready == 0 && !zone.is_away).collect();
    if facts.zones.iter().all(|zone| zone.ready == 0) {
        let message = "No resolver of any zone is ready; names outside of the cluster are answered from caches and by \
                       spec.nodeCache.lastResort alone.";
        findings.push(with_starting_reason(progress, Finding::new(Reason::NoResolvers, message)));
    } else if !zones_down.is_empty() {
        let zones: Vec<String> = zones_down.iter().map(|zone| zone_with_obstacles(zone)).collect();
        let message = format!("No resolver of {} is ready; its nodes query other zones.", join_some(&zones));
        let finding = Finding::new(Reason::ResolversNotReady, message);
        let rolling_out = zones_down.iter().all(|zone| zone.rolling_out);
        findings.push(if rolling_out {
            with_progress_reason(finding)
        } else {
            with_starting_reason(progress, finding)
        });
    }
    findings
}

/// Returns the excluded nodes in words: `2 nodes by OperatingSystem (win-1 and win-2)`.
fn excluded_text(excluded: &BTreeMap<Exclusion, Vec<String>>) -> String {
    let reasons: Vec<String> = excluded
        .iter()
        .map(|(exclusion, names)| {
            format!("{} by {} ({})", plural(to_count(names.len()), "node"), exclusion.name(), join_some(names))
        })
        .collect();
    reasons.join(", ")
}

/// Returns the end of a sentence about nodes that are away: `; 2 nodes away`.
pub(super) fn away_text(away: u32) -> String {
    if away == 0 { String::new() } else { format!("; {} away", plural(away, "node")) }
}

/// Returns the text for a zone, with its nodes where no resolver can be placed on any: `zone-b (node-b: cordoned)`.
fn zone_with_obstacles(zone: &ZoneFacts) -> String {
    let name = zone_text(&zone.name);
    if zone.obstacles.is_empty() { name } else { format!("{name}, which has only {},", join_some(&zone.obstacles)) }
}

/// Replaces the reason of a finding while the tier is starting.
fn with_starting_reason(progress: Option<&Finding>, finding: Finding) -> Finding {
    match progress {
        Some(progress) if progress.reason == Reason::Starting => Finding::new(Reason::Starting, finding.message),
        _ => finding,
    }
}

/// Returns the findings about problems that may exist while all queries are answered.
pub(super) fn degraded_findings(observed: &Observed, outcome: &ApplyOutcome, facts: &Facts) -> Vec<Finding> {
    let mut findings = match outcome {
        ApplyOutcome::Invalid { .. } => Vec::new(),
        ApplyOutcome::Valid { warnings, .. } => warnings.clone(),
    };
    for refusal in &facts.refusals {
        findings.push(Finding::new(Reason::RevisionRefused, format!("{refusal}.")));
    }
    if !facts.foreign_addresses.is_empty() {
        findings.push(Finding::new(
            Reason::AddressForeign,
            format!(
                "{} was put there by somebody else and is left alone; remove what did that (NodeLocal DNSCache, \
                 kube-proxy in IPVS mode) or capture other addresses.",
                join_some(&facts.foreign_addresses)
            ),
        ));
    }
    if !facts.partly_failing_addresses.is_empty() {
        let message = format!("Some queries may fail to {}.", join_some(&facts.partly_failing_addresses));
        findings.push(Finding::new(Reason::NodesNotReady, message));
    }
    findings.extend(facts.zones.iter().filter_map(|zone| uncreated_resolvers(zone, observed)));
    findings.extend(upstreams::findings(observed));
    let incomplete_zones: Vec<String> = facts
        .zones
        .iter()
        .filter(|zone| zone.ready > 0 && zone.ready + zone.excused < zone.desired && !zone.is_away)
        .filter(|zone| !zone.rolling_out || facts.is_rollout_late)
        .map(|zone| format!("{} ({} of {})", zone_text(&zone.name), zone.ready, zone.desired))
        .collect();
    if !incomplete_zones.is_empty() {
        let message = format!("Resolvers are missing in {}.", join_some(&incomplete_zones));
        findings.push(Finding::new(Reason::ResolversNotReady, message));
    }
    if !facts.unresponsive_instances.is_empty() {
        let message = format!("{} did not answer their agent.", join_some(&facts.unresponsive_instances));
        findings.push(Finding::new(Reason::NodesNotReady, message));
    }
    if !facts.unreachable_pods.is_empty() {
        let message = format!("These pods run but do not say how they are: {}.", join_some(&facts.unreachable_pods));
        findings.push(Finding::new(Reason::StatusUnknown, message));
    }
    findings
}

/// Returns the finding about a start or a rollout in progress; `None` when the spec is in force everywhere.
pub(super) fn progress_finding(observed: &Observed, outcome: &ApplyOutcome, facts: &Facts) -> Option<Finding> {
    let has_served =
        observed.tier.status.as_ref().and_then(|status| status.revision.as_ref()?.current.as_ref()).is_some();
    let nodes = &facts.nodes;
    let reason = if has_served { Reason::RollingOut } else { Reason::Starting };
    let may_start = nodes.is_any_eligible || nodes.excluded.is_empty();
    if !has_served && may_start && (nodes.desired == 0 || nodes.ready < nodes.expected()) {
        let message = format!(
            "{} of {} answer through their caches{}.",
            nodes.ready,
            plural(nodes.desired, "node"),
            away_text(nodes.away)
        );
        return Some(Finding::new(reason, message));
    }
    let ApplyOutcome::Valid { rollout, writes, .. } = outcome else { return None };
    let rolling_zones: Vec<String> = facts
        .zones
        .iter()
        .filter(|zone| !zone.is_away && (zone.rolling_out || !zone.is_on_revision))
        .map(|zone| zone_text(&zone.name))
        .collect();
    let nodes_behind = nodes.expected().saturating_sub(nodes.updated);
    let paused = rollout.as_ref().map(|rollout| &rollout.rolled_out).filter(|state| state.reason == Reason::Paused);
    if let Some(paused) = paused {
        return Some(Finding::new(Reason::Paused, paused.sentence.clone()));
    }
    // What goes on in a roll-out, beside the number of nodes that are left.
    let step = rollout.as_ref().map(|rollout| &rollout.rolled_out).filter(|state| !state.is_true());
    let step = step.map_or_else(String::new, |state| format!(" {}", state.sentence));
    let message = match rollout {
        None => "The addresses of the tier's own Services are not known yet.".to_owned(),
        Some(rollout) if nodes_behind > 0 => {
            let template = if nodes.rolling_out { " and the newest pod template are" } else { " is" };
            format!(
                "Configuration {}{template} not everywhere yet: {nodes_behind} of {} to go{}.{step}",
                rollout.desired.id,
                plural(nodes.desired, "node"),
                away_text(nodes.away)
            )
        }
        Some(_) if nodes.rolling_out => "Node pods are being replaced.".to_owned(),
        Some(_) if !rolling_zones.is_empty() => {
            format!("Resolvers of {} take over.{step}", join_some(&rolling_zones))
        }
        Some(_) if !step.is_empty() => step.trim_start().to_owned(),
        Some(_) if *writes > 0 => "Objects were written and have yet to take effect.".to_owned(),
        Some(_) => return None,
    };
    Some(Finding::new(reason, message))
}

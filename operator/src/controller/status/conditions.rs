//! Facts in, conditions out.

use dnstier_crds::conditions::{ConditionStatus, ConditionType, Reason, Report};
use kube::ResourceExt;

use super::facts::{Facts, ZoneFacts};
use super::text::{bounded, many, some_of};
use super::{Outcome, upstreams};
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;

/// How many sentences a condition says.
const SENTENCES: usize = 3;

/// The conditions of a tier and the sentence that matters most.
pub(super) struct Verdict {
    pub(super) reports: Vec<Report>,
    pub(super) message: String,
}

/// Judges what is so.
pub(super) fn judge(observed: &Observed, outcome: &Outcome, facts: &Facts) -> Verdict {
    let blocking = blocking(observed, outcome);
    let degraded = degraded(observed, outcome, facts);
    let progress = progress(observed, outcome, facts);
    let not_ready = not_ready(facts, progress.as_ref());

    // A tier that was refused before it ever ran lacks nodes and resolvers for that reason alone.
    let not_ready = if blocking.is_empty() || facts.nodes.desired > 0 { not_ready } else { Vec::new() };

    let mut wrong = blocking.clone();
    wrong.extend(not_ready.clone());
    let ready = report(ConditionType::Ready, ConditionStatus::False, &wrong)
        .unwrap_or_else(|| said(ConditionType::Ready, ConditionStatus::True, Reason::Serving, &serving(facts)));

    let mut bad = blocking.clone();
    bad.extend(degraded);
    // Nodes and resolvers that are on their way are no trouble, those that are lost are.
    bad.extend(
        not_ready.into_iter().filter(|finding| !matches!(finding.reason, Reason::Starting | Reason::RollingOut)),
    );
    let degraded = report(ConditionType::Degraded, ConditionStatus::True, &bad)
        .unwrap_or_else(|| said(ConditionType::Degraded, ConditionStatus::False, Reason::Healthy, "Nothing is wrong."));

    let stalled = report(ConditionType::Stalled, ConditionStatus::True, &stalling(&blocking));
    let progress = if stalled.is_some() { None } else { progress };
    let moving: Vec<Finding> = progress.into_iter().collect();
    let progressing =
        report(ConditionType::Progressing, ConditionStatus::True, &moving).unwrap_or_else(|| match &stalled {
            Some(stalled) => {
                Report { type_: ConditionType::Progressing, status: ConditionStatus::False, ..stalled.clone() }
            }
            None => said(
                ConditionType::Progressing,
                ConditionStatus::False,
                Reason::Settled,
                "What the spec asks for is in force everywhere.",
            ),
        });
    let reconciling = report(ConditionType::Reconciling, ConditionStatus::True, &moving);

    let first = [&ready, &degraded, &progressing].into_iter().find(|report| !is_fine(report)).unwrap_or(&ready);
    let message = first.message.clone();
    let mut reports = vec![ready, progressing, degraded];
    reports.extend(reconciling);
    reports.extend(stalled);
    Verdict { reports, message }
}

/// What is said when the cluster may not even be read: nothing but that.
pub(super) fn unknown(finding: &Finding) -> Vec<Report> {
    let one = |type_, status| said(type_, status, finding.reason, &finding.message);
    vec![
        one(ConditionType::Ready, ConditionStatus::Unknown),
        one(ConditionType::Progressing, ConditionStatus::False),
        one(ConditionType::Degraded, ConditionStatus::True),
        one(ConditionType::Stalled, ConditionStatus::True),
    ]
}

/// What keeps the newest spec from being put in force.
fn blocking(observed: &Observed, outcome: &Outcome) -> Vec<Finding> {
    let mut blocking = match outcome {
        Outcome::Refused { findings, in_force } => findings
            .iter()
            .map(|finding| match in_force {
                Some(revision) => Finding::new(
                    finding.reason,
                    format!("{} Configuration {revision} stays in force.", finding.message),
                ),
                None => finding.clone(),
            })
            .collect(),
        Outcome::Built { failure, .. } => failure.iter().cloned().collect::<Vec<_>>(),
    };
    blocking.extend(observed.creation_failure.as_ref().map(|message| creation_failure(message, observed)));
    blocking
}

/// Why the node pods are not created, with the command that helps where there is one.
fn creation_failure(message: &str, observed: &Observed) -> Finding {
    let message = bounded(message);
    if !message.contains("violates PodSecurity") {
        let reason = if message.contains("forbidden") { Reason::Forbidden } else { Reason::ApplyFailed };
        return Finding::new(reason, format!("Node pods cannot be created: {message}."));
    }
    let daemon_set = observed.children.daemon_sets.first();
    let namespace = daemon_set.and_then(ResourceExt::namespace).unwrap_or_default();
    Finding::new(
        Reason::PodSecurity,
        format!(
            "Node pods need the host network and NET_ADMIN, which namespace {namespace} does not permit: allow it with \
             `kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged --overwrite`."
        ),
    )
}

/// Blocking findings that only a change by somebody resolves; others are tried again.
fn stalling(blocking: &[Finding]) -> Vec<Finding> {
    blocking.iter().filter(|finding| finding.reason != Reason::ApplyFailed).cloned().collect()
}

fn not_ready(facts: &Facts, progress: Option<&Finding>) -> Vec<Finding> {
    let nodes = &facts.nodes;
    let moving = |finding: Finding| match progress {
        Some(progress) => Finding::new(progress.reason, finding.message),
        None => finding,
    };
    let mut findings = Vec::new();
    if nodes.desired == 0 {
        findings.push(moving(Finding::new(
            Reason::NoNodes,
            "No node runs the caches yet; when this stays, look at spec.nodeCache.nodeSelector and affinity.",
        )));
    } else if nodes.ready < nodes.desired {
        let message = format!(
            "The caches of {} of {} do not answer: {}.",
            nodes.desired - nodes.ready,
            many(nodes.desired, "node"),
            some_of(&nodes.not_ready)
        );
        let finding = Finding::new(Reason::NodesNotReady, message);
        let starting = progress.is_some_and(|progress| progress.reason == Reason::Starting);
        findings.push(if nodes.rolling || starting { moving(finding) } else { finding });
    }
    let empty: Vec<&ZoneFacts> = facts.zones.iter().filter(|zone| zone.ready == 0).collect();
    if facts.zones.is_empty() || empty.len() == facts.zones.len() {
        let message = "No resolver of any zone is ready; names outside of the cluster are answered from memory only.";
        findings.push(starting_or(progress, Finding::new(Reason::NoResolvers, message)));
    } else if !empty.is_empty() {
        let zones: Vec<String> = empty.iter().map(|zone| zone_text(&zone.name)).collect();
        let message = format!("No resolver of {} is ready; its nodes ask other zones.", some_of(&zones));
        let finding = Finding::new(Reason::ResolversNotReady, message);
        let rolling = empty.iter().all(|zone| zone.rolling);
        findings.push(if rolling { moving(finding) } else { starting_or(progress, finding) });
    }
    findings
}

fn starting_or(progress: Option<&Finding>, finding: Finding) -> Finding {
    match progress {
        Some(progress) if progress.reason == Reason::Starting => Finding::new(Reason::Starting, finding.message),
        _ => finding,
    }
}

/// What is wrong although everything may be answered.
fn degraded(observed: &Observed, outcome: &Outcome, facts: &Facts) -> Vec<Finding> {
    let mut findings = match outcome {
        Outcome::Refused { .. } => Vec::new(),
        Outcome::Built { tier, .. } => tier.warnings.clone(),
    };
    for refusal in &facts.refusals {
        findings.push(Finding::new(Reason::RevisionRefused, format!("{refusal}.")));
    }
    if !facts.foreign.is_empty() {
        findings.push(Finding::new(
            Reason::AddressForeign,
            format!(
                "{} was put there by somebody else and is left alone; remove what did that (NodeLocal DNSCache, \
                 kube-proxy in IPVS mode) or capture other addresses.",
                some_of(&facts.foreign)
            ),
        ));
    }
    findings.extend(facts.zones.iter().filter_map(|zone| {
        let message = bounded(zone.failure.as_ref()?);
        let reason = match &message {
            text if text.contains("violates PodSecurity") => Reason::PodSecurity,
            text if text.contains("forbidden") => Reason::Forbidden,
            _ => Reason::ResolversNotReady,
        };
        Some(Finding::new(reason, format!("Resolvers of {} cannot be created: {message}.", zone_text(&zone.name))))
    }));
    findings.extend(upstreams::findings(observed));
    let short: Vec<String> = facts
        .zones
        .iter()
        .filter(|zone| zone.ready > 0 && zone.ready < zone.desired && !zone.rolling)
        .map(|zone| format!("{} ({} of {})", zone_text(&zone.name), zone.ready, zone.desired))
        .collect();
    if !short.is_empty() {
        let message = format!("Resolvers are missing in {}.", some_of(&short));
        findings.push(Finding::new(Reason::ResolversNotReady, message));
    }
    if !facts.dead_instances.is_empty() {
        let message = format!("{} did not answer their agent.", some_of(&facts.dead_instances));
        findings.push(Finding::new(Reason::NodesNotReady, message));
    }
    if !facts.silent.is_empty() {
        let message = format!("These pods run but do not say how they are: {}.", some_of(&facts.silent));
        findings.push(Finding::new(Reason::StatusUnknown, message));
    }
    findings
}

/// What the tier is on its way to; none when it has arrived.
fn progress(observed: &Observed, outcome: &Outcome, facts: &Facts) -> Option<Finding> {
    let served = observed.tier.status.as_ref().and_then(|status| status.revision.as_ref()?.current.as_ref()).is_some();
    let nodes = &facts.nodes;
    let reason = if served { Reason::RollingOut } else { Reason::Starting };
    if !served && (nodes.desired == 0 || nodes.ready < nodes.desired) {
        let message = format!("{} of {} answer through their caches.", nodes.ready, many(nodes.desired, "node"));
        return Some(Finding::new(reason, message));
    }
    let Outcome::Built { revision, written, .. } = outcome else { return None };
    let rolling_zones: Vec<String> =
        facts.zones.iter().filter(|zone| zone.rolling || !zone.on_target).map(|zone| zone_text(&zone.name)).collect();
    let behind = nodes.desired.saturating_sub(nodes.updated);
    let message = match revision {
        None => "The addresses of the tier's own Services are not known yet.".to_owned(),
        Some(revision) if behind > 0 => {
            format!(
                "Configuration {revision} and the newest pod template are not everywhere yet: {behind} of {} to go.",
                many(nodes.desired, "node")
            )
        }
        Some(_) if nodes.rolling => "Node pods are being replaced.".to_owned(),
        Some(_) if !rolling_zones.is_empty() => format!("Resolvers of {} take over.", some_of(&rolling_zones)),
        Some(_) if *written > 0 => "Objects were written and have yet to take effect.".to_owned(),
        Some(_) => return None,
    };
    Some(Finding::new(reason, message))
}

fn serving(facts: &Facts) -> String {
    let resolvers = facts.resolvers_ready();
    let zones = u32::try_from(facts.zones.len()).unwrap_or(u32::MAX);
    format!(
        "{} through their caches, {} in {} behind them.",
        if facts.nodes.ready == 1 {
            "1 node answers".to_owned()
        } else {
            format!("{} nodes answer", facts.nodes.ready)
        },
        many(resolvers, "resolver"),
        many(zones, "zone")
    )
}

fn zone_text(zone: &str) -> String {
    if zone.is_empty() { "the nodes without a zone".to_owned() } else { zone.to_owned() }
}

fn is_fine(report: &Report) -> bool {
    match report.type_ {
        ConditionType::Ready => report.status == ConditionStatus::True,
        _ => report.status == ConditionStatus::False,
    }
}

/// A condition about findings: the first gives the reason, the first few the message. None without findings.
fn report(type_: ConditionType, status: ConditionStatus, findings: &[Finding]) -> Option<Report> {
    let first = findings.first()?;
    let mut message: Vec<&str> = findings.iter().take(SENTENCES).map(|finding| finding.message.as_str()).collect();
    let more = format!("({} more.)", findings.len().saturating_sub(SENTENCES));
    if findings.len() > SENTENCES {
        message.push(&more);
    }
    Some(Report { type_, status, reason: first.reason, message: message.join(" ") })
}

fn said(type_: ConditionType, status: ConditionStatus, reason: Reason, message: &str) -> Report {
    Report { type_, status, reason, message: message.to_owned() }
}

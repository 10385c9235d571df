//! Conditions of a tier, computed from the facts and the outcome of the apply step.

use dnstier_crds::conditions::{ConditionStatus, ConditionType, Reason, Report};

use crate::controller::apply::ApplyOutcome;
use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::rollout::to_count;
use crate::controller::status::facts::Facts;
use crate::controller::status::findings::{
    away_text, blocking_findings, degraded_findings, is_retried, not_ready_findings, overdue_creations,
    overdue_findings, progress_finding, stalling_findings, stopped_finding,
};
use crate::controller::status::start::{is_starting, is_usual, was_ready};
use crate::controller::status::throttling;
use crate::controller::text::plural;

/// Maximum number of findings in the message of a condition.
const MAX_FINDINGS: usize = 3;

/// Conditions of a tier.
pub(super) struct ConditionSet {
    /// Reports of the conditions that are present.
    pub(super) reports: Vec<Report>,
    /// Message of the most important condition.
    pub(super) summary: String,
}

impl ConditionSet {
    /// Computes the conditions of a tier.
    pub(super) fn compute(observed: &Observed, outcome: &ApplyOutcome, facts: &Facts) -> Self {
        let blocking = blocking_findings(observed, outcome);
        let overdue = overdue_findings(observed, facts);
        let uncreated = overdue_creations(observed, facts);
        // What waits for pods that do not run is no progress.
        let is_waiting = !overdue.is_empty() || !uncreated.is_empty();
        let progress = progress_finding(observed, outcome, facts).filter(|_| !is_waiting);
        // A tier that was invalid from the start has no nodes and resolvers for this reason alone.
        let not_ready = if blocking.is_empty() || facts.nodes.desired > 0 {
            not_ready_findings(facts, progress.as_ref().filter(|_| !facts.is_rollout_late))
        } else {
            Vec::new()
        };

        let stopped = stopped_finding(outcome);
        let mut problems = overdue.clone();
        problems.extend(stopped.iter().filter(|finding| finding.reason != Reason::AddressInUse).cloned());
        problems.extend(degraded_findings(observed, outcome, facts));
        // Nodes and resolvers that start or roll out are expected to be missing; others are not.
        let is_expected = |finding: &&Finding| matches!(finding.reason, Reason::Starting | Reason::RollingOut);
        problems.extend(not_ready.iter().filter(|finding| !is_expected(finding)).cloned());
        let was_ready = was_ready(observed.tier.status.as_ref());
        if is_starting(observed) {
            problems.retain(|finding| !is_usual(finding.reason));
        }
        let ready = ready_condition(&blocking, &not_ready, facts, was_ready);
        let degraded = degraded_condition(&blocking, &problems);
        let stalling: Vec<Finding> =
            stalling_findings(&blocking).into_iter().chain(overdue).chain(uncreated).chain(stopped).collect();
        let stalled = report_findings(ConditionType::Stalled, ConditionStatus::True, &stalling);
        // What could not be applied is tried again.
        let retried = blocking.iter().filter(|finding| is_retried(finding)).cloned();
        let progress: Vec<Finding> = if stalled.is_some() { Vec::new() } else { retried.chain(progress).collect() };
        let progressing = progressing_condition(&progress, stalled.as_ref());
        let reconciling = report_findings(ConditionType::Reconciling, ConditionStatus::True, &progress);

        let most_important = [&ready, &degraded, &progressing].into_iter().find(|report| !is_good(report));
        let summary = most_important.unwrap_or(&ready).message.clone();
        let proven = observed.record.record.as_ref().and_then(|record| Some(record.proven.as_ref()?.id.as_str()));
        let rolled_out = rolled_out_condition(outcome, proven);
        let mut reports = vec![ready, progressing, rolled_out, degraded, throttled_condition(observed)];
        reports.extend(reconciling);
        reports.extend(stalled);
        Self { reports, summary }
    }
}

/// Returns the conditions of a tier in a cluster that the operator is denied to read.
pub(super) fn unknown_conditions(finding: &Finding) -> Vec<Report> {
    let condition = |type_, status| report(type_, status, finding.reason, &finding.message);
    vec![
        condition(ConditionType::Ready, ConditionStatus::Unknown),
        condition(ConditionType::Progressing, ConditionStatus::False),
        condition(ConditionType::RolledOut, ConditionStatus::Unknown),
        condition(ConditionType::Degraded, ConditionStatus::True),
        condition(ConditionType::UpstreamThrottled, ConditionStatus::Unknown),
        condition(ConditionType::Stalled, ConditionStatus::True),
    ]
}

/// Returns the condition `Ready`. A write that is tried again leaves a tier ready that was ready before, while its
/// nodes answer: what is in force stays so. Before, a tier has to be complete once.
fn ready_condition(blocking: &[Finding], not_ready: &[Finding], facts: &Facts, was_ready: bool) -> Report {
    let is_serving = was_ready && not_ready.is_empty() && facts.nodes.desired > 0;
    let blocking = blocking.iter().filter(|finding| !(is_serving && is_retried(finding)));
    let findings: Vec<Finding> = blocking.chain(not_ready).cloned().collect();
    report_findings(ConditionType::Ready, ConditionStatus::False, &findings).unwrap_or_else(|| {
        report(ConditionType::Ready, ConditionStatus::True, Reason::Serving, &serving_message(facts))
    })
}

fn degraded_condition(blocking: &[Finding], problems: &[Finding]) -> Report {
    let findings = [blocking, problems].concat();
    report_findings(ConditionType::Degraded, ConditionStatus::True, &findings).unwrap_or_else(|| {
        report(ConditionType::Degraded, ConditionStatus::False, Reason::Healthy, "Nothing is wrong.")
    })
}

/// Returns the condition `RolledOut`. A spec that is not valid is not rolled out, for that reason. `proven` is the
/// revision that pods run meanwhile.
fn rolled_out_condition(outcome: &ApplyOutcome, proven: Option<&str>) -> Report {
    let type_ = ConditionType::RolledOut;
    match outcome {
        ApplyOutcome::Invalid { findings, .. } => {
            report_findings(type_, ConditionStatus::False, findings).unwrap_or_else(|| no_revision(type_, proven))
        }
        ApplyOutcome::Valid { rollout: None, .. } => no_revision(type_, proven),
        ApplyOutcome::Valid { rollout: Some(rollout), .. } => {
            let status = if rollout.rolled_out.is_true() { ConditionStatus::True } else { ConditionStatus::False };
            report(type_, status, rollout.rolled_out.reason, &rollout.rolled_out.sentence)
        }
    }
}

/// Returns the condition while no configuration can be rendered, for one because a Service has no address yet.
fn no_revision(type_: ConditionType, proven: Option<&str>) -> Report {
    let sentence = match proven {
        Some(proven) => format!("There is no newer configuration yet; {proven} stays in force."),
        None => "There is no configuration yet.".to_owned(),
    };
    report(type_, ConditionStatus::False, Reason::Wave, &sentence)
}

fn throttled_condition(observed: &Observed) -> Report {
    let type_ = ConditionType::UpstreamThrottled;
    let findings = throttling::findings(observed);
    report_findings(type_, ConditionStatus::True, &findings).unwrap_or_else(|| {
        if throttling::has_enough_traffic(observed) {
            report(type_, ConditionStatus::False, Reason::WithinLimits, "No upstream drops what it is sent.")
        } else {
            let message = "The upstreams get too few queries to find a limit.";
            report(type_, ConditionStatus::Unknown, Reason::TooLittleTraffic, message)
        }
    })
}

fn progressing_condition(progress: &[Finding], stalled: Option<&Report>) -> Report {
    if let Some(report) = report_findings(ConditionType::Progressing, ConditionStatus::True, progress) {
        return report;
    }
    match stalled {
        Some(stalled) => {
            Report { type_: ConditionType::Progressing, status: ConditionStatus::False, ..stalled.clone() }
        }
        None => report(
            ConditionType::Progressing,
            ConditionStatus::False,
            Reason::Settled,
            "What the spec asks for is in force everywhere.",
        ),
    }
}

/// Returns the message of a ready tier.
fn serving_message(facts: &Facts) -> String {
    let resolvers = facts.resolvers_ready();
    let zones = to_count(facts.zones.len());
    let silent = facts.nodes.expected() - facts.nodes.ready;
    let silent = if silent == 0 { String::new() } else { format!(" and {silent} do not") };
    format!(
        "{} through their caches{silent}, {} in {} behind them{}.",
        if facts.nodes.ready == 1 {
            "1 node answers".to_owned()
        } else {
            format!("{} nodes answer", facts.nodes.ready)
        },
        plural(resolvers, "resolver"),
        plural(zones, "zone"),
        away_text(facts.nodes.away)
    )
}

/// Returns whether a condition has the status of a tier without problems.
fn is_good(report: &Report) -> bool {
    match report.type_ {
        ConditionType::Ready => report.status == ConditionStatus::True,
        _ => report.status == ConditionStatus::False,
    }
}

/// Returns a condition with the reason of the first finding and the messages of the first few; `None` without findings.
fn report_findings(type_: ConditionType, status: ConditionStatus, findings: &[Finding]) -> Option<Report> {
    let first = findings.first()?;
    let mut messages: Vec<&str> = findings.iter().take(MAX_FINDINGS).map(|finding| finding.message.as_str()).collect();
    let omitted = format!("({} more.)", findings.len().saturating_sub(MAX_FINDINGS));
    if findings.len() > MAX_FINDINGS {
        messages.push(&omitted);
    }
    Some(report(type_, status, first.reason, &messages.join(" ")))
}

fn report(type_: ConditionType, status: ConditionStatus, reason: Reason, message: &str) -> Report {
    Report { type_, status, reason, message: message.to_owned() }
}

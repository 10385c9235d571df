//! Prometheus metrics of the operator's own work, and of the state of the tiers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dnstier_crds::conditions::ConditionType;
use dnstier_crds::v1alpha1::{DnsTierStatus, RolloutStatus};
use node_cache_config::metrics_page::{BuildInfo, END, ProcessUsage, process_text};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::leader::Leadership;
use crate::queue::Queue;
use crate::request_counter::RequestCounter;

/// Labels of a failed reconciliation: the kind of the error, from [`crate::error::Error::kind`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    kind: &'static str,
}

/// Labels of a status poll: `answered` or `failed`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PollLabels {
    result: &'static str,
}

/// Labels of an age of figures: the class of the pods in the schedule of the polls, or `silent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FigureLabels {
    class: &'static str,
}

/// Gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// Labels of a write: the kind of the object, and the verb.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    verb: &'static str,
}

/// Numbers of resolvers of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZoneResolverCount {
    /// Name of the zone.
    pub(crate) zone: String,
    /// Number of resolvers that the zone should have.
    pub(crate) desired: u32,
    /// Number of ready resolvers.
    pub(crate) ready: u32,
}

/// Statuses of a condition.
const CONDITION_STATUSES: [&str; 3] = ["True", "False", "Unknown"];

/// State of one tier.
#[derive(Clone, Debug, Default)]
struct TierState {
    /// Status of each condition, by its type.
    conditions: BTreeMap<&'static str, String>,
    /// Numbers of nodes, by what is true of them.
    nodes: Vec<(&'static str, u32)>,
    resolvers: Vec<ZoneResolverCount>,
    rollout: Option<RolloutStatus>,
    is_claimed_elsewhere: bool,
}

/// States of the tiers, by name. Only the leader tells them: a standby does not know what has become of them.
#[derive(Clone, Debug)]
struct TierStates {
    states: Arc<Mutex<BTreeMap<String, TierState>>>,
    leadership: Leadership,
}

impl TierStates {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, TierState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for TierStates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.leadership.term(Instant::now()).is_none() {
            return Ok(());
        }
        let tiers = self.lock();
        let gauge = |value: u32| ConstGauge::new(i64::from(value));
        let help = "Whether a condition of a tier has a status";
        let mut family = encoder.encode_descriptor("condition", help, None, MetricType::Gauge)?;
        for (tier, state) in &*tiers {
            for (type_, current) in &state.conditions {
                for status in CONDITION_STATUSES {
                    let labels = [("tier", tier.as_str()), ("type", type_), ("status", status)];
                    gauge((current == status).into()).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor("nodes", "Nodes of a tier", None, MetricType::Gauge)?;
        for (tier, state) in &*tiers {
            for (nodes, count) in &state.nodes {
                gauge(*count).encode(family.encode_family(&[("tier", tier.as_str()), ("state", nodes)])?)?;
            }
        }
        let help = "Step of the roll-out of a tier, always 1";
        let mut family = encoder.encode_descriptor("rollout_step", help, None, MetricType::Gauge)?;
        let rollouts = || tiers.iter().filter_map(|(tier, state)| Some((tier.as_str(), state.rollout.as_ref()?)));
        for (tier, rollout) in rollouts() {
            let labels = [("tier", tier), ("step", rollout.step.as_str())];
            gauge(1).encode(family.encode_family(&labels)?)?;
        }
        let help = "Pods that read what the roll-out of a tier changes";
        let mut family = encoder.encode_descriptor("rollout_pods", help, None, MetricType::Gauge)?;
        for (tier, rollout) in rollouts() {
            for (pods, count) in [("moved", rollout.moved), ("left", rollout.total.saturating_sub(rollout.moved))] {
                gauge(count).encode(family.encode_family(&[("tier", tier), ("state", pods)])?)?;
            }
        }
        let help = "Whether another release has claimed a tier";
        let mut family = encoder.encode_descriptor("claimed_elsewhere", help, None, MetricType::Gauge)?;
        for (tier, state) in &*tiers {
            let labels = [("tier", tier.as_str())];
            gauge(state.is_claimed_elsewhere.into()).encode(family.encode_family(&labels)?)?;
        }
        let help = "Resolvers of a zone of a tier";
        let mut family = encoder.encode_descriptor("zone_resolvers", help, None, MetricType::Gauge)?;
        for (tier, state) in &*tiers {
            for ZoneResolverCount { zone, desired, ready } in &state.resolvers {
                for (resolvers, count) in [("desired", *desired), ("ready", *ready)] {
                    let labels = [("tier", tier.as_str()), ("zone", zone), ("state", resolvers)];
                    gauge(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Leadership of this process.
#[derive(Clone, Debug)]
struct LeadershipCollector(Leadership);

impl Collector for LeadershipCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = Instant::now();
        let is_leader = self.0.term(now).is_some();
        let help = "Whether this process is the leader, which writes";
        let leader = encoder.encode_descriptor("leader", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(is_leader)).encode(leader)?;
        let help = "Renewals of the Lease that failed";
        let failures = encoder.encode_descriptor("lease_renew_failures", help, None, MetricType::Counter)?;
        ConstCounter::new(self.0.renew_failures()).encode(failures)?;
        if let Some(age) = self.0.lease_age(now) {
            let help = "Time since this process last saw the Lease change";
            let gauge = encoder.encode_descriptor("lease_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
            ConstGauge::new(age.as_secs_f64()).encode(gauge)?;
        }
        Ok(())
    }
}

/// Metrics of the operator's own work and of the tiers.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Counter,
    failures: Family<FailureLabels, Counter>,
    durations: Histogram,
    polls: Family<PollLabels, Counter>,
    figure_ages: Family<FigureLabels, Seconds>,
    writes: Family<WriteLabels, Counter>,
    requests: RequestCounter,
    queue: Queue,
    tiers: TierStates,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Leadership::default())
    }
}

impl Metrics {
    /// Builds the metrics of a process with this leadership.
    pub(crate) fn new(leadership: Leadership) -> Self {
        let mut registry = Registry::with_prefix("dnstier_operator");
        let metrics = Self {
            reconciles: Counter::default(),
            failures: Family::default(),
            durations: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            polls: Family::default(),
            figure_ages: Family::default(),
            writes: Family::default(),
            requests: RequestCounter::default(),
            queue: Queue::new(leadership.clone()),
            tiers: TierStates { states: Arc::default(), leadership: leadership.clone() },
            registry: Registry::default(),
        };
        registry.register("reconciles", "Reconciliations of a tier", metrics.reconciles.clone());
        registry.register("failures", "Failed reconciliations, by kind of error", metrics.failures.clone());
        registry.register("reconcile_duration_seconds", "Duration of reconciliations", metrics.durations.clone());
        registry.register("polls", "Status polls of pods, by result", metrics.polls.clone());
        let help = "Largest age of what the operator knows of a pod, by class of pods";
        registry.register("figure_age_seconds", help, metrics.figure_ages.clone());
        registry.register("writes", "Objects applied, deleted or annotated", metrics.writes.clone());
        metrics.requests.register(&mut registry);
        registry.register_collector(Box::new(metrics.tiers.clone()));
        registry.register_collector(Box::new(metrics.queue.clone()));
        registry.register_collector(Box::new(LeadershipCollector(leadership)));
        Self { registry, ..metrics }
    }

    /// Counts a reconciliation and records its duration.
    pub(crate) fn record_reconcile(&self, duration: Duration) {
        self.reconciles.inc();
        self.durations.observe(duration.as_secs_f64());
    }

    /// Counts a failed reconciliation.
    pub(crate) fn record_failure(&self, kind: &'static str) {
        self.failures.get_or_create(&FailureLabels { kind }).inc();
    }

    /// Counts a status poll of a pod.
    pub(crate) fn record_poll(&self, succeeded: bool) {
        let result = if succeeded { "answered" } else { "failed" };
        self.polls.get_or_create(&PollLabels { result }).inc();
    }

    /// Sets the largest ages of what is known of the pods of each class, in milliseconds.
    pub(crate) fn set_figure_ages(&self, ages: impl Iterator<Item = (&'static str, u64)>) {
        for (class, milliseconds) in ages {
            self.figure_ages.get_or_create(&FigureLabels { class }).set(milliseconds as f64 / 1_000.0);
        }
    }

    /// Removes the ages of figures: only a leader polls.
    pub(crate) fn clear_figure_ages(&self) {
        self.figure_ages.clear();
    }

    /// Returns the counter of the requests to the API server.
    #[must_use]
    pub(crate) fn requests(&self) -> &RequestCounter {
        &self.requests
    }

    /// Returns the work that waits.
    #[must_use]
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Counts a write.
    pub(crate) fn record_write(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind, verb }).inc();
    }

    /// Sets the state of a tier.
    pub(crate) fn set_tier(&self, tier: &str, status: &DnsTierStatus, resolvers: Vec<ZoneResolverCount>) {
        let nodes = status.nodes.clone().unwrap_or_default();
        let nodes =
            vec![("desired", nodes.desired), ("ready", nodes.ready), ("updated", nodes.updated), ("away", nodes.away)];
        let mut tiers = self.tiers.lock();
        let state = tiers.entry(tier.to_owned()).or_default();
        (state.conditions, state.nodes, state.resolvers) = (conditions(status), nodes, resolvers);
        state.rollout.clone_from(&status.rollout);
    }

    /// Sets whether another release has claimed a tier.
    pub(crate) fn set_claimed_elsewhere(&self, tier: &str, is_claimed: bool) {
        self.tiers.lock().entry(tier.to_owned()).or_default().is_claimed_elsewhere = is_claimed;
    }

    /// Sets the conditions of a tier of which nothing else could be read.
    pub(crate) fn set_conditions(&self, tier: &str, status: &DnsTierStatus) {
        self.tiers.lock().entry(tier.to_owned()).or_default().conditions = conditions(status);
    }

    /// Removes the state of all tiers but these.
    pub(crate) fn keep_tiers(&self, names: &[String]) {
        self.tiers.lock().retain(|tier, _| names.contains(tier));
    }

    /// Encodes all metrics in the OpenMetrics text format.
    #[must_use]
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode_registry(&mut text, &self.registry);
        text + &process_text(None, BuildInfo::CURRENT, &ProcessUsage::read()) + END
    }
}

/// Returns the status of each condition; `False` for one that is present only while it is true.
fn conditions(status: &DnsTierStatus) -> BTreeMap<&'static str, String> {
    let status_of = |type_: &ConditionType| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_.name());
        condition.map_or_else(|| "False".to_owned(), |condition| condition.status.clone())
    };
    ConditionType::ALL.iter().map(|type_| (type_.name(), status_of(type_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(ready: &str) -> DnsTierStatus {
        serde_json::from_value(serde_json::json!({
            "conditions": [{"type": "Ready", "status": ready, "reason": "x", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "nodes": {"desired": 3, "ready": 2, "updated": 1},
            "rollout": {"kind": "Configuration", "target": "1a2b", "step": "Wave", "moved": 2, "total": 3},
        }))
        .unwrap()
    }

    #[test]
    fn the_state_of_a_tier_is_told_until_it_is_gone() {
        let leadership = Leadership::permanent();
        let metrics = Metrics::new(leadership.clone());
        let zone = |ready| ZoneResolverCount { zone: "zone-a".to_owned(), desired: 2, ready };
        metrics.set_tier("default", &status("False"), vec![zone(0)]);
        metrics.set_tier("default", &status("True"), vec![zone(1)]);
        metrics.set_tier("other", &status("Unknown"), Vec::new());
        let text = metrics.encode();
        for line in [
            "dnstier_operator_condition{tier=\"default\",type=\"Ready\",status=\"True\"} 1",
            "dnstier_operator_condition{tier=\"default\",type=\"Ready\",status=\"False\"} 0",
            "dnstier_operator_condition{tier=\"default\",type=\"Stalled\",status=\"False\"} 1",
            "dnstier_operator_condition{tier=\"other\",type=\"Ready\",status=\"Unknown\"} 1",
            "dnstier_operator_nodes{tier=\"default\",state=\"ready\"} 2",
            "dnstier_operator_rollout_step{tier=\"default\",step=\"Wave\"} 1",
            "dnstier_operator_rollout_pods{tier=\"default\",state=\"moved\"} 2",
            "dnstier_operator_rollout_pods{tier=\"default\",state=\"left\"} 1",
            "dnstier_operator_zone_resolvers{tier=\"default\",zone=\"zone-a\",state=\"desired\"} 2",
            "dnstier_operator_zone_resolvers{tier=\"default\",zone=\"zone-a\",state=\"ready\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("zone=\"zone-a\",state=\"ready\"").count(), 1, "{text}");
        metrics.keep_tiers(&["other".to_owned()]);
        let text = metrics.encode();
        assert!(!text.contains("tier=\"default\"") && text.contains("tier=\"other\""), "{text}");
        leadership.lose();
        assert!(!metrics.encode().contains("tier="), "a standby does not know");
    }

    #[test]
    fn a_tier_that_cannot_be_read_keeps_its_counts() {
        let metrics = Metrics::new(Leadership::permanent());
        metrics.set_tier("default", &status("True"), Vec::new());
        metrics.set_conditions("default", &status("Unknown"));
        let text = metrics.encode();
        assert!(text.contains("type=\"Ready\",status=\"Unknown\"} 1"), "{text}");
        assert!(text.contains("dnstier_operator_nodes{tier=\"default\",state=\"desired\"} 3"), "{text}");
    }

    #[test]
    fn the_role_of_the_process_is_told() {
        let leadership = Leadership::default();
        let metrics = Metrics::new(leadership.clone());
        let text = metrics.encode();
        assert!(text.contains("dnstier_operator_leader 0"), "{text}");
        assert!(!text.contains("dnstier_operator_lease_age_seconds "), "{text}");
        leadership.lead(Duration::from_secs(60));
        let text = metrics.encode();
        for line in [
            "dnstier_operator_leader 1",
            "dnstier_operator_lease_renew_failures_total 0",
            "dnstier_operator_lease_age_seconds 0.",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn metrics_carry_the_prefix_and_their_labels() {
        let metrics = Metrics::default();
        metrics.record_reconcile(Duration::from_millis(20));
        metrics.record_failure("forbidden");
        metrics.set_figure_ages([("canary", 1_500)].into_iter());
        metrics.record_write("Service", "apply");
        let text = metrics.encode();
        for line in [
            "dnstier_operator_reconciles_total 1",
            "dnstier_operator_failures_total{kind=\"forbidden\"} 1",
            "dnstier_operator_figure_age_seconds{class=\"canary\"} 1.5",
            "dnstier_operator_writes_total{kind=\"Service\",verb=\"apply\"} 1",
            "dnstier_operator_reconcile_duration_seconds_count 1",
            "dnstier_build_info{version=",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

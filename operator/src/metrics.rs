//! Prometheus metrics of the operator's own work.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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

/// Labels of a write: the kind of the object, and the verb.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    verb: &'static str,
}

/// Metrics of the operator's own work.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Counter,
    failures: Family<FailureLabels, Counter>,
    durations: Histogram,
    polls: Family<PollLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dnstier_operator");
        let metrics = Self {
            reconciles: Counter::default(),
            failures: Family::default(),
            durations: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            polls: Family::default(),
            writes: Family::default(),
            registry: Registry::default(),
        };
        registry.register("reconciles", "Reconciliations of a tier", metrics.reconciles.clone());
        registry.register("failures", "Failed reconciliations, by kind of error", metrics.failures.clone());
        registry.register("reconcile_duration_seconds", "Duration of reconciliations", metrics.durations.clone());
        registry.register("polls", "Status polls of pods, by result", metrics.polls.clone());
        registry.register("writes", "Objects applied, deleted or annotated", metrics.writes.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
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

    /// Counts a write.
    pub(crate) fn record_write(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind, verb }).inc();
    }

    /// Encodes all metrics in the OpenMetrics text format.
    #[must_use]
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_carry_the_prefix_and_their_labels() {
        let metrics = Metrics::default();
        metrics.record_reconcile(Duration::from_millis(20));
        metrics.record_failure("forbidden");
        metrics.record_write("Service", "apply");
        let text = metrics.encode();
        for line in [
            "dnstier_operator_reconciles_total 1",
            "dnstier_operator_failures_total{kind=\"forbidden\"} 1",
            "dnstier_operator_writes_total{kind=\"Service\",verb=\"apply\"} 1",
            "dnstier_operator_reconcile_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

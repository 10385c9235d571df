//! What the operator counts of its own work.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Why something failed: one of the few words of [`crate::error::Error::kind`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Written {
    kind: &'static str,
    verb: &'static str,
}

/// What the operator counts of its own work.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Counter,
    failures: Family<Kind, Counter>,
    durations: Histogram,
    polls: Family<Outcome, Counter>,
    writes: Family<Written, Counter>,
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
        registry.register("reconciles", "Passes over a tier", metrics.reconciles.clone());
        registry.register("failures", "Passes that failed, by the kind of error", metrics.failures.clone());
        registry.register("reconcile_duration_seconds", "How long passes take", metrics.durations.clone());
        registry.register("polls", "Pods asked how they are, by whether they answered", metrics.polls.clone());
        registry.register("writes", "Objects applied, deleted or annotated", metrics.writes.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a pass.
    pub fn reconciled(&self, took: Duration) {
        self.reconciles.inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// Counts a pass that failed.
    pub fn failed(&self, kind: &'static str) {
        self.failures.get_or_create(&Kind { kind }).inc();
    }

    /// Counts a pod that was asked how it is.
    pub fn polled(&self, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.polls.get_or_create(&Outcome { result }).inc();
    }

    /// Counts a write.
    pub fn wrote(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&Written { kind, verb }).inc();
    }

    /// All of it in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
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
        metrics.reconciled(Duration::from_millis(20));
        metrics.failed("forbidden");
        metrics.wrote("Service", "apply");
        let text = metrics.text();
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

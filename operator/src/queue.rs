//! Queue: work of the leader that waits, for the metrics. They are computed when they are read, so that a process that
//! stands still tells it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::leader::Leadership;

/// Work that waits, by tier. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    tiers: Arc<Mutex<BTreeMap<String, Waiting>>>,
    leadership: Leadership,
}

/// Work of one tier.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// Time at which the next reconciliation is due, or was, if it has not ended.
    due: Option<Instant>,
    /// Annotations of pods that were planned and are not written.
    annotations: usize,
}

impl Waiting {
    /// Returns how long the reconciliation has been due.
    fn wait(&self, now: Instant) -> Duration {
        self.due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due))
    }
}

impl Queue {
    /// Builds the queue of a process with this leadership.
    pub(crate) fn new(leadership: Leadership) -> Self {
        Self { leadership, ..Self::default() }
    }

    /// Sets when the next reconciliation of a tier is due. One that runs was due at its start, until it ends.
    pub(crate) fn set_due(&self, tier: &str, due: Instant) {
        self.lock().entry(tier.to_owned()).or_default().due = Some(due);
    }

    /// Sets the number of annotations of a tier's pods that were planned and are not written.
    pub(crate) fn set_annotations(&self, tier: &str, number: usize) {
        self.lock().entry(tier.to_owned()).or_default().annotations = number;
    }

    /// Forgets the tiers for which `keep` returns false.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.lock().retain(|tier, _| keep(tier));
    }

    /// Returns how long the reconciliation of a tier has been due; `None` of an unknown tier.
    #[cfg(test)]
    pub(crate) fn wait(&self, tier: &str, now: Instant) -> Option<Duration> {
        Some(self.lock().get(tier)?.wait(now))
    }

    /// Returns the number of annotations of a tier that are not written; `None` of an unknown tier.
    #[cfg(test)]
    pub(crate) fn annotations(&self, tier: &str) -> Option<usize> {
        Some(self.lock().get(tier)?.annotations)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Waiting>> {
        self.tiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode_at(&self, now: Instant, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let tiers = self.lock();
        let help = "Time for which a reconciliation of a tier has been due without an end";
        let mut family = encoder.encode_descriptor("reconcile_wait", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (tier, waiting) in &*tiers {
            let labels = [("tier", tier.as_str())];
            ConstGauge::new(waiting.wait(now).as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        let help = "Annotations of pods that are planned and not written";
        let mut family = encoder.encode_descriptor("pending_annotations", help, None, MetricType::Gauge)?;
        for (tier, waiting) in &*tiers {
            let number = i64::try_from(waiting.annotations).unwrap_or(i64::MAX);
            ConstGauge::new(number).encode(family.encode_family(&[("tier", tier.as_str())])?)?;
        }
        Ok(())
    }
}

impl Collector for Queue {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.leadership.term(tokio::time::Instant::now()).is_none() {
            return Ok(());
        }
        self.encode_at(Instant::now(), &mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode_registry;
    use prometheus_client::registry::Registry;

    fn text(queue: &Queue) -> String {
        let mut registry = Registry::with_prefix("dnstier_operator");
        registry.register_collector(Box::new(queue.clone()));
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        text
    }

    fn value(queue: &Queue, series: &str) -> Option<f64> {
        let text = text(queue);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("dnstier_operator_{series} ")))?;
        line.parse().ok()
    }

    #[test]
    fn a_reconciliation_that_is_due_waits_and_one_that_is_to_come_does_not() {
        let queue = Queue::new(Leadership::permanent());
        let now = Instant::now();
        queue.set_due("stuck", now.checked_sub(Duration::from_mins(2)).unwrap());
        queue.set_due("rests", now + Duration::from_mins(2));
        queue.set_annotations("rests", 7);
        let stuck = value(&queue, "reconcile_wait_seconds{tier=\"stuck\"}").unwrap();
        assert!(stuck >= 120.0, "{stuck}");
        assert_eq!(value(&queue, "reconcile_wait_seconds{tier=\"rests\"}"), Some(0.0));
        assert_eq!(value(&queue, "pending_annotations{tier=\"rests\"}"), Some(7.0));
        queue.retain(|tier| tier == "rests");
        assert!(!text(&queue).contains("stuck"), "{}", text(&queue));
    }

    #[test]
    fn a_process_that_leads_no_more_tells_nothing() {
        let leadership = Leadership::permanent();
        let queue = Queue::new(leadership.clone());
        queue.set_due("a", Instant::now());
        assert!(value(&queue, "pending_annotations{tier=\"a\"}").is_some());
        leadership.lose();
        assert!(!text(&queue).contains("tier"), "{}", text(&queue));
    }
}

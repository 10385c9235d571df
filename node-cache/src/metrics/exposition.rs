//! The text that Prometheus reads.

use std::fmt;
use std::sync::Arc;

use node_cache_config::status::UpstreamStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{ClassUsage, Dropped, Gauges, Metrics};

/// The text for the process of this name. Metrics begin with `dnstier_cache_`.
#[must_use]
pub fn text(instance: &str, metrics: &Arc<Metrics>, gauges: Gauges) -> String {
    let labels = [("instance".into(), instance.to_owned().into())];
    let mut registry = Registry::with_prefix_and_labels("dnstier_cache", labels.into_iter());
    registry.register_collector(Box::new(Exposition { metrics: metrics.clone(), gauges }));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}

#[derive(Debug)]
struct Exposition {
    metrics: Arc<Metrics>,
    gauges: Gauges,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.metrics.encode(&mut encoder)?;
        self.gauges.encode(&mut encoder)
    }
}

impl Metrics {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let questions = [("udp", &self.udp), ("tcp", &self.tcp)];
        counters(encoder, "queries", "Questions taken in", "transport", questions)?;
        for (name, help, counter) in [
            ("hits", "Answers from memory in their time", &self.hits),
            ("misses", "Questions that memory could not answer in its time", &self.misses),
            ("stale", "Answers from memory past their time", &self.stale),
            ("refreshes", "Questions asked again before their answer was past its time", &self.refreshes),
        ] {
            metric(encoder, name, help, None, counter)?;
        }
        let drops = Dropped::ALL.map(|reason| (reason.label(), self.dropped_for(reason)));
        counters(encoder, "dropped", "Questions that got no answer", "reason", drops)?;
        metric(encoder, "answers", "Answers", None, &self.answers)?;
        let seconds = Some(&Unit::Seconds);
        let help = "Time to answer from memory; in datagrams from reading a batch to sending its answers";
        metric(encoder, "hit", help, seconds, &self.hit_seconds)?;
        metric(encoder, "miss", "Time to answer what memory could not", seconds, &self.miss_seconds)
    }
}

impl Gauges {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in [
            ("bytes", "Bytes that the cache holds", (|held| held.bytes) as fn(&ClassUsage) -> u64),
            ("entries", "Answers that the cache holds", |held| held.entries),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for held in &self.classes {
                gauge(value(held)).encode(family.encode_family(&[("class", held.class)])?)?;
            }
        }
        let help = "Datagrams that a worker has read";
        let mut family = encoder.encode_descriptor("worker_datagrams", help, None, MetricType::Counter)?;
        for (worker, number) in self.worker_datagrams.iter().enumerate() {
            ConstCounter::new(*number).encode(family.encode_family(&[("worker", worker.to_string())])?)?;
        }
        metric(encoder, "tap_readers", "Readers of the tap", None, &gauge(self.tap_readers))?;
        metric(encoder, "tap_shown", "Messages shown to readers", None, &ConstCounter::new(self.tap_shown))?;
        let help = "Messages that a reader of the tap was too slow for";
        metric(encoder, "tap_lost", help, None, &ConstCounter::new(self.tap_lost))?;
        self.encode_upstreams(encoder)
    }

    fn encode_upstreams(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels =
            |upstream: &UpstreamStatus| [("scope", upstream.scope.clone()), ("upstream", upstream.address.to_string())];
        for (name, help, value) in [
            (
                "upstream_queries",
                "Questions sent to a server",
                (|upstream| upstream.sent) as fn(&UpstreamStatus) -> u64,
            ),
            ("upstream_timeouts", "Questions that a server did not answer in time", |upstream| upstream.timeouts),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for upstream in &self.upstreams {
                ConstCounter::new(value(upstream)).encode(family.encode_family(&labels(upstream))?)?;
            }
        }
        let help = "Whether a server answers";
        let mut family = encoder.encode_descriptor("upstream_healthy", help, None, MetricType::Gauge)?;
        for upstream in &self.upstreams {
            gauge(upstream.healthy.into()).encode(family.encode_family(&labels(upstream))?)?;
        }
        let help = "Time from a question to a server to its answer";
        let mut family = encoder.encode_descriptor("upstream", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        // Most servers of other zones are never asked.
        for server in self.response_times.iter().filter(|server| server.seconds.count() > 0) {
            let labels = [("scope", server.scope.clone()), ("upstream", server.address.to_string())];
            server.seconds.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn metric(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

/// Counters that one label tells apart.
fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    counters: [(&str, &Counter); N],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, counter) in counters {
        counter.encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

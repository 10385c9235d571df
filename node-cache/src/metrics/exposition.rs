//! Exposition of metrics and gauges in the text format of Prometheus (OpenMetrics).

use std::fmt;
use std::sync::Arc;

use node_cache_config::status::UpstreamStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{ClassUsage, DropReason, Gauges, Metrics, RefusalReason};

/// Renders the metrics and gauges of the process `instance`. All names begin with `dnstier_cache_`.
#[must_use]
pub fn render(instance: &str, metrics: &Arc<Metrics>, gauges: Gauges) -> String {
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
        let queries = [("udp", &self.udp_queries), ("tcp", &self.tcp_queries)];
        counters(encoder, "queries", "Queries received", "transport", queries)?;
        for (name, help, counter) in [
            ("hits", "Cache hits: responses from the cache that were not stale", &self.hits),
            ("misses", "Cache misses, stale responses included", &self.misses),
            ("stale", "Stale responses from the cache", &self.stale),
            ("refreshes", "Cache entries refreshed before they expired", &self.refreshes),
            (
                "private_answers_refused",
                "Upstream responses refused because they lead an outside name to a private address",
                &self.private_answers_refused,
            ),
        ] {
            metric(encoder, name, help, None, counter)?;
        }
        let drops = DropReason::ALL.map(|reason| (reason.label(), self.drop_counter(reason)));
        counters(encoder, "dropped", "Queries dropped without a response", "reason", drops)?;
        let refused = RefusalReason::ALL.map(|reason| (reason.label(), self.refused_admission_counter(reason)));
        let help = "Queries not sent to an upstream because their share of the queries in flight was used up";
        counters(encoder, "admission_refused", help, "reason", refused)?;
        metric(encoder, "answers", "Responses", None, &self.responses)?;
        let seconds = Some(&Unit::Seconds);
        let help = "Response time of cache hits; over UDP from receiving a batch to sending its responses";
        metric(encoder, "hit", help, seconds, &self.hit_seconds)?;
        metric(encoder, "miss", "Response time of cache misses", seconds, &self.miss_seconds)
    }
}

impl Gauges {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in [
            ("bytes", "Bytes in the cache", (|usage| usage.bytes) as fn(&ClassUsage) -> u64),
            ("entries", "Entries in the cache", |usage| usage.entries),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for usage in &self.classes {
                gauge(value(usage)).encode(family.encode_family(&[("class", usage.class)])?)?;
            }
        }
        let help = "Datagrams received by a worker";
        let mut family = encoder.encode_descriptor("worker_datagrams", help, None, MetricType::Counter)?;
        for (worker, datagrams) in self.worker_datagrams.iter().enumerate() {
            ConstCounter::new(*datagrams).encode(family.encode_family(&[("worker", worker.to_string())])?)?;
        }
        metric(encoder, "tap_readers", "Readers of the tap (dnstap)", None, &gauge(self.tap_readers))?;
        metric(encoder, "tap_shown", "Messages written to tap readers", None, &ConstCounter::new(self.tap_shown))?;
        let help = "Messages dropped because a tap reader was too slow";
        metric(encoder, "tap_lost", help, None, &ConstCounter::new(self.tap_lost))?;
        self.encode_upstreams(encoder)
    }

    fn encode_upstreams(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels =
            |upstream: &UpstreamStatus| [("scope", upstream.scope.clone()), ("upstream", upstream.address.to_string())];
        for (name, help, value) in [
            (
                "upstream_queries",
                "Queries sent to an upstream",
                (|upstream| upstream.sent) as fn(&UpstreamStatus) -> u64,
            ),
            ("upstream_timeouts", "Queries to an upstream that timed out", |upstream| upstream.timeouts),
            (
                "upstream_near_misses",
                "Responses from an upstream's address to a query in flight with another ID, question or case",
                |upstream| upstream.near_misses,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for upstream in &self.upstreams {
                ConstCounter::new(value(upstream)).encode(family.encode_family(&labels(upstream))?)?;
            }
        }
        let help = "Whether an upstream is up (1) or down (0)";
        let mut family = encoder.encode_descriptor("upstream_healthy", help, None, MetricType::Gauge)?;
        for upstream in &self.upstreams {
            gauge(upstream.healthy.into()).encode(family.encode_family(&labels(upstream))?)?;
        }
        let help = "Response time of an upstream";
        let mut family = encoder.encode_descriptor("upstream", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        // Most upstreams of other zones are never queried.
        for times in self.response_times.iter().filter(|times| times.seconds.count() > 0) {
            let labels = [("scope", times.scope.clone()), ("upstream", times.address.to_string())];
            times.seconds.encode(family.encode_family(&labels)?)?;
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

/// Encodes counters that differ in the value of one label.
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

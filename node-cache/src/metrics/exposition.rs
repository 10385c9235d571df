//! Exposition of metrics and gauges in the text format OpenMetrics.

use std::fmt;
use std::sync::{Arc, PoisonError};

use node_cache_config::metrics_page::{BuildInfo, END, process_text};
use node_cache_config::status::{DETECTION_STATES, DetectionStatus, UpstreamStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::upstream_series::{OTHER, OtherUpstreams, UpstreamPage};
use super::{ClassUsage, DropReason, Gauges, Metrics, RefusalReason};

/// Renders the metrics and gauges of the process with this name, in OpenMetrics. Names begin with `dnstier_cache_`, but
/// for those that every process has.
#[must_use]
pub fn render(process: &str, metrics: &Arc<Metrics>, gauges: Gauges) -> String {
    let labels = [("process".into(), process.to_owned().into())];
    let mut registry = Registry::with_prefix_and_labels("dnstier_cache", labels.into_iter());
    let usage = gauges.process;
    registry.register_collector(Box::new(Exposition { metrics: metrics.clone(), gauges }));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode_registry(&mut text, &registry) {
        Ok(()) => text + &process_text(Some(process), BuildInfo::CURRENT, &usage) + END,
        Err(error) => format!("# {error}\n"),
    }
}

/// Workers with series of their own, at most.
const MAX_SHOWN_WORKERS: usize = 16;

#[derive(Debug)]
struct Exposition {
    metrics: Arc<Metrics>,
    gauges: Gauges,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.metrics.encode(&mut encoder)?;
        self.gauges.encode(&mut encoder)?;
        let series = &self.metrics.upstream_series;
        let page = series
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .page(&self.gauges.upstreams, self.gauges.max_shown_upstreams);
        page.encode(&mut encoder)
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
        let mut family = encoder.encode_descriptor("answers", "Responses", None, MetricType::Counter)?;
        for ((scope, rcode), count) in self.responses.by_kind() {
            ConstCounter::new(count).encode(family.encode_family(&[("scope", scope.as_str()), ("rcode", rcode)])?)?;
        }
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
        let limit = gauge(self.cache_limit);
        metric(encoder, "limit_bytes", "Bytes that the cache may take", None, &limit)?;
        let help = "Entries that left the cache to make room for others";
        metric(encoder, "evictions", help, None, &ConstCounter::new(self.cache_evictions))?;
        if let Some(responses) = self.fallback_responses {
            metric(encoder, "fallback_responses", "Responses of the fallback", None, &ConstCounter::new(responses))?;
        }
        let help = "Datagrams received by a worker";
        let mut family = encoder.encode_descriptor("worker_datagrams", help, None, MetricType::Counter)?;
        let (shown, others) = self.worker_datagrams.split_at(MAX_SHOWN_WORKERS.min(self.worker_datagrams.len()));
        for (worker, datagrams) in shown.iter().enumerate() {
            ConstCounter::new(*datagrams).encode(family.encode_family(&[("worker", worker.to_string())])?)?;
        }
        if !others.is_empty() {
            let sum = others.iter().sum::<u64>();
            ConstCounter::new(sum).encode(family.encode_family(&[("worker", OTHER)])?)?;
        }
        metric(encoder, "tap_readers", "Readers of the tap (dnstap)", None, &gauge(self.tap_readers))?;
        metric(encoder, "tap_shown", "Messages written to tap readers", None, &ConstCounter::new(self.tap_shown))?;
        let help = "Messages dropped because a tap reader was too slow";
        metric(encoder, "tap_lost", help, None, &ConstCounter::new(self.tap_lost))?;
        self.encode_response_times(encoder)?;
        self.packets.as_ref().map_or(Ok(()), |packets| packets.encode(encoder))
    }

    fn encode_response_times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(times) = &self.response_times else { return Ok(()) };
        let help = "Response time of upstreams";
        let mut family = encoder.encode_descriptor("upstream", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for ((scope, zone), seconds) in times.by_labels(&self.own_zone_scopes) {
            let zone = zone.map(|zone| ("zone", zone.to_owned()));
            let labels: Vec<_> = [("scope", scope)].into_iter().chain(zone).collect();
            seconds.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl UpstreamPage {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels =
            |upstream: &UpstreamStatus| [("scope", upstream.scope.clone()), ("upstream", upstream.address.to_string())];
        let others = [("scope", OTHER), ("upstream", OTHER)];
        let counters: [(&str, &str, Count<UpstreamStatus>, Count<OtherUpstreams>); 2] = [
            ("upstream_queries", "Queries sent to an upstream", |upstream| upstream.sent, |others| others.sent),
            (
                "upstream_timeouts",
                "Queries to an upstream that timed out",
                |upstream| upstream.timeouts,
                |others| others.timeouts,
            ),
        ];
        for (name, help, value, value_of_others) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for upstream in &self.shown {
                ConstCounter::new(value(upstream)).encode(family.encode_family(&labels(upstream))?)?;
            }
            if let Some(sums) = &self.others {
                ConstCounter::new(value_of_others(sums)).encode(family.encode_family(&others)?)?;
            }
        }
        let help = "Whether an upstream is up (1) or down (0); of the others, whether all are up";
        let mut family = encoder.encode_descriptor("upstream_healthy", help, None, MetricType::Gauge)?;
        for upstream in &self.shown {
            gauge(upstream.healthy.into()).encode(family.encode_family(&labels(upstream))?)?;
        }
        if let Some(sums) = &self.others {
            gauge(sums.healthy.into()).encode(family.encode_family(&others)?)?;
        }
        self.encode_detection(encoder)?;
        let help = "Responses from an upstream's address to a query in flight with another ID, question or case";
        metric(encoder, "upstream_near_misses", help, None, &ConstCounter::new(self.near_misses))
    }

    /// Encodes what the detection of limits knows of the upstreams with series of their own.
    fn encode_detection(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let watched = || self.shown.iter().filter_map(|upstream| Some((upstream, upstream.detection.as_ref()?)));
        let labels =
            |upstream: &UpstreamStatus| [("scope", upstream.scope.clone()), ("upstream", upstream.address.to_string())];
        let counters: [(&str, &str, Count<DetectionStatus>); 2] = [
            ("upstream_unsent", "Queries for which the ceiling or the budget had no room", |status| status.refused),
            ("upstream_late", "Answers that came more than 300 ms after their query", |status| status.late),
        ];
        for (name, help, value) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (upstream, status) in watched() {
                ConstCounter::new(value(status)).encode(family.encode_family(&labels(upstream))?)?;
            }
        }
        let help = "Queries to an upstream in flight";
        let mut family = encoder.encode_descriptor("upstream_in_flight", help, None, MetricType::Gauge)?;
        for (upstream, _) in watched() {
            gauge(upstream.in_flight.into()).encode(family.encode_family(&labels(upstream))?)?;
        }
        let help = "Packets a second that an upstream is sent at the most, while there is a ceiling";
        let mut family = encoder.encode_descriptor("upstream_ceiling", help, None, MetricType::Gauge)?;
        for (upstream, ceiling) in watched().filter_map(|(upstream, status)| Some((upstream, status.ceiling?))) {
            gauge(ceiling.into()).encode(family.encode_family(&labels(upstream))?)?;
        }
        let help = "State of an upstream: 0 well, 1 suspected, 2 held, 3 limited, 4 flows limited, 5 lossy, 6 slow, \
                    7 back from silence, 8 silent, 9 returning";
        let mut family = encoder.encode_descriptor("upstream_state", help, None, MetricType::Gauge)?;
        for (upstream, status) in watched() {
            let number = DETECTION_STATES.iter().position(|state| *state == status.state).unwrap_or_default();
            gauge(number as u64).encode(family.encode_family(&labels(upstream))?)?;
        }
        Ok(())
    }
}

/// Reads a count.
type Count<T> = fn(&T) -> u64;

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

pub(super) fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

//! Exposition of metrics and gauges in the text format OpenMetrics.

use std::fmt;
use std::sync::{Arc, PoisonError};

use node_cache_config::metrics_page::{BuildInfo, END, process_text};
use node_cache_config::status::UpstreamStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::upstream_series::{OTHER, OtherUpstreams, UpstreamPage};
use super::{ClassUsage, DropReason, Gauges, Metrics, PacketClass, RefusalReason};
use crate::dns::query::Transport;

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

/// Kind of the scopes of routes.
const ROUTE_KIND: &str = "route";
/// Kinds of scopes whose upstreams may have a packet budget.
const LIMITED_SCOPES: [&str; 3] = ["forward", "fallback", ROUTE_KIND];

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
        let limit = gauge(self.cache_limit);
        metric(encoder, "limit_bytes", "Bytes that the cache may take", None, &limit)?;
        let help = "Entries that left the cache to make room for others";
        metric(encoder, "evictions", help, None, &ConstCounter::new(self.cache_evictions))?;
        if let Some(responses) = self.fallback_responses {
            metric(encoder, "fallback_responses", "Responses of the fallback", None, &ConstCounter::new(responses))?;
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
        self.encode_response_times(encoder)?;
        self.encode_packets(encoder)
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

    /// Encodes the packets to upstreams. Own servers (the resolvers of the zones, the cluster DNS) have no budget, and
    /// a class in which no packet has left has no series.
    fn encode_packets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(packets) = &self.packets else { return Ok(()) };
        let mut scopes = packets.all();
        scopes.retain(|(scope, _)| LIMITED_SCOPES.contains(&scope.as_str()));
        let help = "Packets sent to upstreams, as a packet budget counts them";
        let mut family = encoder.encode_descriptor("upstream_packets", help, None, MetricType::Counter)?;
        for (scope, counts) in &scopes {
            for class in PacketClass::ALL {
                for (name, transport) in [("udp", Transport::Udp), ("tcp", Transport::Tcp)] {
                    let number = counts.packets(class, transport);
                    if number > 0 {
                        let labels = [("scope", scope.as_str()), ("class", class.label()), ("transport", name)];
                        ConstCounter::new(number).encode(family.encode_family(&labels)?)?;
                    }
                }
            }
        }
        let with_budget: Vec<_> = scopes.iter().filter(|(_, counts)| counts.had_budget()).collect();
        let help = "Sends to upstreams for which the packet budget had no room";
        let mut family = encoder.encode_descriptor("upstream_refused", help, None, MetricType::Counter)?;
        for (scope, counts) in &with_budget {
            for class in PacketClass::ALL {
                let labels = [("scope", scope.as_str()), ("class", class.label())];
                ConstCounter::new(counts.refused(class)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Time for which sends to upstreams waited for the packet budget";
        let seconds = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("upstream_wait", help, seconds, MetricType::Counter)?;
        // On a node, the response time of its routes has to do.
        for (scope, counts) in with_budget.iter().filter(|(scope, _)| scope != ROUTE_KIND) {
            ConstCounter::new(counts.waited().as_secs_f64()).encode(family.encode_family(&[("scope", scope)])?)?;
        }
        let help = "Packets a second that this process may send to the upstreams with a packet budget";
        let mut family = encoder.encode_descriptor("upstream_budget", help, None, MetricType::Gauge)?;
        for (scope, counts) in &with_budget {
            gauge(counts.budget()).encode(family.encode_family(&[("scope", scope)])?)?;
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
        let help = "Responses from an upstream's address to a query in flight with another ID, question or case";
        metric(encoder, "upstream_near_misses", help, None, &ConstCounter::new(self.near_misses))
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

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

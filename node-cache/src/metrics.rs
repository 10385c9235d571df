//! Counters of one process, and the text in which they are read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use node_cache_config::status::{Traffic, UpstreamStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::answer::{Answer, Origin};
use crate::packet::numbers::rcode;

/// In the place of a scope: what a process answers out of itself. Most of it are health checks.
pub const OWN: &str = "own";

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Why a question was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Its source may not ask.
    NotAllowed,
    /// It is not a request.
    NotARequest,
    /// Too many questions are being answered.
    Busy,
    /// Too many of one client are.
    Greedy,
    /// Too many connections are open, in total or from its source.
    Connections,
}

impl Dropped {
    const ALL: [Self; 5] = [Self::NotAllowed, Self::NotARequest, Self::Busy, Self::Greedy, Self::Connections];

    const fn label(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotARequest => "not_a_request",
            Self::Busy => "busy",
            Self::Greedy => "greedy",
            Self::Connections => "connections",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabel {
    transport: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Scopes come from the configuration and codes from a fixed list, so that no client can make up new series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    scope: String,
    rcode: &'static str,
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    udp: Counter,
    tcp: Counter,
    own: Counter,
    hits: Counter,
    stale: Counter,
    refreshes: Counter,
    servfail: Counter,
    answers: Family<AnswerLabels, Counter>,
    dropped: Family<ReasonLabel, Counter>,
    misses: MissSeconds,
}

/// Counters of one scope's answers from memory, found once and then only counted up.
#[derive(Debug)]
pub struct ScopeHits {
    hits: Counter,
    noerror: Counter,
    nxdomain: Counter,
}

impl ScopeHits {
    /// Counts an answer from memory, which is NOERROR or NXDOMAIN.
    #[inline]
    pub fn count(&self, code: u16) {
        self.hits.inc();
        if code == rcode::NXDOMAIN {
            self.nxdomain.inc()
        } else {
            self.noerror.inc()
        };
    }
}

#[derive(Debug)]
struct MissSeconds(Histogram);

impl Default for MissSeconds {
    fn default() -> Self {
        Self(Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0]))
    }
}

impl Metrics {
    /// Counts a question that was taken in.
    pub fn question(&self, transport: Transport) {
        match transport {
            Transport::Udp => self.udp.inc(),
            Transport::Tcp => self.tcp.inc(),
        };
    }

    /// Counts questions that were taken in as datagrams.
    pub fn questions_in_udp(&self, number: u64) {
        self.udp.inc_by(number);
    }

    /// The number of questions that were taken in.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.udp.get() + self.tcp.get()
    }

    /// Counts what was said to a question in this scope ([`OWN`] for what never reaches one).
    pub fn answer(&self, scope: &str, answer: &Answer) {
        match answer.origin {
            Origin::Memory => {
                self.hits.inc();
            }
            Origin::Stale => {
                self.stale.inc();
            }
            Origin::Local | Origin::Upstream | Origin::Failure => {}
        }
        if scope == OWN {
            self.own.inc();
        }
        if answer.response.rcode() == rcode::SERVFAIL {
            self.servfail.inc();
        }
        let labels = AnswerLabels { scope: scope.to_owned(), rcode: rcode::name(answer.response.rcode()) };
        self.answers.get_or_create(&labels).inc();
    }

    /// The counters of a scope's answers from memory.
    #[must_use]
    pub fn scope_hits(&self, scope: &str) -> ScopeHits {
        let counter = |code| {
            let labels = AnswerLabels { scope: scope.to_owned(), rcode: rcode::name(code) };
            self.answers.get_or_create(&labels).clone()
        };
        ScopeHits { hits: self.hits.clone(), noerror: counter(rcode::NOERROR), nxdomain: counter(rcode::NXDOMAIN) }
    }

    /// Counts a question that is asked again before its answer is past its time.
    pub fn refresh(&self) {
        self.refreshes.inc();
    }

    /// Counts how long a question took that memory could not answer.
    pub fn miss(&self, took: Duration) {
        self.misses.0.observe(took.as_secs_f64());
    }

    /// Counts a question that gets no answer.
    pub fn dropped(&self, reason: Dropped) {
        self.dropped_for(reason).inc();
    }

    fn dropped_for(&self, reason: Dropped) -> Counter {
        self.dropped.get_or_create(&ReasonLabel { reason: reason.label() }).clone()
    }

    /// The counters as the status tells them.
    #[must_use]
    pub fn traffic(&self, cache_bytes: u64, cache_entries: u64) -> Traffic {
        let dropped = Dropped::ALL.iter().map(|reason| self.dropped_for(*reason).get()).sum();
        Traffic {
            queries: self.questions().saturating_sub(self.own.get()),
            hits: self.hits.get(),
            stale: self.stale.get(),
            servfail: self.servfail.get(),
            dropped,
            cache_bytes,
            cache_entries,
        }
    }
}

/// What is read off when somebody asks, rather than counted.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// How the other servers do.
    pub upstreams: Vec<UpstreamStatus>,
    /// Bytes that the cache holds.
    pub cache_bytes: u64,
    /// Answers that the cache holds.
    pub cache_entries: u64,
    /// Datagrams that each worker has read.
    pub datagrams: Vec<u64>,
}

/// The text that Prometheus reads, for the process of this name. Metrics begin with `dnstier_cache_`.
#[must_use]
pub fn text(instance: &str, metrics: &Arc<Metrics>, levels: Levels) -> String {
    let labels = [("instance".into(), instance.to_owned().into())];
    let mut registry = Registry::with_prefix_and_labels("dnstier_cache", labels.into_iter());
    let counted = metrics.clone();
    registry.register("hits", "Answers from memory in their time", counted.hits.clone());
    registry.register("stale", "Answers from memory past their time", counted.stale.clone());
    let help = "Questions asked again before their answer was past its time";
    registry.register("refreshes", help, counted.refreshes.clone());
    registry.register("answers", "Answers", counted.answers.clone());
    registry.register("dropped", "Questions that got no answer", counted.dropped.clone());
    let help = "Time to answer what memory could not";
    registry.register_with_unit("miss", help, Unit::Seconds, counted.misses.0.clone());
    let queries = Family::<TransportLabel, Counter>::default();
    for (transport, counter) in [("udp", &counted.udp), ("tcp", &counted.tcp)] {
        queries.get_or_create(&TransportLabel { transport }).inc_by(counter.get());
    }
    registry.register("queries", "Questions taken in", queries);
    registry.register_collector(Box::new(levels));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}

impl Collector for Levels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in [
            ("bytes", "Bytes that the cache holds", self.cache_bytes),
            ("entries", "Answers that the cache holds", self.cache_entries),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
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
            let kind = ConstCounter::new(0u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for upstream in &self.upstreams {
                let counter = ConstCounter::new(value(upstream));
                counter.encode(family.encode_family(&labels(upstream))?)?;
            }
        }
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family =
            encoder.encode_descriptor("worker_datagrams", "Datagrams that a worker has read", None, kind)?;
        for (worker, number) in self.datagrams.iter().enumerate() {
            let counter = ConstCounter::new(*number);
            counter.encode(family.encode_family(&[("worker", worker.to_string())])?)?;
        }
        let kind = ConstGauge::new(0i64).metric_type();
        let mut family = encoder.encode_descriptor("upstream_healthy", "Whether a server answers", None, kind)?;
        for upstream in &self.upstreams {
            let gauge = ConstGauge::new(i64::from(upstream.healthy));
            gauge.encode(family.encode_family(&labels(upstream))?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_names_its_instance_and_begins_with_our_prefix() {
        let metrics = Arc::new(Metrics::default());
        metrics.question(Transport::Udp);
        metrics.dropped(Dropped::Busy);
        let upstream = UpstreamStatus {
            scope: "zone/zone-a".into(),
            address: "10.0.0.1:1053".parse().unwrap(),
            healthy: true,
            sent: 7,
            timeouts: 1,
        };
        let levels = Levels { upstreams: vec![upstream], cache_bytes: 5, cache_entries: 1, datagrams: vec![3, 4] };
        let text = text("cache-0", &metrics, levels);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("dnstier_cache_") && line.contains("instance=\"cache-0\""), "{line}");
        }
        for expected in [
            "dnstier_cache_queries_total{instance=\"cache-0\",transport=\"udp\"} 1",
            "dnstier_cache_upstream_queries_total{instance=\"cache-0\",scope=\"zone/zone-a\",upstream=\"10.0.0.1:1053\"} 7",
            "dnstier_cache_dropped_total{instance=\"cache-0\",reason=\"busy\"} 1",
            "dnstier_cache_bytes{instance=\"cache-0\"} 5",
            "dnstier_cache_worker_datagrams_total{instance=\"cache-0\",worker=\"1\"} 4",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert_eq!(metrics.traffic(5, 1).dropped, 1);
    }
}

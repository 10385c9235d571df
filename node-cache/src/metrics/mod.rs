//! Counters and histograms of one process, and their exposition for Prometheus.
//!
//! [`Metrics`] counts while queries are handled; [`Tally`] collects the cache hits of one batch of datagrams first.
//! [`Gauges`] are values that are read when metrics are scraped. [`render`] writes both as text.

mod exposition;
mod gauges;
mod histogram;
mod labels;
mod packet_exposition;
mod packets;
mod response_times;
mod responses;
mod tally;
mod upstream_series;
mod zone_queries;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_cache_config::distinct_names::{DistinctNames, this_minute};
use node_cache_config::figures::{AddressQueries, Figures};
use node_cache_config::status::Traffic;
use prometheus_client::metrics::counter::Counter;

use crate::dns::answer::{Answer, Source};
use crate::dns::codes::rcode;
use crate::dns::query::Transport;

pub use exposition::render;
pub use gauges::{ClassUsage, Gauges};
pub use histogram::{HitSeconds, WaitSeconds};
use labels::REFUSED_SCOPE;
pub(crate) use labels::scope_kind;
pub use labels::{DropReason, LOCAL_SCOPE, RefusalReason};
pub use packets::{PacketClass, PacketCounts, UpstreamPackets};
pub use response_times::ResponseTimes;
use responses::Responses;
pub use tally::{ScopeCounters, Tally};
use upstream_series::UpstreamSeries;
pub use upstream_series::{MAX_SHOWN_BY_A_NODE_CACHE, MAX_SHOWN_BY_A_RESOLVER};
pub use zone_queries::ZoneQueryCounts;

/// Response time from which on a cache miss is slow.
const SLOW_MISS: Duration = Duration::from_millis(500);

/// Counters and histograms of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    udp_queries: Counter,
    tcp_queries: Counter,
    local: Counter,
    hits: Counter,
    misses: Counter,
    stale: Counter,
    refreshes: Counter,
    servfail: Counter,
    responses: Responses,
    /// Cache misses of [`SLOW_MISS`] or longer.
    slow_misses: Counter,
    /// Names that were answered with SERVFAIL.
    servfail_names: Mutex<DistinctNames>,
    /// Names of slow misses.
    slow_names: Mutex<DistinctNames>,
    private_answers_refused: Counter,
    reserve_responses: Counter,
    drops: [Counter; DropReason::ALL.len()],
    refused_admissions: [Counter; RefusalReason::ALL.len()],
    hit_seconds: HitSeconds,
    miss_seconds: WaitSeconds,
    /// Upstreams with series of their own, and the sums of the others.
    upstream_series: Mutex<UpstreamSeries>,
}

impl Metrics {
    /// Counts a query that was received.
    pub fn count_query(&self, transport: Transport) {
        match transport {
            Transport::Udp => {
                self.udp_queries.inc();
            }
            Transport::Tcp => {
                self.tcp_queries.inc();
            }
            Transport::Internal => {}
        }
    }

    /// Returns the number of queries received over UDP and TCP.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.udp_queries.get() + self.tcp_queries.get()
    }

    /// Adds the cache hits of one batch of datagrams, and their queries. `nanoseconds` is the time from receiving the
    /// batch to sending its responses, and counts for each of them.
    #[inline]
    pub fn add_batch(&self, tally: &Tally<'_>, nanoseconds: u64) {
        if tally.total() > 0 {
            tally.add_to_scope();
            self.udp_queries.inc_by(tally.total().into());
            self.hit_seconds.observe_many(nanoseconds, tally.total().into());
        }
    }

    /// Counts the response to a query, and the time until its answer was known. `scope` is the name of the query's
    /// scope, or [`LOCAL_SCOPE`]; `counters` are those of the scope, if they are known. Queries of this process itself
    /// are no traffic and count nowhere.
    pub fn count_response(
        &self,
        scope: &str,
        counters: Option<&ScopeCounters>,
        transport: Transport,
        answer: &Answer,
        elapsed: Duration,
    ) {
        if transport == Transport::Internal {
            return;
        }
        match answer.source {
            Source::Cache => {
                self.hits.inc();
                self.hit_seconds.observe(elapsed);
            }
            Source::StaleCache | Source::Upstream | Source::Failure => {
                self.misses.inc();
                self.miss_seconds.observe(elapsed);
                if elapsed >= SLOW_MISS {
                    self.slow_misses.inc();
                    lock(&self.slow_names).insert(this_minute(), answer.response.question_name());
                }
            }
            Source::Local => {}
        }
        if answer.source == Source::StaleCache {
            self.stale.inc();
        }
        let rcode = answer.response.rcode();
        if rcode == rcode::SERVFAIL {
            self.servfail.inc();
        }
        if scope == LOCAL_SCOPE {
            self.local.inc();
            return self.responses.count_unscoped(LOCAL_SCOPE, rcode);
        }
        if rcode == rcode::SERVFAIL {
            lock(&self.servfail_names).insert(this_minute(), answer.response.question_name());
        }
        match counters {
            Some(counters) => counters.for_rcode(rcode).inc(),
            None => self.responses.of_scope(scope).for_rcode(rcode).inc(),
        };
    }

    /// Counts a query that was refused with this rcode before it was resolved.
    pub fn count_refusal(&self, transport: Transport, rcode: u16) {
        if rcode == rcode::SERVFAIL {
            self.servfail.inc();
        }
        // What a process queries for itself is no traffic.
        if transport != Transport::Internal {
            self.responses.count_unscoped(REFUSED_SCOPE, rcode);
        }
    }

    /// Returns the counters of a scope's responses. They are those of this scope as long as they are held.
    #[must_use]
    pub fn scope_counters(&self, scope: &str) -> ScopeCounters {
        ScopeCounters::new(self.hits.clone(), self.responses.of_scope(scope))
    }

    /// Returns the figures of the process's status, with these queries by address and none to the resolvers of zones.
    #[must_use]
    pub fn figures(&self, queries: Vec<AddressQueries>) -> Figures {
        let recent = |names: &Mutex<DistinctNames>| {
            let mut names = lock(names);
            names.turn(this_minute());
            *names
        };
        let own = Figures {
            responses: self.responses.by_scope(),
            slow_misses: self.slow_misses.get(),
            servfail_names: recent(&self.servfail_names),
            slow_names: Some(recent(&self.slow_names)),
            queries,
            zone_queries: None,
        };
        // Bounds what a page holds.
        let mut figures = Figures::default();
        figures.add(&own);
        figures
    }

    /// Counts a refresh (prefetch): an upstream query for a cache entry before it expires.
    pub fn count_refresh(&self) {
        self.refreshes.inc();
    }

    /// Returns the number of refreshes.
    #[must_use]
    pub fn refreshes(&self) -> u64 {
        self.refreshes.get()
    }

    /// Counts a response of an upstream that is refused because it leads an outside name to a private address.
    pub fn count_private_answer(&self) {
        self.private_answers_refused.inc();
    }

    /// Returns the number of responses refused because of a private address.
    #[must_use]
    pub fn private_answers_refused(&self) -> u64 {
        self.private_answers_refused.get()
    }

    /// Counts a response of a server that is asked while others are silent: of a fallback, or of a last resort.
    pub fn count_reserve_response(&self) {
        self.reserve_responses.inc();
    }

    /// Returns the number of responses of a fallback or of a last resort.
    #[must_use]
    pub fn reserve_responses(&self) -> u64 {
        self.reserve_responses.get()
    }

    /// Returns the number of cache misses, stale responses included.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.get()
    }

    /// Returns the number of stale responses.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.stale.get()
    }

    /// Counts a query that is dropped without a response.
    pub fn count_drop(&self, reason: DropReason) {
        self.drop_counter(reason).inc();
    }

    /// Returns the number of queries dropped for a reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drop_counter(reason).get()
    }

    const fn drop_counter(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// Counts a query that needs an upstream and is not admitted among those in flight.
    pub fn count_refused_admission(&self, reason: RefusalReason) {
        self.refused_admission_counter(reason).inc();
    }

    /// Returns the number of queries that were not admitted among those in flight for a reason.
    #[must_use]
    pub fn refused_admissions(&self, reason: RefusalReason) -> u64 {
        self.refused_admission_counter(reason).get()
    }

    const fn refused_admission_counter(&self, reason: RefusalReason) -> &Counter {
        &self.refused_admissions[reason as usize]
    }

    /// Returns the counters of the process's status. Queries answered by this process itself are excluded.
    #[must_use]
    pub fn traffic(&self, cache_bytes: u64, cache_entries: u64) -> Traffic {
        Traffic {
            queries: self.queries().saturating_sub(self.local.get()),
            hits: self.hits.get(),
            stale: self.stale.get(),
            servfail: self.servfail.get(),
            dropped: DropReason::ALL.iter().map(|reason| self.drops(*reason)).sum(),
            cache_bytes,
            cache_entries,
        }
    }
}

fn lock(names: &Mutex<DistinctNames>) -> MutexGuard<'_, DistinctNames> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

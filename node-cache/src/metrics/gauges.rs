//! Values that are read when metrics are scraped, as opposed to counters. They are plain values, which the caller
//! collects.

use std::collections::BTreeSet;
use std::sync::Arc;

use node_cache_config::metrics_page::ProcessUsage;
use node_cache_config::status::UpstreamStatus;

use super::{ResponseTimes, UpstreamPackets};

/// Gauges of one process at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Health, queries, timeouts and near misses of each upstream.
    pub upstreams: Vec<UpstreamStatus>,
    /// Upstreams that have series of their own, at most.
    pub max_shown_upstreams: usize,
    /// Response times of upstreams, by scope.
    pub response_times: Option<Arc<ResponseTimes>>,
    /// Packets to upstreams, by scope.
    pub packets: Option<Arc<UpstreamPackets>>,
    /// Scopes of resolvers of the node's own zone.
    pub own_zone_scopes: BTreeSet<String>,
    /// Bytes and entries of the cache, by class of entry.
    pub classes: Vec<ClassUsage>,
    /// Bytes that the cache may take.
    pub cache_limit: u64,
    /// Entries that left the cache to make room for others.
    pub cache_evictions: u64,
    /// Responses of the fallback of a zone resolver; `None` on a node, which has no series to spare.
    pub fallback_responses: Option<u64>,
    /// Datagrams received by each worker, by the worker's index.
    pub worker_datagrams: Vec<u64>,
    /// Number of tap readers (dnstap).
    pub tap_readers: u64,
    /// Messages written to tap readers.
    pub tap_shown: u64,
    /// Messages dropped because a tap reader was too slow.
    pub tap_lost: u64,
    /// Processor time, memory and file descriptors of the process.
    pub process: ProcessUsage,
}

/// Share of the cache that one class of entries takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassUsage {
    /// `positive`, `negative` or `failures`.
    pub class: &'static str,
    /// Bytes, each entry's overhead included.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

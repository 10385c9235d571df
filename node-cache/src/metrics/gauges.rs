//! Values that are read when metrics are scraped, as opposed to counters. They are plain values, which the caller
//! collects.

use std::net::SocketAddr;

use node_cache_config::status::UpstreamStatus;

use super::WaitSeconds;

/// Gauges of one process at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Health, queries, timeouts and near misses of each upstream.
    pub upstreams: Vec<UpstreamStatus>,
    /// Response times of each upstream.
    pub response_times: Vec<ResponseTimes>,
    /// Bytes and entries of the cache, by class of entry.
    pub classes: Vec<ClassUsage>,
    /// Datagrams received by each worker, by the worker's index.
    pub worker_datagrams: Vec<u64>,
    /// Number of tap readers (dnstap).
    pub tap_readers: u64,
    /// Messages written to tap readers.
    pub tap_shown: u64,
    /// Messages dropped because a tap reader was too slow.
    pub tap_lost: u64,
}

/// Response times of one upstream in one scope.
#[derive(Clone, Debug)]
pub struct ResponseTimes {
    /// Name of the scope, such as `zone/a`.
    pub scope: String,
    /// Address and port of the upstream.
    pub address: SocketAddr,
    /// Time from a query to its response, timeouts excluded.
    pub seconds: WaitSeconds,
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

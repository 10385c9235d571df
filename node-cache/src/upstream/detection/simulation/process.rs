//! One resolver process: its detector, kept ports and retries.

use std::time::Instant;

use super::super::cells::Stamp;
use super::super::detector::Detector;
use super::random::Random;
use super::world::DOMAINS;

/// Ports that a process keeps, and those below which it opens new ones.
const MAX_PORTS: usize = 64;
const MIN_PORTS: usize = 16;
/// Share of queries from new ports while there are fewer, and those that are enough to have a share at all.
const NEW_PORTS: f64 = 0.05;
const FEW_PORTS: usize = 3;
/// Queries in a row without an answer after which a port is given up while ports are kept.
const PORT_SILENCES: u8 = 3;
/// Queries from one port, and milliseconds, until it is closed.
const PORT_QUERIES: u32 = 256;
const PORT_TIME: u64 = 60_000;
/// Retries for each first send, and their burst in seconds.
const RETRY_SHARE: f64 = 0.1;

/// A query of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    pub(super) generation: u32,
    pub(super) domain: u32,
    pub(super) sent_at: u64,
    pub(super) flow: u64,
    pub(super) stamp: Option<Stamp>,
    pub(super) is_answerable: bool,
    pub(super) is_answered: bool,
    pub(super) is_at_fallback: bool,
}

/// Fate of the queries of one second, by the second in which they came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Second {
    /// Queries that somebody answers.
    pub(super) offered: u32,
    /// Of those, the ones that were answered within a second.
    pub(super) right: u32,
    /// Of those, the ones that were not sent, because of the ceiling and without a fallback.
    pub(super) refused: u32,
    /// Queries that went to the fallback instead of the upstream.
    pub(super) diverted: u32,
    /// Packets to the upstream, and those of them that a limiter or the path dropped.
    pub(super) packets: u32,
    pub(super) dropped: u32,
}

/// A port.
#[derive(Clone, Copy, Debug)]
struct Port {
    flow: u64,
    queries: u32,
    since: u64,
    /// Queries in a row without an answer: a name may be the reason.
    silences: u8,
}

/// A process.
pub(super) struct Process {
    pub(super) detector: Detector<u32>,
    pub(super) queries: Vec<Query>,
    pub(super) free: Vec<u32>,
    pub(super) seconds: Vec<Second>,
    pub(super) next_tick: u64,
    pub(super) next_arrival: f64,
    /// Milliseconds of the p95 latency.
    pub(super) p95: f64,
    ports: Vec<Port>,
    next_flow: u64,
    tokens: f64,
    filled_at: u64,
    retries: f64,
    /// Queries in a row without an answer, by domain.
    silences: Vec<u8>,
}

impl Process {
    pub(super) fn new(index: u64, seed: u64, now: Instant) -> Self {
        Self {
            detector: Detector::new(seed.wrapping_mul(31).wrapping_add(index), now),
            queries: Vec::new(),
            free: Vec::new(),
            seconds: Vec::new(),
            next_tick: 0,
            next_arrival: 0.0,
            p95: 60.0,
            ports: Vec::new(),
            next_flow: index << 48,
            tokens: 0.0,
            filled_at: 0,
            retries: 0.0,
            silences: vec![0; DOMAINS],
        }
    }

    /// Takes a packet out of the ceiling. Its bucket is as deep as the tenth of a second that a query may wait.
    pub(super) fn take(&mut self, now: u64) -> bool {
        let Some(ceiling) = self.detector.ceiling() else { return true };
        let burst = (ceiling / 10.0).max(1.0);
        self.tokens = burst.min(self.tokens + ceiling * (now - self.filled_at) as f64 / 1000.0);
        self.filled_at = now;
        let is_free = self.tokens >= 1.0;
        if is_free {
            self.tokens -= 1.0;
        }
        is_free
    }

    /// Charges a control query to the ceiling.
    pub(super) fn charge(&mut self) {
        if let Some(ceiling) = self.detector.ceiling() {
            self.tokens = (self.tokens - 1.0).max(-ceiling / 10.0);
        }
    }

    /// Earns a part of a retry with a first send.
    pub(super) fn earn_retry(&mut self) {
        let share = RETRY_SHARE + self.detector.known_loss();
        self.retries = (self.retries + share).min(self.detector.demand().max(10.0));
    }

    /// Takes a retry for a name of this domain.
    pub(super) fn take_retry(&mut self, domain: u32) -> bool {
        let is_free = self.retries >= 1.0 && self.silences[domain as usize] < 3;
        if is_free {
            self.retries -= 1.0;
        }
        is_free
    }

    pub(super) fn record_silence(&mut self, domain: u32, flow: u64) {
        let silences = &mut self.silences[domain as usize];
        *silences = silences.saturating_add(1);
        let max = if self.detector.keeps_ports() { PORT_SILENCES } else { 1 };
        if let Some(index) = self.ports.iter().position(|port| port.flow == flow) {
            self.ports[index].silences += 1;
            if self.ports[index].silences >= max {
                self.ports.remove(index);
            }
        }
    }

    pub(super) fn record_answer(&mut self, domain: u32, latency: u64) {
        self.silences[domain as usize] = 0;
        let step = if latency as f64 > self.p95 { 0.95 } else { -0.05 };
        self.p95 = (self.p95 * (1.0 + 0.01 * step)).max(1.0);
    }

    /// Keeps the port of an answered query: one with each name, more while the verdict says so.
    pub(super) fn keep_port(&mut self, flow: u64, now: u64) {
        let max = if self.detector.keeps_ports() { MAX_PORTS } else { 8 };
        if let Some(port) = self.ports.iter_mut().find(|port| port.flow == flow) {
            port.silences = 0;
            return;
        }
        if self.ports.len() >= max {
            self.ports.remove(0);
        }
        self.ports.push(Port { flow, queries: 1, since: now, silences: 0 });
    }

    pub(super) const fn fresh_port(&mut self) -> u64 {
        self.next_flow += 1;
        self.next_flow
    }

    /// Returns a port that was answered before.
    pub(super) fn kept_port(&mut self, now: u64, random: &mut Random) -> Option<u64> {
        let time = if self.detector.keeps_ports() { PORT_TIME } else { 10_000 };
        self.ports.retain(|port| port.queries < PORT_QUERIES && now - port.since < time);
        if self.ports.is_empty() {
            return None;
        }
        let index = random.below(self.ports.len() as u64) as usize;
        self.ports[index].queries += 1;
        Some(self.ports[index].flow)
    }

    /// Returns the port of a query.
    pub(super) fn port(&mut self, now: u64, random: &mut Random) -> u64 {
        let share = match self.ports.len() {
            FEW_PORTS..MIN_PORTS => NEW_PORTS,
            0..FEW_PORTS => 0.5,
            _ => 0.0,
        };
        let is_kept = self.detector.keeps_ports() && !random.chance(share);
        is_kept.then(|| self.kept_port(now, random)).flatten().unwrap_or_else(|| self.fresh_port())
    }

    pub(super) fn second(&mut self, now: u64) -> &mut Second {
        let second = (now / 1000) as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        &mut self.seconds[second]
    }

    pub(super) fn insert(&mut self, query: Query) -> (u32, u32) {
        if let Some(index) = self.free.pop() {
            let generation = self.queries[index as usize].generation.wrapping_add(1);
            self.queries[index as usize] = Query { generation, ..query };
            return (index, generation);
        }
        self.queries.push(query);
        (self.queries.len() as u32 - 1, query.generation)
    }
}

//! Models of what limits an upstream, or the way to it. Times are in milliseconds.

use std::collections::{HashMap, VecDeque};

/// Kind of a limiter, with its figures.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Token bucket: what is above the rate is dropped.
    Policer { rate: f64, burst: f64 },
    /// The first packets of each whole second pass.
    PerSecond { packets: u32 },
    /// Queries that are not answered yet, at most; one that nobody answers counts for five seconds.
    InFlight { queries: u32 },
    /// Flows in a table, each for 30 s after its last packet; packets of others are dropped.
    Flows { flows: usize },
    /// Token bucket; a packet above the rate blocks everything for ten seconds.
    Punitive { rate: f64 },
    /// Queue that is emptied at a rate, and drops what would wait longer.
    Shaper { rate: f64, queue: f64 },
}

/// Time for which a flow stays in the table.
const FLOW_TIME: u64 = 30_000;
const PENALTY: u64 = 10_000;
/// Time for which a query without an answer is in flight.
pub(super) const UNANSWERED_TIME: u64 = 5_000;

/// A limiter and what it knows.
#[derive(Debug)]
pub(super) struct Limiter {
    kind: Kind,
    tokens: f64,
    filled_at: u64,
    count: u32,
    flows: HashMap<u64, u64>,
    expiries: VecDeque<(u64, u64)>,
    blocked_until: u64,
    queue_end: f64,
}

impl Limiter {
    pub(super) fn new(kind: Kind) -> Self {
        let (flows, expiries) = (HashMap::new(), VecDeque::new());
        Self { kind, tokens: 0.0, filled_at: 0, count: 0, flows, expiries, blocked_until: 0, queue_end: 0.0 }
    }

    /// Returns the delay of a packet; `None` when it is dropped.
    pub(super) fn pass(&mut self, flow: u64, now: u64) -> Option<u64> {
        match self.kind {
            Kind::Policer { rate, burst } => self.take(rate, burst, now).then_some(0),
            Kind::PerSecond { packets } => {
                if now / 1000 != self.filled_at {
                    (self.filled_at, self.count) = (now / 1000, 0);
                }
                self.count += 1;
                (self.count <= packets).then_some(0)
            }
            Kind::InFlight { queries } => {
                let is_free = self.count < queries;
                self.count += u32::from(is_free);
                is_free.then_some(0)
            }
            Kind::Flows { flows } => self.pass_flow(flow, flows, now).then_some(0),
            Kind::Punitive { rate } => {
                if now >= self.blocked_until && !self.take(rate, rate, now) {
                    self.blocked_until = now + PENALTY;
                }
                (now >= self.blocked_until).then_some(0)
            }
            Kind::Shaper { rate, queue } => {
                let start = self.queue_end.max(now as f64);
                let delay = start - now as f64;
                let is_short = delay <= queue;
                if is_short {
                    self.queue_end = start + 1000.0 / rate;
                }
                is_short.then_some(delay as u64)
            }
        }
    }

    /// Returns whether answers have to be told with [`Self::release`].
    pub(super) const fn counts_in_flight(&self) -> bool {
        matches!(self.kind, Kind::InFlight { .. })
    }

    pub(super) const fn release(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    fn take(&mut self, rate: f64, burst: f64, now: u64) -> bool {
        self.tokens = burst.min(self.tokens + rate * (now - self.filled_at) as f64 / 1000.0);
        self.filled_at = now;
        let is_free = self.tokens >= 1.0;
        if is_free {
            self.tokens -= 1.0;
        }
        is_free
    }

    fn pass_flow(&mut self, flow: u64, size: usize, now: u64) -> bool {
        while let Some((expiry, old)) = self.expiries.front().copied().filter(|(expiry, _)| *expiry <= now) {
            self.expiries.pop_front();
            match self.flows.get(&old) {
                Some(last) if *last > expiry => self.expiries.push_back((*last, old)),
                _ => _ = self.flows.remove(&old),
            }
        }
        if let Some(last) = self.flows.get_mut(&flow) {
            *last = now + FLOW_TIME;
            return true;
        }
        let is_free = self.flows.len() < size;
        if is_free {
            self.flows.insert(flow, now + FLOW_TIME);
            self.expiries.push_back((now + FLOW_TIME, flow));
        }
        is_free
    }
}

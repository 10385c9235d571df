//! Packets to upstreams by scope: how many left, in which class and over which transport, and how many a packet budget
//! refused. They belong to the process, not to the servers, so that no sum ever decreases.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::labels::scope_kind;
use crate::dns::query::Transport;

/// Class of the packets to an upstream, in the order of their priority where a budget is short of them. Refreshes have
/// a share of their own instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketClass {
    /// The first send of a query that a client waits for.
    First,
    /// A further send of such a query, after a timeout or a failure.
    Retry,
    /// A send in parallel to one whose response is slower than usual.
    Hedge,
    /// A query that shows the health of a server.
    Control,
    /// A query in the background for an answer that is cached.
    Refresh,
}

impl PacketClass {
    /// All classes.
    pub const ALL: [Self; 5] = [Self::First, Self::Retry, Self::Hedge, Self::Control, Self::Refresh];

    /// Returns the value of the label `class`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::Control => "control",
            Self::Refresh => "refresh",
        }
    }
}

/// Counters of the packets to the upstreams of one scope.
#[derive(Debug, Default)]
pub struct PacketCounts {
    udp: [AtomicU64; PacketClass::ALL.len()],
    tcp: [AtomicU64; PacketClass::ALL.len()],
    refused: [AtomicU64; PacketClass::ALL.len()],
    /// Hedges of queries that were answered: those whose response was not the first good one, and those whose was.
    hedges: [AtomicU64; 2],
    /// Hedges that the retry budget did not allow.
    withheld_hedges: AtomicU64,
    /// Control queries without an answer in time, and with one.
    controls: [AtomicU64; 2],
    /// Time for which sends waited for their budget, in nanoseconds.
    waited: AtomicU64,
    /// Packets a second that the budgets of the scope allow; 0 without a budget.
    budget: AtomicU64,
    /// The scope has had a budget.
    had_budget: AtomicBool,
}

impl PacketCounts {
    /// Counts packets that leave.
    pub fn count(&self, class: PacketClass, transport: Transport, packets: u32) {
        let counters = if transport == Transport::Tcp { &self.tcp } else { &self.udp };
        counters[class as usize].fetch_add(packets.into(), Ordering::Relaxed);
    }

    /// Counts a send that the budget refused.
    pub fn count_refusal(&self, class: PacketClass) {
        self.refused[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a hedge of a query that was answered, `is_won` by the hedge.
    pub fn count_hedge(&self, is_won: bool) {
        self.hedges[usize::from(is_won)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a hedge that the retry budget did not allow.
    pub fn count_withheld_hedge(&self) {
        self.withheld_hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a control query of the detection of limits.
    pub fn count_control(&self, is_answered: bool) {
        self.controls[usize::from(is_answered)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of hedges that have won, or not.
    #[must_use]
    pub fn hedges(&self, is_won: bool) -> u64 {
        self.hedges[usize::from(is_won)].load(Ordering::Relaxed)
    }

    /// Returns the number of hedges that the retry budget did not allow.
    #[must_use]
    pub fn withheld_hedges(&self) -> u64 {
        self.withheld_hedges.load(Ordering::Relaxed)
    }

    /// Returns the number of control queries with an answer in time, or without.
    #[must_use]
    pub fn controls(&self, is_answered: bool) -> u64 {
        self.controls[usize::from(is_answered)].load(Ordering::Relaxed)
    }

    /// Counts a send that waits for so long for its budget.
    pub fn count_wait(&self, wait: Duration) {
        self.waited.fetch_add(wait.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Returns the time for which sends waited for their budget.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Returns whether the scope has or had a budget.
    #[must_use]
    pub fn had_budget(&self) -> bool {
        self.had_budget.load(Ordering::Relaxed)
    }

    /// Sets the packets a second that the budgets of the scope allow; 0 without a budget.
    pub fn set_budget(&self, packets_per_second: u64) {
        self.budget.store(packets_per_second, Ordering::Relaxed);
        self.had_budget.fetch_or(packets_per_second > 0, Ordering::Relaxed);
    }

    /// Returns the packets a second that the budgets of the scope allow; 0 without a budget.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// Returns the number of packets of a class that have left.
    #[must_use]
    pub fn packets(&self, class: PacketClass, transport: Transport) -> u64 {
        let counters = if transport == Transport::Tcp { &self.tcp } else { &self.udp };
        counters[class as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of packets that have left.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.udp.iter().chain(&self.tcp).map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// Returns the number of sends of a class that the budget refused.
    #[must_use]
    pub fn refused(&self, class: PacketClass) -> u64 {
        self.refused[class as usize].load(Ordering::Relaxed)
    }
}

/// Scope of the upstreams of a resolver that have private addresses, which are some of those of [`FORWARD`].
const INSIDE: &str = "inside";
/// Scope of all upstreams of a resolver.
const FORWARD: &str = "forward";

/// Counters of packets, by kind of scope: all routes share one, and so do the resolvers of all zones. Upstreams inside
/// are among those that names outside are forwarded to, and have the budgets of these: they are counted with them.
#[derive(Debug, Default)]
pub struct UpstreamPackets(Mutex<BTreeMap<String, Arc<PacketCounts>>>);

impl UpstreamPackets {
    /// Returns the counters of a scope such as `cluster`, `zone/a` or `route/corp.example`.
    #[must_use]
    pub fn of_scope(&self, scope: &str) -> Arc<PacketCounts> {
        let kind = if scope == INSIDE { FORWARD } else { scope_kind(scope) };
        self.by_scope().entry(kind.to_owned()).or_default().clone()
    }

    /// Returns the counters of all kinds of scopes, by its name.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Arc<PacketCounts>)> {
        self.by_scope().iter().map(|(scope, counts)| (scope.clone(), counts.clone())).collect()
    }

    fn by_scope(&self) -> MutexGuard<'_, BTreeMap<String, Arc<PacketCounts>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_count_by_class_and_transport_and_routes_share_their_counters() {
        let packets = UpstreamPackets::default();
        packets.of_scope("route/a.example").count(PacketClass::First, Transport::Udp, 1);
        packets.of_scope("route/b.example").count(PacketClass::First, Transport::Tcp, 6);
        packets.of_scope("inside").count_refusal(PacketClass::Hedge);
        let route = packets.of_scope("route/c.example");
        assert_eq!([Transport::Udp, Transport::Tcp].map(|each| route.packets(PacketClass::First, each)), [1, 6]);
        assert_eq!((route.total(), route.refused(PacketClass::Hedge)), (7, 0));
        let scopes: Vec<String> = packets.all().into_iter().map(|(scope, _)| scope).collect();
        assert_eq!(scopes, ["forward", "route"]);
    }
}

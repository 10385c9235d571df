//! Gate of the packets to a server: every packet that leaves is counted by scope, and taken from the packet budget of
//! the server where there is one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tokio::time::sleep_until;

use crate::dns::query::Transport;
use crate::metrics::{PacketClass, PacketCounts};
use crate::upstream::budget::{Admission, Budget, Slot};
use crate::upstream::detection::ceiling::Ceiling;

/// Packets of a query over UDP.
pub(in crate::upstream) const UDP_PACKETS: u32 = 1;
/// Packets of a query over an open TCP connection: the query and the acknowledgement of the response.
pub(super) const TCP_PACKETS: u32 = 2;
/// Packets that open and close a TCP connection, beside those of its queries.
pub(super) const CONNECTION_PACKETS: u32 = 4;

/// Error kind of a query that is not sent because the budget has no room for it.
pub(in crate::upstream) const BUDGET_EXHAUSTED: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// Gate of the packets to one server.
#[derive(Debug)]
pub(in crate::upstream) struct PacketGate {
    counts: Arc<PacketCounts>,
    /// Whether there is a budget: most servers have none, and then it is not loaded.
    is_limited: AtomicBool,
    budget: ArcSwapOption<Budget>,
    /// Ceiling of an upstream whose limits are detected.
    ceiling: Option<Arc<Ceiling>>,
}

/// Reply of the gate to a query that is to be sent.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) enum Passage {
    /// The query may be sent now, and is counted.
    Now(Slot),
    /// The query may be sent at this time, with [`PacketGate::pass_in_time`].
    At(Instant, Slot),
    /// The query may not be sent.
    Refused,
}

impl PacketGate {
    /// Creates a gate without a budget.
    pub(in crate::upstream) const fn new(counts: Arc<PacketCounts>, ceiling: Option<Arc<Ceiling>>) -> Self {
        Self { counts, is_limited: AtomicBool::new(false), budget: ArcSwapOption::const_empty(), ceiling }
    }

    /// Replaces the budget.
    pub(in crate::upstream) fn set_budget(&self, budget: Option<Arc<Budget>>) {
        let is_limited = budget.is_some();
        self.budget.store(budget);
        self.is_limited.store(is_limited, Ordering::Relaxed);
    }

    /// Returns the budget, if there is one.
    fn budget(&self) -> Option<Arc<Budget>> {
        if self.is_limited.load(Ordering::Relaxed) { self.budget.load_full() } else { None }
    }

    /// Returns the counters of the scope.
    pub(in crate::upstream) fn counts(&self) -> &PacketCounts {
        &self.counts
    }

    /// Returns the packets a second that the budget allows; `None` without a budget.
    pub(in crate::upstream) fn budget_rate(&self) -> Option<u32> {
        self.budget().map(|budget| budget.packets_per_second())
    }

    /// Returns whether a query of this class could be sent now.
    pub(in crate::upstream) fn has_room(&self, class: PacketClass, now: Instant) -> bool {
        self.budget().is_none_or(|budget| budget.has_room(class, now))
            && (class == PacketClass::Control || self.ceiling.as_ref().is_none_or(|ceiling| ceiling.has_room(now)))
    }

    /// Takes packets out of the ceiling; returns false when it has no room. Control queries show whether it is right,
    /// so that they are charged in any case.
    fn pass_ceiling(&self, class: PacketClass, packets: u32) -> bool {
        let Some(ceiling) = self.ceiling.as_ref().filter(|ceiling| ceiling.is_in_force()) else { return true };
        let now = Instant::now();
        if class == PacketClass::Control {
            ceiling.charge(packets, now);
            return true;
        }
        ceiling.take(packets, now)
    }

    /// Lets a query over UDP pass, now or soon.
    pub(in crate::upstream) fn enter(&self, class: PacketClass) -> Passage {
        self.enter_with(class, Transport::Udp, UDP_PACKETS)
    }

    fn enter_with(&self, class: PacketClass, transport: Transport, packets: u32) -> Passage {
        let passage = match self.budget() {
            _ if !self.pass_ceiling(class, packets) => Passage::Refused,
            None => Passage::Now(Slot::UNCOUNTED),
            Some(budget) => self.take(&budget, class, packets),
        };
        match passage {
            Passage::Now(_) => self.counts.count(class, transport, packets),
            Passage::At(..) => {}
            Passage::Refused => self.counts.count_refusal(class),
        }
        passage
    }

    /// Takes a slot and packets of a budget, or neither.
    fn take(&self, budget: &Budget, class: PacketClass, packets: u32) -> Passage {
        let now = Instant::now();
        let Some(slot) = budget.take_slot(now) else { return Passage::Refused };
        match budget.take(class, packets, now) {
            Admission::Now => Passage::Now(slot),
            Admission::At(at) => {
                self.counts.count_wait(at - now);
                Passage::At(at, slot)
            }
            Admission::Refused => {
                budget.release(slot, now);
                Passage::Refused
            }
        }
    }

    /// Lets a query over UDP pass that was to be sent at this time. A query that is too late for it has to
    /// [`Self::enter`] again; its slot is released.
    pub(in crate::upstream) fn pass_in_time(&self, class: PacketClass, at: Instant, slot: Slot) -> bool {
        self.pass_in_time_with(class, (Transport::Udp, UDP_PACKETS), at, slot)
    }

    fn pass_in_time_with(
        &self,
        class: PacketClass,
        (transport, packets): (Transport, u32),
        at: Instant,
        slot: Slot,
    ) -> bool {
        let is_in_time = Budget::is_in_time(at, Instant::now());
        if is_in_time {
            self.counts.count(class, transport, packets);
        } else {
            self.give_back(packets, at, slot);
        }
        is_in_time
    }

    /// Gives back what a query has taken that was to be sent at this time and is not.
    fn give_back(&self, packets: u32, at: Instant, slot: Slot) {
        if let Some(budget) = self.budget() {
            budget.give_back(packets, at);
        }
        self.release(slot);
    }

    /// Releases the slot of a query that is answered.
    pub(in crate::upstream) fn release(&self, slot: Slot) {
        if slot.is_counted()
            && let Some(budget) = self.budget()
        {
            budget.release(slot, Instant::now());
        }
    }

    /// Waits until a query over TCP may be sent. Returns its slot.
    ///
    /// # Errors
    ///
    /// [`BUDGET_EXHAUSTED`].
    pub(super) async fn pass_query_over_tcp(&self, class: PacketClass) -> io::Result<Slot> {
        loop {
            match self.enter_with(class, Transport::Tcp, TCP_PACKETS) {
                Passage::Now(slot) => return Ok(slot),
                Passage::At(at, slot) => {
                    sleep_until(at.into()).await;
                    if self.pass_in_time_with(class, (Transport::Tcp, TCP_PACKETS), at, slot) {
                        return Ok(slot);
                    }
                }
                Passage::Refused => return Err(BUDGET_EXHAUSTED.into()),
            }
        }
    }

    /// Waits until a TCP connection may be opened.
    ///
    /// # Errors
    ///
    /// [`BUDGET_EXHAUSTED`].
    pub(super) async fn pass_connection(&self, class: PacketClass) -> io::Result<()> {
        if !self.pass_ceiling(class, CONNECTION_PACKETS) {
            self.counts.count_refusal(class);
            return Err(BUDGET_EXHAUSTED.into());
        }
        loop {
            let now = Instant::now();
            let admission = self.budget().map(|budget| budget.take(class, CONNECTION_PACKETS, now));
            match admission.unwrap_or(Admission::Now) {
                Admission::Now => break,
                Admission::At(at) => {
                    self.counts.count_wait(at - now);
                    sleep_until(at.into()).await;
                    if Budget::is_in_time(at, Instant::now()) {
                        break;
                    }
                    if let Some(budget) = self.budget() {
                        budget.give_back(CONNECTION_PACKETS, at);
                    }
                }
                Admission::Refused => {
                    self.counts.count_refusal(class);
                    return Err(BUDGET_EXHAUSTED.into());
                }
            }
        }
        self.counts.count(class, Transport::Tcp, CONNECTION_PACKETS);
        Ok(())
    }
}

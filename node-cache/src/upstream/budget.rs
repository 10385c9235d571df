//! Packet budget: how many packets a second, and how many queries in flight, some servers may be sent together. Pure:
//! the time is a parameter.
//!
//! The packets of a second are a generic cell rate algorithm (GCRA) in one atomic: the time at which the budget would
//! be unused again if nothing was taken any more. Every packet moves it on by one interval, and a packet may leave
//! while it is less than the tolerance ahead of the clock. With 0.96 of the budget as rate, and tolerance and lateness
//! together below 0.0416 s, the packets of any sliding second are at most
//! `⌈0.96 × (1 + 0.031 + 0.010) × budget⌉`, which is no more than the budget.

mod slots;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::metrics::PacketClass;
use slots::InFlightSlots;
pub(super) use slots::Slot;

/// Percentage of the budget that packets leave at.
const RATE_PERCENT: u64 = 96;
/// How far the budget may be taken ahead of the clock: the burst after a pause.
const TOLERANCE: u64 = nanos(Duration::from_millis(31));
/// How late a packet may leave that has waited for its time. A later one takes again.
const MAX_LATENESS: Duration = Duration::from_millis(10);
/// Longest wait for the budget.
const MAX_WAIT: u64 = nanos(Duration::from_millis(100));
/// Longest wait once a queue has stood for [`STANDING_QUEUE`].
const SHORT_WAIT: u64 = nanos(Duration::from_millis(5));
/// Time for which sends have had to wait, without a pause, after which the queue is a standing one: it adds time to
/// every query and helps none.
const STANDING_QUEUE: u64 = nanos(Duration::from_millis(100));
/// Time between two records that nothing waits.
const RECORD_INTERVAL: u64 = nanos(Duration::from_millis(5));
/// Part of the budget that refreshes have a right to: one in so many packets.
const REFRESH_SHARE: u64 = 10;
/// How far refreshes may take their share ahead of the clock.
const REFRESH_TOLERANCE: u64 = nanos(Duration::from_millis(100));
/// Nanoseconds of a second.
const SECOND: u64 = nanos(Duration::from_secs(1));

/// Limits of a budget, as a process of the node has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BudgetLimits {
    /// Packets a second, at least one.
    pub(super) packets_per_second: u32,
    /// Queries in flight; `None` without a limit.
    pub(super) in_flight: Option<u32>,
}

impl BudgetLimits {
    /// Returns the part of one of `processes` that share the limits: no part is empty.
    pub(super) fn divided_by(self, processes: u32) -> Self {
        let part = |whole: u32| (whole / processes.max(1)).max(1);
        Self { packets_per_second: part(self.packets_per_second), in_flight: self.in_flight.map(part) }
    }
}

/// Reply of a budget to a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// The packets may leave now, and are taken.
    Now,
    /// The packets may leave at this time, and are taken. [`Budget::is_in_time`] tells whether they still may.
    At(Instant),
    /// The packets may not leave. None is taken.
    Refused,
}

/// A budget of packets and of queries in flight, shared by threads.
#[derive(Debug)]
pub(super) struct Budget {
    /// Time 0 of the times below, which are in nanoseconds.
    epoch: Instant,
    /// Time of one packet.
    interval: AtomicU64,
    /// When the budget is unused again.
    free_at: AtomicU64,
    /// When the share of refreshes is unused again.
    refresh_free_at: AtomicU64,
    /// When a send last had not to wait.
    unqueued_at: AtomicU64,
    packets_per_second: AtomicU32,
    slots: InFlightSlots,
}

impl Budget {
    /// Creates a budget of which nothing is taken.
    pub(super) fn new(limits: BudgetLimits, now: Instant) -> Self {
        let budget = Self {
            epoch: now,
            interval: AtomicU64::default(),
            free_at: AtomicU64::default(),
            refresh_free_at: AtomicU64::default(),
            unqueued_at: AtomicU64::default(),
            packets_per_second: AtomicU32::default(),
            slots: InFlightSlots::default(),
        };
        budget.set_limits(limits);
        budget
    }

    /// Replaces the limits. What was taken stays taken.
    pub(super) fn set_limits(&self, limits: BudgetLimits) {
        let BudgetLimits { packets_per_second, in_flight } = limits;
        let rate = u64::from(packets_per_second.max(1)) * RATE_PERCENT;
        self.interval.store((100 * SECOND).div_ceil(rate), Ordering::Relaxed);
        self.packets_per_second.store(packets_per_second, Ordering::Relaxed);
        self.slots.set_limit(in_flight);
    }

    /// Returns the packets a second.
    pub(in crate::upstream) fn packets_per_second(&self) -> u32 {
        self.packets_per_second.load(Ordering::Relaxed)
    }

    /// Takes packets of a class that leave together.
    pub(super) fn take(&self, class: PacketClass, packets: u32, now: Instant) -> Admission {
        let now = self.nanos_at(now);
        if let Some(admission) = self.try_take(packets, depth(class), 0, now) {
            if now > self.unqueued_at.load(Ordering::Relaxed) + RECORD_INTERVAL {
                self.unqueued_at.store(now, Ordering::Relaxed);
            }
            return admission;
        }
        let max_wait = match class {
            PacketClass::First if now.saturating_sub(self.unqueued_at.load(Ordering::Relaxed)) > STANDING_QUEUE => {
                SHORT_WAIT
            }
            PacketClass::First => MAX_WAIT,
            // Their share lets refreshes into the queue, however long first sends make it.
            PacketClass::Refresh if self.take_refresh_share(packets, now) => MAX_WAIT,
            PacketClass::Refresh | PacketClass::Retry | PacketClass::Hedge | PacketClass::Control => {
                return Admission::Refused;
            }
        };
        self.try_take(packets, TOLERANCE, max_wait, now).unwrap_or(Admission::Refused)
    }

    /// Returns whether a packet of a class that was taken now could leave at once, within the limit of the queries in
    /// flight.
    pub(super) fn has_room(&self, class: PacketClass, now: Instant) -> bool {
        let now_nanos = self.nanos_at(now);
        self.free_at.load(Ordering::Relaxed) <= now_nanos + depth(class) && self.slots.has_room(now)
    }

    /// Gives packets back that were to leave at this time and do not, unless others were taken since: those leave when
    /// they were told to.
    pub(super) fn give_back(&self, packets: u32, at: Instant) {
        let interval = self.interval.load(Ordering::Relaxed);
        let cost = u64::from(packets) * interval;
        let lead = cost.saturating_sub(interval);
        let from = (self.nanos_at(at) + TOLERANCE).saturating_sub(lead);
        let next = from + cost + lead.saturating_sub(TOLERANCE);
        let _ = self.free_at.compare_exchange(next, from, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns whether packets that were to leave at this time may leave now.
    pub(super) fn is_in_time(at: Instant, now: Instant) -> bool {
        now.saturating_duration_since(at) <= MAX_LATENESS
    }

    /// Takes a slot of a query in flight, which it holds until [`Self::release`] or for five seconds; `None` when all
    /// are held.
    pub(super) fn take_slot(&self, now: Instant) -> Option<Slot> {
        self.slots.take(now)
    }

    /// Gives back the slot of a query that is answered.
    pub(super) fn release(&self, slot: Slot, now: Instant) {
        self.slots.release(slot, now);
    }

    /// Takes packets when they may leave within `max_wait`, with the budget taken at most `tolerance` ahead.
    fn try_take(&self, packets: u32, tolerance: u64, max_wait: u64, now: u64) -> Option<Admission> {
        let interval = self.interval.load(Ordering::Relaxed);
        let cost = u64::from(packets) * interval;
        // The last of the packets must be within the tolerance. Where so many never are, the budget must have been
        // unused for the difference before, and is for as long afterwards.
        let lead = cost.saturating_sub(interval);
        let excess = lead.saturating_sub(tolerance);
        let mut free_at = self.free_at.load(Ordering::Relaxed);
        loop {
            let from = free_at.max(now.saturating_sub(excess));
            let leaves_at = (from + lead).saturating_sub(tolerance).max(now);
            if leaves_at - now > max_wait {
                return None;
            }
            let next = from + cost + excess;
            match self.free_at.compare_exchange_weak(free_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) if leaves_at == now => return Some(Admission::Now),
                Ok(_) => return Some(Admission::At(self.epoch + Duration::from_nanos(leaves_at))),
                Err(current) => free_at = current,
            }
        }
    }

    /// Takes packets of the share of refreshes. Returns whether it had as many.
    fn take_refresh_share(&self, packets: u32, now: u64) -> bool {
        let interval = self.interval.load(Ordering::Relaxed) * REFRESH_SHARE;
        let take = |free_at: u64| {
            let from = free_at.max(now);
            (from <= now + REFRESH_TOLERANCE).then_some(from + u64::from(packets) * interval)
        };
        self.refresh_free_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn nanos_at(&self, time: Instant) -> u64 {
        nanos(time.saturating_duration_since(self.epoch))
    }
}

/// Returns how far a class may take the budget ahead of the clock: what has priority finds the rest.
const fn depth(class: PacketClass) -> u64 {
    match class {
        PacketClass::First => TOLERANCE,
        PacketClass::Retry => TOLERANCE / 4 * 3,
        PacketClass::Hedge | PacketClass::Refresh => TOLERANCE / 2,
        PacketClass::Control => TOLERANCE / 4,
    }
}

/// Returns a duration in nanoseconds; that of 584 years and more is shorter.
const fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

#[cfg(test)]
mod tests;

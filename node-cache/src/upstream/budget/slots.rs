//! Slots of queries in flight: each is held until its query is answered, or for five seconds, after which a server has
//! given the query up too. Pure: the time is a parameter.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time for which a query without an answer holds its slot: a server may work on it for longer than the query waits.
const HOLD_TIME: Duration = Duration::from_secs(5);
/// Slots that are taken within this time are given up together.
const TICK: Duration = Duration::from_millis(50);
/// Limit that stands for none.
const UNLIMITED: u32 = u32::MAX;

/// Slot of a query in flight, or of one that was not counted because there was no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Slot(Option<NonZeroU32>);

impl Slot {
    /// Slot of a query that is not counted.
    pub(in crate::upstream) const UNCOUNTED: Self = Self(None);

    /// Returns whether the slot has to be given back.
    pub(in crate::upstream) const fn is_counted(self) -> bool {
        self.0.is_some()
    }
}

/// Slots of the queries to some servers.
#[derive(Debug)]
pub(super) struct InFlightSlots {
    limit: AtomicU32,
    held: Mutex<HeldSlots>,
}

impl Default for InFlightSlots {
    fn default() -> Self {
        Self { limit: AtomicU32::new(UNLIMITED), held: Mutex::default() }
    }
}

impl InFlightSlots {
    /// Sets the number of slots; `None`: no limit.
    pub(super) fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// Returns whether a slot is free.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        match self.limit.load(Ordering::Relaxed) {
            UNLIMITED => true,
            limit => self.held().count(now) < limit,
        }
    }

    /// Takes a slot; `None` when all are held.
    pub(super) fn take(&self, now: Instant) -> Option<Slot> {
        match self.limit.load(Ordering::Relaxed) {
            UNLIMITED => Some(Slot::UNCOUNTED),
            limit => self.held().take(limit, now).map(|slot| Slot(Some(slot))),
        }
    }

    /// Gives a slot back.
    pub(super) fn release(&self, slot: Slot, now: Instant) {
        if let Slot(Some(tick)) = slot {
            self.held().release(tick, now);
        }
    }

    fn held(&self) -> MutexGuard<'_, HeldSlots> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slots that are held, by the tick in which they were taken.
#[derive(Debug, Default)]
struct HeldSlots {
    epoch: Option<Instant>,
    /// Ticks, each with the number of slots held since, the oldest first.
    by_tick: VecDeque<(NonZeroU32, u32)>,
    total: u32,
}

impl HeldSlots {
    fn tick(&mut self, now: Instant) -> NonZeroU32 {
        let elapsed = now.saturating_duration_since(*self.epoch.get_or_insert(now));
        let ticks = elapsed.as_millis() / TICK.as_millis();
        NonZeroU32::MIN.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// Returns the number of slots held, without those that are given up by now.
    fn count(&mut self, now: Instant) -> u32 {
        let now = self.tick(now).get();
        let hold_ticks = u32::try_from(HOLD_TIME.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX);
        while let Some((tick, held)) = self.by_tick.front()
            && now.saturating_sub(tick.get()) > hold_ticks
        {
            self.total -= held;
            self.by_tick.pop_front();
        }
        self.total
    }

    fn take(&mut self, limit: u32, now: Instant) -> Option<NonZeroU32> {
        if self.count(now) >= limit {
            return None;
        }
        let tick = self.tick(now);
        self.total += 1;
        match self.by_tick.back_mut() {
            // Another thread may have seen a later time.
            Some((last, held)) if *last >= tick => {
                *held += 1;
                Some(*last)
            }
            _ => {
                self.by_tick.push_back((tick, 1));
                Some(tick)
            }
        }
    }

    fn release(&mut self, tick: NonZeroU32, now: Instant) {
        self.count(now);
        if let Ok(index) = self.by_tick.binary_search_by_key(&tick, |(tick, _)| *tick)
            && let Some((_, held)) = self.by_tick.get_mut(index)
        {
            *held -= 1;
            self.total -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_held_until_the_answer_or_for_five_seconds() {
        let slots = InFlightSlots::default();
        slots.set_limit(Some(2));
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let first = slots.take(at(0)).unwrap();
        let _silent = slots.take(at(10)).unwrap();
        assert_eq!(slots.take(at(20)), None);
        slots.release(first, at(30));
        assert!(slots.has_room(at(30)));
        let second = slots.take(at(40)).unwrap();
        assert!(!slots.has_room(at(4_990)) && slots.take(at(4_990)).is_none());
        assert!(slots.has_room(at(5_100)), "both are given up");
        // An answer that comes later gives nothing back twice.
        slots.release(second, at(5_100));
        assert!(slots.take(at(5_200)).is_some() && slots.take(at(5_200)).is_some());
        assert_eq!(slots.take(at(5_200)), None);
    }

    #[test]
    fn without_a_limit_there_is_room_and_a_limit_that_comes_counts_from_then_on() {
        let slots = InFlightSlots::default();
        let now = Instant::now();
        let uncounted: Vec<Slot> = (0..100).filter_map(|_| slots.take(now)).collect();
        assert_eq!(uncounted.len(), 100);
        slots.set_limit(Some(1));
        let _counted = slots.take(now).unwrap();
        uncounted.into_iter().for_each(|slot| slots.release(slot, now));
        assert!(!slots.has_room(now));
        slots.set_limit(None);
        assert!(slots.has_room(now) && slots.take(now).is_some());
    }
}

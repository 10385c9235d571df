//! Registered domains whose last queries got no answer, in a table of fixed size: a query for one of them is not
//! retried. Pure: the time is a parameter.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::dns::Name;

/// Slots of the table; a domain has one of them.
const SLOTS: usize = 256;
/// Queries in a row without an answer that make a domain a silent one.
const MIN_SILENCES: u64 = 3;
/// Silences that are counted, at most. Each silence of another domain of the slot takes one away.
const MAX_SILENCES: u64 = 2 * MIN_SILENCES;
/// Interval at which a query for a silent domain is retried all the same: the first server may be what is silent.
const TRIAL_INTERVAL: Duration = Duration::from_secs(5);

/// Bits of a slot: the silences, the second of the last trial, and the rest of the domain's hash.
const SILENCES_BITS: u32 = 8;
const TRIAL_BITS: u32 = 24;
const TAG_SHIFT: u32 = SILENCES_BITS + TRIAL_BITS;

/// Silent registered domains of a group of servers. A domain is a hash under a random seed, so that no client chooses
/// which domains share a slot. While none is silent an answer costs one load.
#[derive(Debug, Default)]
pub(in crate::upstream) struct SilentDomains {
    /// Number of slots in use.
    used: AtomicUsize,
    table: OnceLock<Table>,
}

#[derive(Debug)]
struct Table {
    seed: RandomState,
    started: Instant,
    slots: Box<[AtomicU64]>,
}

/// Content of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    tag: u64,
    /// Second of the last retry that was a trial.
    trial: u64,
    silences: u64,
}

impl Slot {
    const fn unpack(bits: u64) -> Self {
        Self {
            tag: bits >> TAG_SHIFT,
            trial: (bits >> SILENCES_BITS) & ((1 << TRIAL_BITS) - 1),
            silences: bits & ((1 << SILENCES_BITS) - 1),
        }
    }

    const fn pack(self) -> u64 {
        (self.tag << TAG_SHIFT) | ((self.trial & ((1 << TRIAL_BITS) - 1)) << SILENCES_BITS) | self.silences
    }

    /// Returns the slot after a silence of the domain with this tag.
    fn with_silence(self, tag: u64, second: u64) -> Self {
        match self.silences {
            0 => Self { tag, trial: second, silences: 1 },
            silences if self.tag == tag => Self { silences: MAX_SILENCES.min(silences + 1), ..self },
            silences => Self { silences: silences - 1, ..self },
        }
    }

    const fn is_silent(self, tag: u64) -> bool {
        self.tag == tag && self.silences >= MIN_SILENCES
    }
}

impl SilentDomains {
    /// Records that a query for a name got no answer.
    pub(in crate::upstream) fn record_silence(&self, name: &Name, now: Instant) {
        let new_table = || Table {
            seed: RandomState::default(),
            started: now,
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        };
        let table = self.table.get_or_init(new_table);
        let second = table.second(now);
        table.update(&self.used, name, |slot, tag| Some(slot.with_silence(tag, second)));
    }

    /// Records that a query for a name was answered: its domain is retried again.
    pub(in crate::upstream) fn record_answer(&self, name: &Name) {
        if self.used.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(table) = self.table.get() else { return };
        table.update(&self.used, name, |slot, tag| (slot.tag == tag && slot.silences > 0).then(Slot::default));
    }

    /// Returns whether a query for a name may be retried at `now`: unless the last three queries for its domain got no
    /// answer. One query in five seconds is retried even then.
    pub(in crate::upstream) fn may_retry(&self, name: &Name, now: Instant) -> bool {
        let Some(table) = self.table.get().filter(|_| self.used.load(Ordering::Relaxed) > 0) else { return true };
        let second = table.second(now);
        let mut may_retry = true;
        table.update(&self.used, name, |slot, tag| {
            may_retry = !slot.is_silent(tag);
            let is_trial_due = second.saturating_sub(slot.trial) >= TRIAL_INTERVAL.as_secs();
            (!may_retry && is_trial_due).then(|| {
                may_retry = true;
                Slot { trial: second, ..slot }
            })
        });
        may_retry
    }
}

impl Table {
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() & ((1 << TRIAL_BITS) - 1)
    }

    /// Replaces the slot of a name's domain by what `change` makes of it and of the domain's tag.
    fn update(&self, used: &AtomicUsize, name: &Name, mut change: impl FnMut(Slot, u64) -> Option<Slot>) {
        let hash = name.registered_domain_hash(&self.seed);
        let Some(slot) = self.slots.get(hash as usize % SLOTS) else { return };
        let tag = hash >> TAG_SHIFT;
        let changed = slot
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| change(Slot::unpack(bits), tag).map(Slot::pack));
        let Ok(before) = changed else { return };
        // Whoever changes the slot counts what it changed: slots in use are those with silences.
        let was_used = Slot::unpack(before).silences > 0;
        let is_used = change(Slot::unpack(before), tag).is_some_and(|slot| slot.silences > 0);
        match (was_used, is_used) {
            (false, true) => drop(used.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(used.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn silence(domains: &SilentDomains, text: &str, count: usize, now: Instant) {
        (0..count).for_each(|_| domains.record_silence(&name(text), now));
    }

    #[test]
    fn a_domain_with_three_silences_in_a_row_is_not_retried_until_it_answers() {
        let now = Instant::now();
        let domains = SilentDomains::default();
        assert!(domains.may_retry(&name("a.dead.example"), now));
        silence(&domains, "a.dead.example", 2, now);
        domains.record_answer(&name("b.dead.example"));
        silence(&domains, "a.dead.example", 2, now);
        assert!(domains.may_retry(&name("c.dead.example"), now), "not in a row");
        silence(&domains, "c.dead.example", 1, now);
        assert!(!domains.may_retry(&name("D.Dead.Example"), now));
        assert!(domains.may_retry(&name("www.other.example"), now), "another domain");
        domains.record_answer(&name("www.DEAD.example"));
        assert!(domains.may_retry(&name("a.dead.example"), now));
        assert_eq!(domains.used.load(Ordering::Relaxed), 0, "an answer costs nothing again");
    }

    #[test]
    fn a_silent_domain_is_tried_once_in_five_seconds() {
        let now = Instant::now();
        let domains = SilentDomains::default();
        silence(&domains, "a.example", 3, now);
        let retries = |from: u64, to: u64| {
            (from..to)
                .filter(|millis| domains.may_retry(&name("a.example"), now + Duration::from_millis(*millis)))
                .count()
        };
        assert_eq!([retries(0, 5_000), retries(5_000, 10_000), retries(10_000, 20_000)], [0, 1, 2]);
    }

    #[test]
    fn domains_without_number_are_forgotten_and_cost_no_memory() {
        let now = Instant::now();
        let domains = SilentDomains::default();
        silence(&domains, "a.example", 100, now);
        for number in 0..100_000 {
            silence(&domains, &format!("n{number}.test{number}"), 1, now);
        }
        assert!(domains.used.load(Ordering::Relaxed) <= SLOTS);
        assert_eq!(domains.table.get().unwrap().slots.len(), SLOTS);
        let answered: Vec<_> = (0..100_000).map(|number| name(&format!("n{number}.test{number}"))).collect();
        answered.iter().for_each(|name| domains.record_answer(name));
        domains.record_answer(&name("a.example"));
        assert_eq!(domains.used.load(Ordering::Relaxed), 0);
    }
}

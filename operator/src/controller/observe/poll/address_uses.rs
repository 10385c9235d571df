//! Uses of captured addresses: how often each node's caches were asked at each of them in the last minutes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_cache_config::figures::{AddressQueries, MAX_ADDRESSES};

use crate::controller::observe::poll::report::PodKey;

/// Spans of time that are counted apart, in seconds.
const PART: u32 = 300;
/// Number of them: a use counts for ten minutes at least.
const PARTS: usize = 3;

/// Uses of the captured addresses of all node pods, about 40 bytes for each address of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressUses(Arc<Mutex<Uses>>);

#[derive(Debug, Default)]
struct Uses {
    /// Time of the last page, in seconds of any clock.
    now: u32,
    by_address: HashMap<IpAddr, HashMap<PodKey, AddressUse>>,
}

/// Queries to one pod at one address.
#[derive(Clone, Copy, Debug, Default)]
struct AddressUse {
    /// Low half of the counter of the last page.
    counter: u32,
    /// Number of the part in which the last page came.
    part: u32,
    /// Queries of that part and of the ones before it.
    counted: [u32; PARTS],
}

impl AddressUse {
    /// Begins a new part when its time has come.
    fn turn(&mut self, part: u32) {
        for _ in 0..part.saturating_sub(self.part).min(PARTS as u32) {
            self.counted.rotate_right(1);
            self.counted[0] = 0;
        }
        self.part = self.part.max(part);
    }
}

impl AddressUses {
    /// Adds the counters of a page of a node pod. When the queries before the first page came is not known: they count.
    pub(super) fn add(&self, key: PodKey, queries: &[AddressQueries], now: u32) {
        let mut uses = self.lock();
        uses.now = uses.now.max(now);
        for AddressQueries { address, queries } in queries.iter().take(MAX_ADDRESSES) {
            // The low half suffices for differences.
            let counter = *queries as u32;
            let part = now / PART;
            let of_address = uses.by_address.entry(*address).or_default();
            let known = of_address.entry(key).or_insert_with(|| AddressUse { part, ..AddressUse::default() });
            known.turn(part);
            let counted = counter.wrapping_sub(known.counter);
            // A counter that went back is that of a process that has begun anew.
            let counted = if counted > u32::MAX / 2 { counter } else { counted };
            known.counted[0] = known.counted[0].saturating_add(counted);
            known.counter = counter;
        }
    }

    /// Forgets all pods but these.
    pub(super) fn retain(&self, keep: impl Fn(&PodKey) -> bool) {
        self.lock().by_address.retain(|_, pods| {
            pods.retain(|key, _| keep(key));
            !pods.is_empty()
        });
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.lock() = Uses::default();
    }

    /// Returns how often a pod was asked at an address in the last ten to fifteen minutes, as far as is known.
    pub(crate) fn count(&self, uid: &str, address: IpAddr) -> u32 {
        let mut uses = self.lock();
        let now = uses.now;
        let of_address = uses.by_address.get_mut(&address);
        let Some(known) = of_address.and_then(|pods| pods.get_mut(&PodKey::of(uid))) else { return 0 };
        known.turn(now / PART);
        known.counted.iter().fold(0, |sum, counted| sum.saturating_add(*counted))
    }

    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "169.254.20.10";

    fn add(uses: &AddressUses, queries: u64, now: u32) {
        uses.add(PodKey::of("1"), &[AddressQueries { address: ADDRESS.parse().unwrap(), queries }], now);
    }

    fn count(uses: &AddressUses) -> u32 {
        uses.count("1", ADDRESS.parse().unwrap())
    }

    #[test]
    fn a_query_counts_for_ten_minutes_and_for_fifteen_at_most() {
        let uses = AddressUses::default();
        add(&uses, 0, 0);
        assert_eq!(count(&uses), 0);
        add(&uses, 7, 299);
        add(&uses, 7, 899);
        assert_eq!(count(&uses), 7);
        add(&uses, 7, 900);
        assert_eq!(count(&uses), 0);
    }

    #[test]
    fn a_process_that_begins_anew_counts_from_zero_and_a_counter_may_pass_its_low_half() {
        let uses = AddressUses::default();
        add(&uses, 1_000, 0);
        assert_eq!(count(&uses), 1_000, "nobody knows when those came");
        add(&uses, 3, 1);
        assert_eq!(count(&uses), 1_003);
        let [half, end] = [u64::from(u32::MAX / 2), u64::from(u32::MAX)];
        add(&uses, half, 2);
        add(&uses, end, 3);
        add(&uses, end + 5, 900);
        assert_eq!(count(&uses), 5);
        uses.retain(|_| false);
        assert_eq!(count(&uses), 0);
    }
}

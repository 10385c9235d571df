//! Uses of captured addresses: how often each node's caches were asked at each of them in the last minutes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_cache_config::figures::{AddressQueries, MAX_ADDRESSES};

use crate::controller::observe::poll::report::PodKey;

/// Time since the start of a cache in which all of its queries count, in seconds.
pub(super) const NEW_FOR: u64 = 600;
/// Spans of time that are counted apart, in seconds.
const PART: u32 = 300;
/// Number of them: a use counts for ten minutes at least.
const PARTS: usize = 3;
/// Addresses of a node that are kept: those of a page, and those of the revision before.
const MAX_KEPT: usize = 2 * MAX_ADDRESSES;

/// Uses of the captured addresses of all nodes. They belong to the node and not to its pod: one that is made again does
/// not forget them.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressUses(Arc<Mutex<Uses>>);

#[derive(Debug, Default)]
struct Uses {
    /// Time of the last page, in seconds of any clock.
    now: u32,
    /// Addresses of all nodes, to which uses refer by their places.
    addresses: Vec<IpAddr>,
    by_node: HashMap<PodKey, Box<[AddressUse]>>,
}

/// Queries on one node at one address.
#[derive(Clone, Copy, Debug)]
struct AddressUse {
    /// Place of the address.
    address: u16,
    /// Low half of the number of the part in which the last page came.
    part: u16,
    /// Low half of the counter of the last page.
    counter: u32,
    /// Queries of that part and of the ones before it.
    counted: [u32; PARTS],
    /// Queries among them from before the first page.
    undated: Undated,
}

/// Queries of which nobody knows when they came, and in the two low bits the number of parts since they were counted.
#[derive(Clone, Copy, Debug, Default)]
struct Undated(u32);

impl Undated {
    /// Most queries that are told apart.
    const MAX: u32 = u32::MAX >> 2;

    fn new(queries: u32) -> Self {
        Self(queries << 2)
    }

    fn queries(self) -> u32 {
        self.0 >> 2
    }

    /// Lets parts pass, after [`PARTS`] of which none of the queries counts.
    fn turn(&mut self, parts: u16) {
        let age = self.0 % 4 + u32::from(parts);
        self.0 = if age < PARTS as u32 { self.0 - self.0 % 4 + age } else { 0 };
    }
}

impl AddressUse {
    /// Begins a new part when its time has come.
    fn turn(&mut self, part: u16) {
        let parts = part.wrapping_sub(self.part);
        if parts > u16::MAX / 2 {
            // A page of an earlier part came late.
            return;
        }
        for _ in 0..usize::from(parts).min(PARTS) {
            self.counted.rotate_right(1);
            self.counted[0] = 0;
        }
        self.undated.turn(parts);
        self.part = part;
    }

    /// Adds the counter of a page, which is the sum of all caches. One that went back is that of caches that have begun
    /// anew: all of it is new only when all of them have.
    fn add(&mut self, counter: u32, part: u16, are_all_new: bool) {
        self.turn(part);
        let counted = match counter.wrapping_sub(self.counter) {
            counted if counted <= u32::MAX / 2 => counted,
            _ if are_all_new => counter,
            _ => 0,
        };
        self.counted[0] = self.counted[0].saturating_add(counted);
        self.counter = counter;
    }
}

impl Uses {
    /// Returns the place of an address; `None` when there are too many.
    fn place(&mut self, address: IpAddr) -> Option<u16> {
        let place = self.addresses.iter().position(|known| *known == address).unwrap_or_else(|| {
            self.addresses.push(address);
            self.addresses.len() - 1
        });
        u16::try_from(place).ok()
    }

    /// Forgets addresses that no node has.
    fn forget_unused_addresses(&mut self) {
        let used: BTreeSet<u16> = self.by_node.values().flatten().map(|known| known.address).collect();
        let places: HashMap<u16, u16> = used.iter().copied().zip(0..).collect();
        self.addresses = used.iter().map(|place| self.addresses[usize::from(*place)]).collect();
        self.by_node.values_mut().flatten().for_each(|known| known.address = places[&known.address]);
    }
}

impl AddressUses {
    /// Adds the counters of a page of a node pod. When the queries before the first page came is not known: they count.
    /// `are_all_new` tells whether each cache of the pod started within the time for which a use counts.
    pub(super) fn add(&self, node: &str, queries: &[AddressQueries], are_all_new: bool, now: u32) {
        let mut uses = self.lock();
        uses.now = uses.now.max(now);
        let part = part_of(now);
        for AddressQueries { address, queries } in queries.iter().take(MAX_ADDRESSES) {
            let Some(address) = uses.place(*address) else { continue };
            // The low half suffices for differences.
            let counter = *queries as u32;
            let of_node = uses.by_node.entry(PodKey::of(node)).or_default();
            if let Some(known) = of_node.iter_mut().find(|known| known.address == address) {
                known.add(counter, part, are_all_new);
            } else {
                let first = counter.min(Undated::MAX);
                let undated = if are_all_new { Undated::default() } else { Undated::new(first) };
                let new = AddressUse { address, part, counter, counted: [first, 0, 0], undated };
                // What was not reported for long makes room.
                let is_kept = |known: &&AddressUse| part.wrapping_sub(known.part) < PARTS as u16;
                *of_node = of_node.iter().filter(is_kept).copied().chain([new]).take(MAX_KEPT).collect();
            }
        }
    }

    /// Forgets all nodes but these.
    pub(super) fn retain(&self, keep: impl Fn(&PodKey) -> bool) {
        let mut uses = self.lock();
        uses.by_node.retain(|node, _| keep(node));
        uses.forget_unused_addresses();
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.lock() = Uses::default();
    }

    /// Returns how often the caches of a node were asked at an address in the last ten to fifteen minutes, as far as is
    /// known: with queries from before the first page, unless these `are_dated`.
    pub(crate) fn count(&self, node: &str, address: IpAddr, are_dated: bool) -> u32 {
        let mut uses = self.lock();
        let part = part_of(uses.now);
        let Some(place) = uses.addresses.iter().position(|known| *known == address) else { return 0 };
        let of_node = uses.by_node.get_mut(&PodKey::of(node)).into_iter().flatten();
        let Some(known) = of_node.into_iter().find(|known| usize::from(known.address) == place) else { return 0 };
        known.turn(part);
        let counted = known.counted.iter().fold(0_u32, |sum, counted| sum.saturating_add(*counted));
        if are_dated { counted.saturating_sub(known.undated.queries()) } else { counted }
    }

    /// Returns about how many bytes a node with this many addresses takes.
    #[cfg(test)]
    pub(super) fn bytes_per_node(addresses: usize) -> usize {
        // A hash map has up to 12/7 slots for each key on average.
        (size_of::<(PodKey, Box<[AddressUse]>)>() + 1) * 12 / 7 + addresses * size_of::<AddressUse>()
    }

    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the low half of the number of a part of time.
const fn part_of(now: u32) -> u16 {
    (now / PART) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "169.254.20.10";

    fn add(uses: &AddressUses, queries: u64, now: u32) {
        uses.add("1", &[AddressQueries { address: ADDRESS.parse().unwrap(), queries }], true, now);
    }

    fn count(uses: &AddressUses) -> u32 {
        uses.count("1", ADDRESS.parse().unwrap(), false)
    }

    #[test]
    fn queries_from_before_the_first_page_are_told_apart_until_they_no_longer_count() {
        let uses = AddressUses::default();
        let add = |queries, are_all_new, now| {
            uses.add("1", &[AddressQueries { address: ADDRESS.parse().unwrap(), queries }], are_all_new, now);
        };
        let counts = || [false, true].map(|are_dated| uses.count("1", ADDRESS.parse().unwrap(), are_dated));
        add(40, false, 0);
        assert_eq!(counts(), [40, 0]);
        add(43, false, 310);
        assert_eq!(counts(), [43, 3]);
        add(44, false, 905);
        assert_eq!(counts(), [4, 4], "they are too old now");
        uses.clear();
        add(40, true, 0);
        assert_eq!(counts(), [40, 40], "the caches have not been there for longer");
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

    #[test]
    fn one_cache_that_begins_anew_beside_another_is_no_use_of_an_address() {
        let uses = AddressUses::default();
        let add = |queries, now| {
            uses.add("1", &[AddressQueries { address: ADDRESS.parse().unwrap(), queries }], false, now);
        };
        add(2_000, 0);
        add(1_000, 1_000);
        assert_eq!(count(&uses), 0, "those of the other one, which are old");
        add(1_004, 1_001);
        assert_eq!(count(&uses), 4);
    }

    #[test]
    fn a_node_that_reports_ever_new_addresses_takes_no_room_of_others_and_none_for_good() {
        let uses = AddressUses::default();
        let other = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(number));
        for number in 0..100 {
            uses.add("bad", &[AddressQueries { address: other(number), queries: 1 }], true, 0);
        }
        add(&uses, 7, 0);
        assert_eq!(uses.lock().by_node[&PodKey::of("bad")].len(), MAX_KEPT);
        uses.retain(|_| true);
        assert_eq!(uses.lock().addresses.len(), MAX_KEPT + 1);
        assert_eq!((count(&uses), uses.count("bad", other(3), false), uses.count("bad", other(99), false)), (7, 1, 0));
        uses.retain(|node| *node == PodKey::of("1"));
        assert_eq!((count(&uses), uses.lock().addresses.len()), (7, 1));
    }
}

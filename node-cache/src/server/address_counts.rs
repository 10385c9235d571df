//! Counters by local address. They belong to the process, not to its sockets: a socket that is replaced takes nothing
//! away.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counters by local address.
#[derive(Debug, Default)]
pub(super) struct AddressCounts(Mutex<BTreeMap<IpAddr, Arc<AtomicU64>>>);

impl AddressCounts {
    /// Returns the counter of an address.
    pub(super) fn of(&self, address: IpAddr) -> Arc<AtomicU64> {
        self.counts().entry(address).or_default().clone()
    }

    /// Counts one.
    pub(super) fn count(&self, address: IpAddr) {
        self.counts().entry(address).or_default().fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the sum over all addresses.
    pub(super) fn total(&self) -> u64 {
        self.counts().values().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Adds each counter to the sum of its address.
    pub(super) fn add_to(&self, sums: &mut BTreeMap<IpAddr, u64>) {
        for (address, count) in self.counts().iter() {
            *sums.entry(*address).or_default() += count.load(Ordering::Relaxed);
        }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Detectors of a process's upstreams, by address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::dns::question::Question;
use crate::upstream::detection::ceiling::Ceiling;
use crate::upstream::detection::detector::Detector;

/// Detector of one upstream, and the ceiling that it has put in force.
#[derive(Debug)]
pub(in crate::upstream) struct Watch {
    pub(super) detector: Detector<Arc<Question>>,
    pub(super) ceiling: Arc<Ceiling>,
    /// Seed of the hashes of domains, so that no client chooses which of them share a cell.
    pub(super) seed: u64,
}

/// Detectors of a process, each for one address: servers of several groups that share it share its limit, too.
#[derive(Debug, Default)]
pub struct Watches(Mutex<BTreeMap<SocketAddr, Weak<Watch>>>);

impl Watches {
    /// Returns the detector of an address.
    pub(super) fn of(&self, address: SocketAddr) -> Arc<Watch> {
        let mut by_address = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        by_address.retain(|_, watch| watch.strong_count() > 0);
        by_address.get(&address).and_then(Weak::upgrade).unwrap_or_else(|| {
            let now = Instant::now();
            let (detector, ceiling) = (Detector::new(rand::random(), now), Arc::new(Ceiling::new(now)));
            let watch = Arc::new(Watch { detector, ceiling, seed: rand::random() });
            by_address.insert(address, Arc::downgrade(&watch));
            watch
        })
    }
}

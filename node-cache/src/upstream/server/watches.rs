//! Detectors of a process's upstreams, by address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::dns::question::Question;
use crate::upstream::detection::ceiling::Ceiling;
use crate::upstream::detection::control_ports::ControlPorts;
use crate::upstream::detection::detector::Detector;
use crate::upstream::transport::sockets::{PortPolicy, Sockets};

/// Detector of one upstream, what it has put in force, and the ports of its control queries.
#[derive(Debug)]
pub(in crate::upstream) struct Watch {
    pub(super) detector: Detector<Arc<Question>>,
    pub(super) ceiling: Arc<Ceiling>,
    /// Whether answered ports are kept.
    pub(super) keeps_ports: Arc<AtomicBool>,
    /// Sockets of control queries with fresh ports, and with ports that were answered before.
    pub(super) fresh_sockets: Sockets,
    pub(super) kept_sockets: Sockets,
    ports: Mutex<ControlPorts>,
}

impl Watch {
    /// Returns the choice of ports of control queries.
    pub(super) fn ports(&self) -> MutexGuard<'_, ControlPorts> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            let watch = Arc::new(Watch {
                detector,
                ceiling,
                keeps_ports: Arc::default(),
                fresh_sockets: Sockets::new(address, PortPolicy::Fresh),
                kept_sockets: Sockets::new(address, PortPolicy::Reuse),
                ports: Mutex::new(ControlPorts::new(now)),
            });
            by_address.insert(address, Arc::downgrade(&watch));
            watch
        })
    }
}

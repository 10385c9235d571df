//! Detection of forwarding loops: a server that forwards queries back to this process, directly or through others. A
//! looping query cannot be recognized, because forwarders change all that is hop-by-hop and nothing else. So a server
//! that exceeds its timeout is sent a probe that no client can send: the name of the query with a label of 128 random
//! bits in front. A query for that name that arrives here proves a loop.
//!
//! A probe is valid once and for a second, so that whoever observes one cannot use it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::dns::Name;

/// How long a probe is valid.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most probes outstanding at one time.
const MAX_OUTSTANDING: usize = 16;
/// Shortest interval between two loop probes of one server.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a server is not queried after a loop was detected.
const LOOP_BACKOFF: Duration = Duration::from_secs(10);

/// Forwarding-loop state of one server.
#[derive(Debug)]
pub(super) struct LoopState {
    server: SocketAddr,
    times: Mutex<LoopTimes>,
}

#[derive(Debug, Default)]
struct LoopTimes {
    last_probe: Option<Instant>,
    last_loop: Option<Instant>,
}

impl LoopState {
    /// Creates the state of a server that was not probed yet.
    pub(super) fn new(server: SocketAddr) -> Self {
        Self { server, times: Mutex::default() }
    }

    /// Returns whether a loop probe is due, and records one if so.
    pub(super) fn start_probe(&self, now: Instant) -> bool {
        let mut times = self.times();
        let is_due = times.last_probe.is_none_or(|last| now.saturating_duration_since(last) >= PROBE_INTERVAL);
        if is_due {
            times.last_probe = Some(now);
        }
        is_due
    }

    /// Returns whether a loop was detected less than 10 s ago. Responses since then do not end it: they come from this
    /// process.
    pub(super) fn is_looping(&self, now: Instant) -> bool {
        self.times().last_loop.is_some_and(|last| now.saturating_duration_since(last) < LOOP_BACKOFF)
    }

    fn record_loop(&self, now: Instant) {
        self.times().last_loop = Some(now);
        tracing::warn!(upstream = %self.server, "upstream forwards queries back to this process: forwarding loop");
    }

    fn times(&self) -> MutexGuard<'_, LoopTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outstanding loop probes of a process.
#[derive(Debug, Default)]
pub struct LoopProbes {
    has_any: AtomicBool,
    outstanding: Mutex<Vec<LoopProbe>>,
}

#[derive(Debug)]
struct LoopProbe {
    label: String,
    server: Weak<LoopState>,
    sent_at: Instant,
}

impl LoopProbes {
    /// Registers a probe whose name begins with `label`. Returns `false` when too many probes are outstanding.
    pub(super) fn register(&self, label: String, server: &Arc<LoopState>, now: Instant) -> bool {
        let mut outstanding = self.outstanding();
        remove_expired(&mut outstanding, now);
        if outstanding.len() >= MAX_OUTSTANDING {
            return false;
        }
        outstanding.push(LoopProbe { label, server: Arc::downgrade(server), sent_at: now });
        self.has_any.store(true, Ordering::Release);
        true
    }

    /// Returns whether `name`, in lower case, is that of an outstanding probe, which proves a forwarding loop. Marks
    /// the server of the probe as looping and removes the probe.
    pub(crate) fn detect_loop(&self, name: &Name, now: Instant) -> bool {
        if !self.has_any.load(Ordering::Acquire) {
            return false;
        }
        let probe = {
            let mut outstanding = self.outstanding();
            remove_expired(&mut outstanding, now);
            let index = outstanding.iter().position(|probe| name.as_bytes().get(1..33) == Some(probe.label.as_bytes()));
            let probe = index.map(|index| outstanding.swap_remove(index));
            self.has_any.store(!outstanding.is_empty(), Ordering::Release);
            probe
        };
        if let Some(server) = probe.as_ref().and_then(|probe| probe.server.upgrade()) {
            server.record_loop(now);
        }
        probe.is_some()
    }

    fn outstanding(&self) -> MutexGuard<'_, Vec<LoopProbe>> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a label of 128 random bits, as 32 hexadecimal digits.
pub(super) fn random_label() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn remove_expired(probes: &mut Vec<LoopProbe>, now: Instant) {
    probes.retain(|probe| now.saturating_duration_since(probe.sent_at) < PROBE_TIMEOUT);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Arc<LoopState> {
        Arc::new(LoopState::new("192.0.2.53:53".parse().unwrap()))
    }

    fn probe_name(label: &str) -> Name {
        Name::from_text("www.example").unwrap().with_label(label).unwrap()
    }

    #[test]
    fn a_probe_that_is_queried_here_is_a_loop_for_ten_seconds() {
        let probes = LoopProbes::default();
        let state = state();
        let now = Instant::now();
        let label = random_label();
        assert!(probes.register(label.clone(), &state, now));
        assert!(!probes.detect_loop(&probe_name(&random_label()), now));
        assert!(!state.is_looping(now));
        assert!(probes.detect_loop(&probe_name(&label), now));
        assert!(state.is_looping(now));
        assert!(!state.is_looping(now + LOOP_BACKOFF));
    }

    #[test]
    fn a_probe_is_valid_once_and_for_a_second() {
        let probes = LoopProbes::default();
        let now = Instant::now();
        let labels = [random_label(), random_label()];
        for label in &labels {
            assert!(probes.register(label.clone(), &state(), now));
        }
        assert!(probes.detect_loop(&probe_name(&labels[0]), now), "even if its server is gone");
        assert!(!probes.detect_loop(&probe_name(&labels[0]), now));
        assert!(!probes.detect_loop(&probe_name(&labels[1]), now + PROBE_TIMEOUT));
    }

    #[test]
    fn probes_are_bounded_for_a_process_and_spaced_for_a_server() {
        let probes = LoopProbes::default();
        let state = state();
        let now = Instant::now();
        for _ in 0..MAX_OUTSTANDING {
            assert!(probes.register(random_label(), &state, now));
        }
        assert!(!probes.register(random_label(), &state, now));
        assert!(probes.register(random_label(), &state, now + PROBE_TIMEOUT));
        assert!(state.start_probe(now) && !state.start_probe(now));
        assert!(state.start_probe(now + PROBE_INTERVAL));
    }
}

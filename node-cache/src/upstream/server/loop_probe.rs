//! Detection of forwarding loops: a server that forwards queries back to this process, directly or through others. A
//! looping query cannot be recognized, because forwarders change all that is hop-by-hop and nothing else. So a server
//! that exceeds its timeout is sent a probe that no client can send: the NS records of a random top-level domain, whose
//! only label is 128 random bits. A query for that name that arrives here proves a loop.
//!
//! Only the operators of the root are in charge of such a name, so no owner of a domain sees it and can have it
//! sent back by a client. `invalid` (RFC 6761) would not do: resolvers answer it themselves instead of forwarding it.
//! The type is NS because some forwarders keep A and AAAA of single labels to themselves (`domain-needed` of dnsmasq,
//! `ResolveUnicastSingleLabel` of systemd-resolved).
//!
//! A probe is valid once and for a second.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::dns::Name;
use crate::dns::codes::rtype;
use crate::dns::question::Question;

/// How long a probe is valid.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most probes outstanding at one time.
const MAX_OUTSTANDING: usize = 16;
/// Shortest interval between two loop probes of one server.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a server is queried only as a last resort after a loop was detected.
const LOOP_BACKOFF: Duration = Duration::from_secs(10);

/// Octets of a probe's only label: 128 bits in hexadecimal digits.
const LABEL_LEN: usize = 32;

/// Returns whether a name has the form of a probe. Whoever has sent it may have sent it only once: another query for it
/// would be an endless loop.
pub(in crate::upstream) fn is_probe_name(name: &Name) -> bool {
    let [length, rest @ ..] = name.as_bytes() else { return false };
    usize::from(*length) == LABEL_LEN
        && rest.len() == LABEL_LEN + 1
        && rest[..LABEL_LEN].iter().all(u8::is_ascii_hexdigit)
}

/// Forwarding-loop state of one server.
#[derive(Debug)]
pub(super) struct LoopState {
    server: SocketAddr,
    /// Whether a loop was ever detected: each query looks at this first.
    has_looped: AtomicBool,
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
        Self { server, has_looped: AtomicBool::new(false), times: Mutex::default() }
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
    #[inline]
    pub(super) fn is_looping(&self, now: impl FnOnce() -> Instant) -> bool {
        self.has_looped.load(Ordering::Acquire) && self.has_looped_lately(now())
    }

    #[cold]
    fn has_looped_lately(&self, now: Instant) -> bool {
        self.times().last_loop.is_some_and(|last| now.saturating_duration_since(last) < LOOP_BACKOFF)
    }

    fn record_loop(&self, now: Instant) {
        self.times().last_loop = Some(now);
        self.has_looped.store(true, Ordering::Release);
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
    name: Name,
    server: Weak<LoopState>,
    sent_at: Instant,
}

impl LoopProbes {
    /// Registers a new probe of a server and returns its question: NS of a random top-level domain. `None` when too
    /// many probes are outstanding.
    pub(super) fn register(&self, server: &Arc<LoopState>, now: Instant) -> Option<Question> {
        let name = Name::from_text(&random_label()).ok()?;
        let mut outstanding = self.outstanding();
        remove_expired(&mut outstanding, now);
        if outstanding.len() >= MAX_OUTSTANDING {
            return None;
        }
        let question = Question::plain(&name, rtype::NS);
        outstanding.push(LoopProbe { name, server: Arc::downgrade(server), sent_at: now });
        self.has_any.store(true, Ordering::Release);
        Some(question)
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
            let index = outstanding.iter().position(|probe| probe.name == *name);
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
fn random_label() -> String {
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

    #[test]
    fn a_probe_is_known_by_the_form_of_its_name_and_no_usual_name_has_it() {
        let probe = Name::from_text(&random_label()).unwrap();
        assert!(is_probe_name(&probe));
        for name in [".", "com", "www.example", &format!("{}.example", random_label()), &"z".repeat(LABEL_LEN)] {
            assert!(!is_probe_name(&Name::from_text(name).unwrap()), "{name}");
        }
    }

    #[test]
    fn a_probe_that_is_queried_here_is_a_loop_for_ten_seconds() {
        let probes = LoopProbes::default();
        let state = state();
        let now = Instant::now();
        let name = probes.register(&state, now).unwrap().name;
        assert!(!probes.detect_loop(&Name::from_text(&random_label()).unwrap(), now));
        assert!(!probes.detect_loop(&Name::from_text(&format!("www.{name}")).unwrap(), now), "not a name below it");
        assert!(!state.is_looping(|| now));
        assert!(probes.detect_loop(&name, now));
        assert!(state.is_looping(|| now));
        assert!(!state.is_looping(|| now + LOOP_BACKOFF));
    }

    #[test]
    fn a_probe_is_for_a_random_top_level_domain() {
        let probes = LoopProbes::default();
        let probe = || probes.register(&state(), Instant::now()).unwrap();
        let questions = [probe(), probe()];
        assert_ne!(questions[0].name, questions[1].name);
        for question in questions {
            let name = &question.name;
            assert_eq!((name.as_bytes().len(), name.as_bytes()[0]), (1 + 32 + 1, 32), "{name}");
            assert!(question.rtype == rtype::NS && !question.dnssec_ok);
        }
    }

    #[test]
    fn a_probe_is_valid_once_and_for_a_second() {
        let probes = LoopProbes::default();
        let now = Instant::now();
        let names = [(); 2].map(|()| probes.register(&state(), now).unwrap().name);
        assert!(probes.detect_loop(&names[0], now), "even if its server is gone");
        assert!(!probes.detect_loop(&names[0], now));
        assert!(!probes.detect_loop(&names[1], now + PROBE_TIMEOUT));
    }

    #[test]
    fn probes_are_bounded_for_a_process_and_spaced_for_a_server() {
        let probes = LoopProbes::default();
        let state = state();
        let now = Instant::now();
        for _ in 0..MAX_OUTSTANDING {
            assert!(probes.register(&state, now).is_some());
        }
        assert!(probes.register(&state, now).is_none());
        assert!(probes.register(&state, now + PROBE_TIMEOUT).is_some());
        assert!(state.start_probe(now) && !state.start_probe(now));
        assert!(state.start_probe(now + PROBE_INTERVAL));
    }
}

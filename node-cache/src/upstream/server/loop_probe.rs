//! Whether what a server is asked comes back, because it, or one behind it, forwards to us. Nobody can tell from a question:
//! what is asked is the same, and what belongs to a hop does not pass. So a server that takes too long is sent a question that
//! nobody else can ask: 128 random bits as a label above the name. If that comes in here, there is a loop.
//!
//! A probe counts once and for a second, so that whoever has seen one can do nothing with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Server;
use crate::dns::Name;
use crate::dns::question::Question;
use crate::upstream::transport::udp::{self as exchange, QueryFormat};

/// How long a probe counts.
const COUNTS: Duration = Duration::from_secs(1);
/// The most that are under way at one time.
const MOST: usize = 16;

/// The probes of a process that are under way.
#[derive(Debug, Default)]
pub struct LoopProbes {
    any: AtomicBool,
    probes: Mutex<Vec<Probe>>,
}

#[derive(Debug)]
struct Probe {
    label: String,
    server: Weak<Server>,
    sent: Instant,
}

impl LoopProbes {
    /// Sends a probe to this server, on the way of this question. Nobody waits for its answer; that there is none counts
    /// against the server as for any other question.
    ///
    /// Must be called inside a Tokio runtime.
    pub(in crate::upstream) fn probe_for_loop(&self, server: &Arc<Server>, question: &Arc<Question>, now: Instant) {
        let label = unguessable_label();
        let Some(probe) = question.with_label(&label) else { return };
        let mut probes = self.probes();
        forget_old(&mut probes, now);
        if probes.len() >= MOST {
            return;
        }
        probes.push(Probe { label, server: Arc::downgrade(server), sent: now });
        self.any.store(true, Ordering::Release);
        let (server, question) = (server.clone(), question.clone());
        tokio::spawn(async move {
            let form = QueryFormat { edns: true, case_0x20: false };
            server.count_sent();
            let asked = exchange::udp(server.sockets(), &probe, form, server.tap());
            // One that is known to be dead is looked after by others, who must not be put off.
            if timeout(COUNTS, asked).await.is_err() && server.healthy() {
                server.failed(&question);
            }
        });
    }

    /// Whether a name that somebody asks for, in lower case, is that of a probe, whose server then forwards to us.
    pub(crate) fn is_probe(&self, name: &Name, now: Instant) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut probes = self.probes();
        forget_old(&mut probes, now);
        let found = probes.iter().position(|probe| name.as_bytes().get(1..33) == Some(probe.label.as_bytes()));
        let probe = found.map(|place| probes.swap_remove(place));
        self.any.store(!probes.is_empty(), Ordering::Release);
        if let Some(server) = probe.as_ref().and_then(|probe| probe.server.upgrade()) {
            server.forwards_to_us(now);
        }
        probe.is_some()
    }

    fn probes(&self) -> MutexGuard<'_, Vec<Probe>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A label of 128 random bits.
pub(in crate::upstream) fn unguessable_label() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn forget_old(probes: &mut Vec<Probe>, now: Instant) {
    probes.retain(|probe| now.saturating_duration_since(probe.sent) < COUNTS);
}

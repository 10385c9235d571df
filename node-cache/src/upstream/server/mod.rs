//! One server: its address, how it is asked, how it does.

mod context;
mod group;
pub(super) mod health;
mod latency;
mod loop_probe;

pub use context::{ServerIds, UpstreamContext};
pub use group::Group;
pub use loop_probe::LoopProbes;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use node_cache_config::Protocol;
use tokio::sync::Notify;

use crate::dns::question::Question;
use crate::dnstap::Tap;
use crate::metrics::WaitSeconds;
use crate::upstream::transport::sockets::{PortPolicy, Sockets};
use crate::upstream::transport::tcp::Connection;
use health::{CircuitBreaker, Health};
use loop_probe::unguessable_label;

/// How long a server that does not keep the case of names is asked in lower case.
const WITHOUT_CASE: Duration = Duration::from_secs(600);

/// How often it is looked whether a server that takes too long forwards to us.
const LOOK_BEHIND: Duration = Duration::from_secs(5);
/// How long one that does is not asked.
const LOOP: Duration = Duration::from_secs(10);

/// How often a dead server is asked the same to see whether it lives.
const SAME_AGAIN: Duration = Duration::from_secs(30);

/// What a server did not answer before it began to count as dead.
#[derive(Clone, Debug)]
struct Unanswered {
    question: Arc<Question>,
    asked: Instant,
}

/// A server that questions are sent to.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    protocol: Protocol,
    health: Mutex<CircuitBreaker>,
    sent: AtomicU64,
    timeouts: AtomicU64,
    went_down: Arc<Notify>,
    unanswered: Mutex<Option<Unanswered>>,
    connection: Connection,
    sockets: Sockets,
    case_not_echoed: Mutex<Option<Instant>>,
    recovered_at: Mutex<Option<Instant>>,
    round_trips: WaitSeconds,
    context: Arc<UpstreamContext>,
    /// The number of its address.
    number: u16,
    /// When it was last looked whether it forwards to us.
    looked_behind: Mutex<Option<Instant>>,
    /// When it last did.
    forwarded_to_us: Mutex<Option<Instant>>,
}

impl Server {
    /// A server of which nothing is known yet. `went_down` is woken whenever it begins to count as dead.
    pub(in crate::upstream) fn new(
        address: SocketAddr,
        protocol: Protocol,
        usage: PortPolicy,
        went_down: Arc<Notify>,
        context: Arc<UpstreamContext>,
    ) -> Self {
        let number = context.server_ids.of(address);
        Self {
            address,
            protocol,
            health: Mutex::default(),
            sent: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            went_down,
            unanswered: Mutex::default(),
            connection: Connection::new(address),
            sockets: Sockets::new(address, usage),
            case_not_echoed: Mutex::default(),
            recovered_at: Mutex::default(),
            round_trips: WaitSeconds::default(),
            context,
            number,
            looked_behind: Mutex::default(),
            forwarded_to_us: Mutex::default(),
        }
    }

    /// Its address and port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of its address.
    pub(in crate::upstream) const fn number(&self) -> u16 {
        self.number
    }

    /// How it is asked.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether both are asked at the same place in the same way.
    pub(in crate::upstream) fn is_same(&self, other: &Self) -> bool {
        (self.address, self.protocol) == (other.address, other.protocol)
    }

    /// Whether it does not count as dead.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.health().state(Instant::now()) == Health::Up
    }

    /// Questions sent to it.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Questions that it did not answer in time.
    #[must_use]
    pub fn timeouts(&self) -> u64 {
        self.timeouts.load(Ordering::Relaxed)
    }

    /// The times from questions to it to its answers, however late those came.
    #[must_use]
    pub const fn round_trips(&self) -> &WaitSeconds {
        &self.round_trips
    }

    /// Where its messages can be looked at.
    pub(in crate::upstream) fn tap(&self) -> &Tap {
        &self.context.tap
    }

    pub(in crate::upstream) fn state(&self, now: Instant) -> Health {
        self.health().state(now)
    }

    pub(in crate::upstream) fn latency(&self) -> Duration {
        self.health().latency()
    }

    /// The time within which 95 of 100 of its answers come; none while there were few.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        self.health().p95()
    }

    pub(in crate::upstream) fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::upstream) fn answered(&self, took: Duration, now: Instant) {
        self.round_trips.observe(took);
        let recovered_at = {
            let mut health = self.health();
            let recovered_at = health.state(now) != Health::Up;
            health.answered(took);
            recovered_at
        };
        if recovered_at {
            *locked(&self.recovered_at) = Some(now);
            tracing::info!("{} answers again", self.address);
        }
    }

    /// When it last answered again after it counted as dead.
    pub(in crate::upstream) fn recovered_at(&self) -> Option<Instant> {
        *locked(&self.recovered_at)
    }

    pub(in crate::upstream) fn failed(&self, question: &Arc<Question>) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
        self.sockets.close_all();
        let now = Instant::now();
        let went_down = {
            let mut health = self.health();
            // What a dead one is asked may be made up.
            if health.state(now) == Health::Up {
                *locked(&self.unanswered) = Some(Unanswered { question: question.clone(), asked: now });
            }
            health.failed(now)
        };
        if went_down {
            tracing::warn!("{} does not answer", self.address);
            self.went_down.notify_one();
        }
    }

    /// It takes too long with a question: looks whether that is because it forwards to us, now and then; whether it does now.
    pub(in crate::upstream) fn probe_for_loop(self: &Arc<Self>, question: &Arc<Question>) -> bool {
        let now = Instant::now();
        let last = &mut *locked(&self.looked_behind);
        let is_due = self.protocol == Protocol::Udp
            && last.is_none_or(|last| now.saturating_duration_since(last) >= LOOK_BEHIND);
        if is_due {
            *last = Some(now);
            self.context.loop_probes.probe_for_loop(self, question, now);
        }
        is_due
    }

    /// It does.
    pub(in crate::upstream) fn forwards_to_us(&self, now: Instant) {
        *locked(&self.forwarded_to_us) = Some(now);
        tracing::warn!("{} asks this process for what it is asked: there is a loop", self.address);
    }

    /// Whether it did a moment ago: then it is not asked. That it has answered since says nothing: it has its answers from us.
    pub(in crate::upstream) fn is_in_a_loop(&self) -> bool {
        let last = *locked(&self.forwarded_to_us);
        last.is_some_and(|last| last.elapsed() < LOOP)
    }

    pub(in crate::upstream) fn probing(&self, now: Instant) {
        self.health().probing(now);
    }

    /// What to ask it to see whether it lives: what it did not answer, and mostly a name below that which nobody else asks for,
    /// so that whoever is behind it is not asked the same again and again. None while it lives or it is too early.
    pub(in crate::upstream) fn due(&self, now: Instant) -> Option<Arc<Question>> {
        if self.state(now) != Health::ProbeDue {
            return None;
        }
        self.probing(now);
        let mut unanswered = locked(&self.unanswered);
        let Unanswered { question, asked } = unanswered.as_mut()?;
        if now.saturating_duration_since(*asked) < SAME_AGAIN {
            return question.with_label(&unguessable_label()).map(Arc::new);
        }
        *asked = now;
        Some(question.clone())
    }

    /// The connection to it.
    pub(in crate::upstream) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The sockets for datagrams to it.
    pub(in crate::upstream) const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Whether it repeats names in the case in which it was asked, as far as is known.
    pub(in crate::upstream) fn echoes_case(&self) -> bool {
        let lost = locked(&self.case_not_echoed);
        lost.is_none_or(|at| at.elapsed() >= WITHOUT_CASE)
    }

    /// It does not.
    pub(in crate::upstream) fn case_not_echoed(&self) {
        let before = locked(&self.case_not_echoed).replace(Instant::now());
        if before.is_none() {
            tracing::info!("{} does not keep the case of names and is asked in lower case", self.address);
        }
    }

    fn health(&self) -> MutexGuard<'_, CircuitBreaker> {
        locked(&self.health)
    }
}

/// What a mutex holds, whatever became of who held it last.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Sockets: questions in, answers out. Bounded in everything: questions in work, connections, time.
//!
//! Every socket has an address of its own, so that an answer leaves from the address that was asked.

mod batch;
mod query_tasks;
mod tcp;
mod udp;
mod worker;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::dns::Cookie;
use crate::dns::cookie_secret::{CookieReply, Secrets};
use crate::dns::query::{Query, Transport};
use crate::dns::request::{self, CookieOnlyQuery, Rejection};
use crate::dnstap::{self, MessageContext, Sampled, Side};
use crate::handover::HeldSocket;
use crate::limits::{ClientLimiter, LimitExceeded, Permit};
use crate::metrics::{Dropped, Metrics};
use crate::resolver::Resolver;
use crate::snapshot::Snapshot;
use crate::snapshot::acl::Acl;
pub use worker::{WorkerFault, Workers};

/// The most questions that wait for other servers at one time; hits are not among them.
const MOST_IN_WORK: usize = 2048;
/// The most of them from one address: half of what may be under way to other servers at one time.
const MOST_IN_WORK_OF_ONE: usize = 512;

/// The most octets of answers that wait to be written to connections at one time, and those to one address: what clients
/// ask for and do not read.
const MOST_UNWRITTEN: usize = 1 << 20;
const MOST_UNWRITTEN_TO_ONE: usize = MOST_UNWRITTEN / 2;

/// Bounds on TCP.
#[derive(Clone, Copy, Debug)]
pub struct TcpLimits {
    /// The most connections at one time.
    pub connections: usize,
    /// The most of them from one address.
    pub connections_per_source: usize,
    /// The most questions of one connection in work; the next ones are read when one is answered.
    pub pipelined: usize,
    /// From accepting to the first octet.
    pub first_byte: Duration,
    /// From the first octet of a message to its last, and for writing one.
    pub whole_message: Duration,
    /// Between two messages.
    pub idle: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_source: 128,
            pipelined: 64,
            first_byte: Duration::from_secs(3),
            whole_message: Duration::from_secs(3),
            idle: Duration::from_secs(10),
        }
    }
}

/// What all sockets share.
#[derive(Debug)]
struct Shared {
    resolver: Arc<Resolver>,
    limits: TcpLimits,
    connections: Arc<ClientLimiter>,
    in_work: Arc<ClientLimiter>,
    unwritten: Arc<ClientLimiter>,
    secrets: watch::Receiver<Secrets>,
}

/// Everything that is served, until it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
}

impl Server {
    /// Answers on these sockets, whichever there are, out of `resolver`, and tells clients cookies made with these
    /// secrets. A socket that is no longer in the set is closed; one that stays is not disturbed.
    ///
    /// So many workers do it, one at the least: threads, each of which reads every socket and answers what it has read.
    ///
    /// # Errors
    ///
    /// A thread or its runtime cannot be had.
    pub fn start(
        workers: usize,
        resolver: Arc<Resolver>,
        limits: TcpLimits,
        sockets: watch::Receiver<Vec<HeldSocket>>,
        secrets: watch::Receiver<Secrets>,
    ) -> io::Result<Self> {
        let connections = ClientLimiter::new(limits.connections, limits.connections_per_source);
        let in_work = ClientLimiter::new(MOST_IN_WORK, MOST_IN_WORK_OF_ONE);
        let unwritten = ClientLimiter::new(MOST_UNWRITTEN, MOST_UNWRITTEN_TO_ONE);
        let shared = Arc::new(Shared { resolver, limits, connections, in_work, unwritten, secrets });
        let workers = Arc::new(Workers::start(workers, &shared, &sockets)?);
        Ok(Self { shared, workers })
    }

    /// The threads that answer.
    #[must_use]
    pub const fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Reads no more, and waits until all is answered that was read.
    pub async fn finish(&self) {
        self.workers.rest().await;
        self.shared.in_work.none().await;
    }
}

/// Who may ask under a revision. Before there is one, nobody but the host itself.
fn allow(snapshot: Option<&Snapshot>) -> &Acl {
    static DENY_ALL: Acl = Acl::DENY_ALL;
    snapshot.map_or(&DENY_ALL, |snapshot| &snapshot.allow)
}

impl Shared {
    /// Whether a source may ask at this address; counts it when not.
    fn permits(&self, source: SocketAddr, asked: IpAddr) -> bool {
        let snapshot = self.resolver.snapshot();
        self.permits_by(allow(snapshot.as_deref()), source.ip(), asked)
    }

    /// The same by a list that was looked up already.
    #[inline]
    fn permits_by(&self, allow: &Acl, source: IpAddr, asked: IpAddr) -> bool {
        let permitted = allow.permits(source, asked);
        if !permitted {
            self.metrics().dropped(Dropped::NotAllowed);
        }
        permitted
    }

    /// Reads a packet of a client that came this way, and sees to its cookie. Counts it, unless nothing is to be said to it.
    fn read(&self, packet: &[u8], source: SocketAddr, transport: Transport) -> Result<Query, Rejection> {
        let read = self.read_and_tell(packet, source, transport);
        match &read {
            Ok(_) => self.metrics().question(transport),
            Err(Rejection::Respond(_, code)) => {
                self.metrics().question(transport);
                self.metrics().refused(transport, *code);
            }
            Err(Rejection::Drop) => self.metrics().dropped(Dropped::NotARequest),
        }
        read
    }

    fn read_and_tell(&self, packet: &[u8], source: SocketAddr, transport: Transport) -> Result<Query, Rejection> {
        match request::read(packet) {
            Ok(mut query) => {
                query.transport = transport;
                let cookie = query.edns.and_then(|edns| edns.cookie);
                query.told_cookie = cookie.and_then(|cookie| self.tell(&cookie, source)).map(|told| told.cookie);
                Ok(query)
            }
            Err(rejected) => {
                let alone = CookieOnlyQuery::read(packet);
                let answer = alone.and_then(|alone| Some(alone.answer(&self.tell(&alone.cookie, source)?)));
                Err(answer.map_or(rejected, |(answer, code)| Rejection::Respond(answer, code)))
            }
        }
    }

    fn tell(&self, cookie: &Cookie, source: SocketAddr) -> Option<CookieReply> {
        // The same for all processes of a node, whatever somebody does to the clock on the wall.
        let now = clock_gettime(ClockId::Boottime).tv_sec;
        self.secrets.borrow().tell(cookie, source.ip(), now as u32)
    }

    /// Begins a question that has to wait for other servers, unless there are too many; counts it when there are.
    fn begin(&self, source: SocketAddr) -> Option<Permit> {
        self.counted(self.in_work.take(source))
    }

    /// Room for an answer of this many octets until it is written, unless too many wait for that; counts it when they do.
    fn room(&self, source: SocketAddr, octets: usize) -> Option<Permit> {
        self.counted(self.unwritten.acquire_many(source, octets))
    }

    fn counted(&self, share: Result<Permit, LimitExceeded>) -> Option<Permit> {
        let reason = match share {
            Ok(share) => return Some(share),
            Err(LimitExceeded::Global) => Dropped::Busy,
            Err(LimitExceeded::PerClient) => Dropped::Greedy,
        };
        self.metrics().dropped(reason);
        None
    }

    /// Shows a question that came in at this address to whoever looks and for whom it is picked.
    fn show(
        &self,
        packet: &[u8],
        source: SocketAddr,
        asked: impl FnOnce() -> io::Result<SocketAddr>,
        transport: Transport,
    ) -> Option<Box<Sampled>> {
        let tap = self.resolver.tap();
        if !tap.wanted() {
            return None;
        }
        let (side, asker, server) = (Side::Client, source, asked().ok()?);
        tap.question(MessageContext { side, transport, asker, server, at: dnstap::now() }, packet).map(Box::new)
    }

    /// Shows its answer.
    fn show_answer(&self, picked: Option<&Sampled>, answer: &[u8]) {
        if let Some(picked) = picked {
            self.resolver.tap().answer(picked, answer);
        }
    }

    fn metrics(&self) -> &Metrics {
        self.resolver.metrics()
    }
}

//! UDP sockets for queries to one server. Each is connected, so that the kernel drops packets from other addresses,
//! has a random source port picked by the kernel (RFC 5452), and carries one query at a time.
//!
//! A link-local upstream is the resolver of a cloud. What counts the flows to it (connection tracking, which knows a
//! flow for 30 s) has no room for a fresh port of each query, so its ports are kept for some seconds. Those of another
//! upstream are kept while detection has found such a limit on the way to it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::socket_pool::{self, AsyncSocket};

/// Random draws of an idle socket before those of the thread are counted.
const IDLE_DRAWS: usize = 4;
/// Most idle sockets for one server, and the number of ports among which a query to a link-local one picks at random.
const MAX_IDLE_PER_SERVER: usize = 64;
/// Most idle sockets for all servers of the process.
const MAX_IDLE: usize = 1024;
/// Queries after which a socket is closed.
const MAX_QUERIES_PER_SOCKET: u32 = 256;
/// Age at which a socket is closed. A connection-tracking entry on the way to a server that was replaced lives for as
/// long as packets of its flow are sent.
const MAX_SOCKET_AGE: Duration = Duration::from_secs(10);
/// Age at which a socket to a link-local upstream is closed, which is not replaced. Connection tracking knows its flow
/// for two minutes more: two resolvers of a node have 64 ports each, and at most 1,000 flows together.
const MAX_AGE_OF_LINK_LOCAL: Duration = Duration::from_secs(30);
/// Age at which a socket is closed while answered ports are kept: nearly all fresh ones get no answer.
const MAX_AGE_OF_ANSWERED: Duration = Duration::from_secs(60);
/// Idle sockets from which on no query has a fresh port while answered ports are kept, and the chance of a fresh one
/// below that, in percent: where there are some, and where there are hardly any.
const ENOUGH_ANSWERED: usize = 16;
const FEW_ANSWERED: usize = 3;
const FRESH_PERCENT: u32 = 5;
const FRESH_PERCENT_OF_FEW: u32 = 50;

/// Idle sockets of the process.
static IDLE_SOCKETS: AtomicUsize = AtomicUsize::new(0);
/// Open sockets with kept ports, by server.
static KEPT_PORTS: Mutex<BTreeMap<SocketAddr, usize>> = Mutex::new(BTreeMap::new());

/// Whether the source port of a query may be that of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortPolicy {
    /// A fresh random port for each query: whoever forges a response has to guess the port anew. For all servers that
    /// are not our own.
    Fresh,
    /// One port for many queries, one after the other, for some seconds.
    Reuse,
    /// One of 64 ports at random, each for many queries, for some seconds. For link-local upstreams.
    Keep,
    /// A port from which a query was answered, and seldom a fresh one. In the place of [`Self::Fresh`] while new flows
    /// to the server have no room.
    KeepAnswered,
}

impl PortPolicy {
    /// Returns the policy for an upstream that is not of the tier.
    pub(in crate::upstream) const fn of_upstream(address: IpAddr) -> Self {
        let is_link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if is_link_local { Self::Keep } else { Self::Fresh }
    }

    /// Returns the age at which a socket is closed.
    const fn max_age(self) -> Duration {
        match self {
            Self::Fresh | Self::Reuse => MAX_SOCKET_AGE,
            Self::Keep => MAX_AGE_OF_LINK_LOCAL,
            Self::KeepAnswered => MAX_AGE_OF_ANSWERED,
        }
    }
}

/// UDP sockets for queries to one server.
#[derive(Debug)]
pub(crate) struct Sockets {
    server: SocketAddr,
    port_policy: PortPolicy,
    /// Whether new flows to the server have no room; `None` where nobody finds out.
    keeps_answered: Option<Arc<AtomicBool>>,
    idle: Mutex<Vec<IdleSocket>>,
}

/// A connected socket and its use so far. Dropping it gives its port up and returns it to the socket pool.
#[derive(Debug)]
pub(super) struct PooledSocket {
    socket: AsyncSocket,
    server: SocketAddr,
    /// Thread whose runtime watches the socket.
    thread: ThreadId,
    opened_at: Instant,
    queries: u32,
    /// Counted in [`KEPT_PORTS`].
    is_kept: bool,
    /// A socket error was reported. Tokio considers the write side closed from then on, for good.
    had_error: bool,
}

impl Drop for PooledSocket {
    fn drop(&mut self) {
        if self.is_kept {
            count_kept(self.server, |ports| *ports = ports.saturating_sub(1));
        }
        if !self.had_error && self.thread == std::thread::current().id() {
            socket_pool::release(self.socket.clone(), self.server);
        }
    }
}

/// A socket without a query, counted in [`IDLE_SOCKETS`].
#[derive(Debug)]
struct IdleSocket(Option<PooledSocket>);

impl Drop for IdleSocket {
    fn drop(&mut self) {
        IDLE_SOCKETS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sockets {
    /// Creates the set of sockets for `server`. None is open yet.
    pub(crate) const fn new(server: SocketAddr, port_policy: PortPolicy) -> Self {
        Self { server, port_policy, keeps_answered: None, idle: Mutex::new(Vec::new()) }
    }

    /// Keeps answered ports while this flag is set.
    pub(in crate::upstream) fn keep_answered_while(mut self, flag: Option<Arc<AtomicBool>>) -> Self {
        self.keeps_answered = flag;
        self
    }

    /// Returns the policy in force.
    fn policy(&self) -> PortPolicy {
        let keeps_answered = || self.keeps_answered.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed));
        match self.port_policy {
            PortPolicy::Fresh if keeps_answered() => PortPolicy::KeepAnswered,
            policy => policy,
        }
    }

    /// Returns the address that the sockets are connected to.
    pub(super) const fn server(&self) -> SocketAddr {
        self.server
    }

    /// Acquires a socket for one query: a random idle one of this thread with [`PortPolicy::Reuse`], and with
    /// [`PortPolicy::Keep`] once there are as many as there may be, or else one with a fresh port. With
    /// [`PortPolicy::KeepAnswered`] seldom one with a fresh port.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// No socket can be opened, or there is no route to the server.
    pub(super) fn acquire(&self) -> io::Result<PooledSocket> {
        let thread = std::thread::current().id();
        let mut socket = match self.take_idle(thread) {
            Some(socket) => socket,
            None => {
                let socket = socket_pool::acquire(self.server)?;
                let is_kept = self.port_policy == PortPolicy::Keep;
                if is_kept {
                    count_kept(self.server, |ports| *ports += 1);
                }
                PooledSocket {
                    socket,
                    server: self.server,
                    thread,
                    opened_at: Instant::now(),
                    queries: 0,
                    is_kept,
                    had_error: false,
                }
            }
        };
        socket.queries += 1;
        Ok(socket)
    }

    /// Releases a socket whose query was answered. Its port is given up with [`PortPolicy::Fresh`]; otherwise it
    /// becomes idle.
    pub(super) fn release(&self, socket: PooledSocket) {
        let policy = self.policy();
        if policy == PortPolicy::Fresh || socket.is_worn_out(policy.max_age()) {
            return;
        }
        socket_pool::clear_readiness(&socket.socket);
        let socket = IdleSocket(Some(socket));
        let idle_of_process = IDLE_SOCKETS.fetch_add(1, Ordering::Relaxed);
        let mut idle = self.idle();
        if idle_of_process < MAX_IDLE && idle.len() < MAX_IDLE_PER_SERVER {
            idle.push(socket);
        }
    }

    /// Closes idle sockets that have reached the maximum age.
    pub(in crate::upstream) fn close_expired(&self, now: Instant) {
        let max_age = self.policy().max_age();
        let is_young = |socket: &PooledSocket| now.saturating_duration_since(socket.opened_at) < max_age;
        self.idle().retain(|idle| idle.0.as_ref().is_some_and(is_young));
    }

    /// Closes the idle sockets of a server that was silent: it may have been replaced. A link-local one was not, and
    /// fresh ports are what it may have no room for.
    pub(in crate::upstream) fn close_after_silence(&self) {
        if !matches!(self.policy(), PortPolicy::Keep | PortPolicy::KeepAnswered) {
            self.close_all();
        }
    }

    /// Closes all idle sockets.
    pub(in crate::upstream) fn close_all(&self) {
        self.idle().clear();
    }

    /// Returns whether there is an idle socket.
    pub(in crate::upstream) fn has_idle(&self) -> bool {
        !self.idle().is_empty()
    }

    /// Takes a random idle socket of this thread; `None` where the next query has a fresh port.
    fn take_idle(&self, thread: ThreadId) -> Option<PooledSocket> {
        match self.policy() {
            PortPolicy::Fresh => return None,
            PortPolicy::Keep if count_kept(self.server, |ports| *ports) < MAX_IDLE_PER_SERVER => return None,
            PortPolicy::KeepAnswered if rand::random_range(0..100) < fresh_percent(self.idle().len()) => return None,
            PortPolicy::Keep | PortPolicy::KeepAnswered | PortPolicy::Reuse => {}
        }
        let mut idle = self.idle();
        let is_usable = |idle: &IdleSocket| idle.0.as_ref().is_some_and(|socket| socket.thread == thread);
        // Mostly one of the first draws is a socket of this thread, which saves a walk over all.
        for _ in 0..IDLE_DRAWS.min(idle.len()) {
            let index = rand::random_range(0..idle.len());
            if is_usable(&idle[index]) {
                return idle.swap_remove(index).0.take();
            }
        }
        let usable = idle.iter().filter(|idle| is_usable(idle)).count();
        let chosen = if usable > 1 { rand::random_range(0..usable) } else { 0 };
        let index = idle.iter().enumerate().filter(|(_, idle)| is_usable(idle)).nth(chosen)?.0;
        idle.swap_remove(index).0.take()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<IdleSocket>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PooledSocket {
    /// Returns the local address and source port.
    ///
    /// # Errors
    ///
    /// `getsockname` fails.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()?.as_socket().ok_or_else(|| ErrorKind::Unsupported.into())
    }

    /// Sends a query. A pending ICMP error about an earlier packet does not prevent that.
    ///
    /// # Errors
    ///
    /// The packet cannot be sent.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        // The kernel reports a pending error once, instead of sending.
        let socket = self.socket.get_ref();
        if socket.send(message).is_err() {
            socket.send(message)?;
        }
        Ok(())
    }

    /// Polls until a packet or the first socket error may be read, and returns which of them.
    ///
    /// # Errors
    ///
    /// The runtime shuts down.
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Interest>> {
        if let Poll::Ready(readable) = self.socket.poll_read_ready(context) {
            return Poll::Ready(readable.map(|_| Interest::READABLE));
        }
        if !self.had_error {
            // Tokio reports an error without a packet as a closed write side.
            drop(ready!(self.socket.poll_write_ready(context))?);
            self.had_error = true;
            return Poll::Ready(Ok(Interest::ERROR));
        }
        Poll::Pending
    }

    /// Receives one packet, after [`Self::poll_ready`] returned this interest.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is no packet. Other errors are ICMP errors about packets that were sent.
    pub(super) fn recv<'b>(&self, interest: Interest, buffer: &'b mut [MaybeUninit<u8>]) -> io::Result<&'b [u8]> {
        let ((packet, _), _) = self.socket.try_io(interest, |socket| Ok(recv(socket, buffer, RecvFlags::DONTWAIT)?))?;
        Ok(packet)
    }

    /// Returns whether the port served another query before this one, whose response may come once more.
    pub(super) const fn is_reused(&self) -> bool {
        self.queries > 1
    }

    fn is_worn_out(&self, max_age: Duration) -> bool {
        self.had_error || self.queries >= MAX_QUERIES_PER_SOCKET || self.opened_at.elapsed() >= max_age
    }
}

/// Returns the chance that a query has a fresh port while answered ports are kept and so many of them are idle.
const fn fresh_percent(idle: usize) -> u32 {
    match idle {
        ..FEW_ANSWERED => FRESH_PERCENT_OF_FEW,
        FEW_ANSWERED..ENOUGH_ANSWERED => FRESH_PERCENT,
        ENOUGH_ANSWERED.. => 0,
    }
}

/// Reads or changes the number of open sockets with kept ports for a server.
fn count_kept<T>(server: SocketAddr, change: impl FnOnce(&mut usize) -> T) -> T {
    let mut by_server = KEPT_PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let ports = by_server.entry(server).or_default();
    let result = change(ports);
    if *ports == 0 {
        by_server.remove(&server);
    }
    result
}

#[cfg(test)]
mod tests;

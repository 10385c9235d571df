//! Socket pool of a thread: UDP sockets that were used for one query and are reused for another one with a new random
//! port. A socket whose connection is dissolved has no port and receives nothing. When it is connected again, the
//! kernel picks a new random port (RFC 5452), as it does for a new socket. That costs a quarter of opening, watching
//! and closing a socket for each query.
//!
//! Most pooled sockets are unbound, without a port. For each recently queried server, one is connected in advance,
//! while the thread has nothing more urgent to do, so that the next query does not wait for that.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, connect_unspec, recv};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most unbound sockets of an address family in the pool of a thread.
const MAX_UNBOUND: usize = 256;
/// Most preconnected sockets in the pool of a thread.
const MAX_PRECONNECTED: usize = 8;
/// Age after which a preconnected socket is not used: a port scan finds only ports that are about to be given up.
const MAX_PRECONNECTED_AGE: Duration = Duration::from_millis(100);

/// A UDP socket watched by the runtime of its thread. The reference count lies in the same allocation.
pub(super) type AsyncSocket = Arc<AsyncFd<Socket>>;

/// Pooled sockets of a thread.
#[derive(Default)]
struct SocketPool {
    unbound_ipv4: Vec<AsyncSocket>,
    unbound_ipv6: Vec<AsyncSocket>,
    /// At most one for each server, the oldest first.
    preconnected: Vec<PreconnectedSocket>,
    /// Released sockets, still connected from their last query, while returns are deferred.
    deferred: Vec<(AsyncSocket, SocketAddr)>,
    defers_returns: bool,
}

/// A socket connected to a server in advance.
struct PreconnectedSocket {
    socket: AsyncSocket,
    server: SocketAddr,
    since: Instant,
}

impl SocketPool {
    fn unbound(&mut self, domain: Domain) -> &mut Vec<AsyncSocket> {
        if domain == Domain::IPV6 { &mut self.unbound_ipv6 } else { &mut self.unbound_ipv4 }
    }

    /// Returns a socket that was used for a query to `server` to the pool, with a new port if it is the only one for
    /// this server, or else without one. Sockets that cannot be reused are closed.
    fn put(&mut self, socket: AsyncSocket, server: SocketAddr) {
        if connect_unspec(socket.get_ref()).is_err() {
            return;
        }
        if self.preconnected.iter().any(|other| other.server == server) {
            return self.put_unbound(socket, server);
        }
        if socket.get_ref().connect(&server.into()).is_ok() {
            self.preconnected.push(PreconnectedSocket { socket, server, since: Instant::now() });
        }
        if self.preconnected.len() > MAX_PRECONNECTED {
            let PreconnectedSocket { socket, server, .. } = self.preconnected.remove(0);
            self.disconnect(socket, server);
        }
    }

    /// Dissolves the connection to `server`, which gives the port up, and keeps the socket unbound.
    fn disconnect(&mut self, socket: AsyncSocket, server: SocketAddr) {
        if connect_unspec(socket.get_ref()).is_ok() {
            self.put_unbound(socket, server);
        }
    }

    fn put_unbound(&mut self, socket: AsyncSocket, server: SocketAddr) {
        let unbound = self.unbound(Domain::for_address(server));
        if unbound.len() < MAX_UNBOUND && has_empty_queue(&socket) {
            unbound.push(socket);
        }
    }

    /// Takes the socket that is connected to `server` in advance. `None` when there is none, when its port has been
    /// open for too long, or when something was sent to it already.
    fn take_preconnected(&mut self, server: SocketAddr) -> Option<AsyncSocket> {
        let index = self.preconnected.iter().position(|other| other.server == server)?;
        let PreconnectedSocket { socket, since, .. } = self.preconnected.remove(index);
        if since.elapsed() > MAX_PRECONNECTED_AGE {
            self.disconnect(socket, server);
            return None;
        }
        has_empty_queue(&socket).then_some(socket)
    }

    /// Takes an unbound socket of the address family of `server`.
    fn take_unbound(&mut self, server: SocketAddr) -> Option<AsyncSocket> {
        self.unbound(Domain::for_address(server)).pop()
    }
}

thread_local! {
    static SOCKET_POOL: RefCell<Option<SocketPool>> = const { RefCell::new(None) };
}

/// Guard of the socket pool of a thread: without one, released sockets are closed. The sockets are watched by the
/// runtime in which the guard was created.
#[derive(Debug)]
pub(crate) struct PoolGuard(());

impl PoolGuard {
    /// Creates the pool of this thread.
    pub(crate) fn new() -> Self {
        SOCKET_POOL.set(Some(SocketPool::default()));
        Self(())
    }

    /// Runs `work`. Sockets that it releases are prepared for their next query afterwards.
    pub(crate) fn with_deferred_returns<T>(&self, work: impl FnOnce() -> T) -> T {
        let set_deferred = |defers_returns| {
            SOCKET_POOL.with_borrow_mut(|pool| pool.as_mut().map(|pool| pool.defers_returns = defers_returns));
        };
        set_deferred(true);
        let result = work();
        set_deferred(false);
        SOCKET_POOL.with_borrow_mut(|pool| {
            let Some(pool) = pool else { return };
            let mut deferred = std::mem::take(&mut pool.deferred);
            deferred.drain(..).for_each(|(socket, server)| pool.put(socket, server));
            pool.deferred = deferred;
        });
        result
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        drop(SOCKET_POOL.take());
    }
}

/// Acquires a socket that is connected to `server`, with a random port that no query has used: from the pool of this
/// thread, or a new one.
///
/// # Errors
///
/// No socket can be opened, or there is no route to the server.
pub(super) fn acquire(server: SocketAddr) -> io::Result<AsyncSocket> {
    let from_pool = |take: fn(&mut SocketPool, SocketAddr) -> Option<AsyncSocket>| {
        SOCKET_POOL.with_borrow_mut(|pool| take(pool.as_mut()?, server))
    };
    if let Some(socket) = from_pool(SocketPool::take_preconnected) {
        return Ok(socket);
    }
    let socket = from_pool(SocketPool::take_unbound).map_or_else(|| open(Domain::for_address(server)), Ok)?;
    // Picks a random port as well, as binding the socket first would.
    socket.get_ref().connect(&server.into())?;
    Ok(socket)
}

#[allow(deprecated, reason = "the deprecation concerns descriptors that may change; a socket keeps its own")]
fn open(domain: Domain) -> io::Result<AsyncSocket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
    // No interest in writing: each new socket is writable, which would wake the runtime once more for each query.
    AsyncFd::with_interest(socket, Interest::READABLE | Interest::ERROR).map(Arc::new)
}

/// Releases a socket that [`acquire`] returned on this thread for a query to `server`. Packets that still arrive for
/// that query are dropped.
pub(super) fn release(socket: AsyncSocket, server: SocketAddr) {
    // The pool of a thread that ends may be gone already.
    let _ = SOCKET_POOL.try_with(|pool| match &mut *pool.borrow_mut() {
        Some(pool) if pool.defers_returns => pool.deferred.push((socket, server)),
        Some(pool) => pool.put(socket, server),
        None => {}
    });
}

/// Returns whether neither a packet nor an error waits to be read, and clears the readiness. A packet that was sent
/// before a query must not be taken for the response to it.
fn has_empty_queue(socket: &AsyncSocket) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 1];
    let is_empty = recv(socket.get_ref(), &mut buffer, RecvFlags::DONTWAIT)
        .is_err_and(|error| io::Error::from(error).kind() == ErrorKind::WouldBlock);
    clear_readiness(socket);
    is_empty
}

/// Clears the readiness that the runtime has recorded. Otherwise it would try to read before it waits; a packet that
/// arrives is reported anew.
pub(super) fn clear_readiness(socket: &AsyncSocket) {
    for interest in [Interest::READABLE, Interest::ERROR] {
        let _ = socket.try_io(interest, |_| io::Result::<()>::Err(ErrorKind::WouldBlock.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Time in which a port that was given up can be bound again, whatever else runs on the machine.
    const PORT_TIMEOUT: Duration = Duration::from_secs(30);

    fn server() -> (UdpSocket, SocketAddr) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        (server, address)
    }

    fn local_addr(socket: &AsyncSocket) -> SocketAddr {
        socket.get_ref().local_addr().unwrap().as_socket().unwrap()
    }

    /// Returns the numbers of preconnected and of unbound sockets.
    fn pool_len() -> (usize, usize) {
        SOCKET_POOL.with_borrow(|pool| {
            pool.as_ref()
                .map_or((0, 0), |pool| (pool.preconnected.len(), pool.unbound_ipv4.len() + pool.unbound_ipv6.len()))
        })
    }

    /// Returns the port of the socket that is preconnected to `server`.
    fn preconnected_port(server: SocketAddr) -> Option<u16> {
        SOCKET_POOL.with_borrow(|pool| {
            let preconnected = pool.as_ref()?.preconnected.iter().find(|other| other.server == server)?;
            Some(local_addr(&preconnected.socket).port())
        })
    }

    fn age_preconnected(by: Duration) {
        SOCKET_POOL.with_borrow_mut(|pool| {
            pool.iter_mut().flat_map(|pool| &mut pool.preconnected).for_each(|other| other.since -= by);
        });
    }

    /// Keeps the preconnected sockets young, however long this thread has to wait for a processor.
    fn stop_aging() {
        SOCKET_POOL.with_borrow_mut(|pool| {
            let preconnected = pool.iter_mut().flat_map(|pool| &mut pool.preconnected);
            preconnected.for_each(|other| other.since += Duration::from_secs(3600));
        });
    }

    /// Asserts that a port was given up. Another test may have been given it for a moment.
    #[track_caller]
    fn assert_is_given_up(local: SocketAddr) {
        let started = Instant::now();
        while let Err(error) = UdpSocket::bind(local) {
            assert!(started.elapsed() < PORT_TIMEOUT, "{local}: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_used_gets_a_new_port_before_the_next_query() {
        let (server, address) = server();
        let _pool = PoolGuard::new();
        let mut ports = std::collections::HashSet::new();
        for _ in 0..64 {
            stop_aging();
            let expected = preconnected_port(address);
            let socket = acquire(address).unwrap();
            let local = local_addr(&socket);
            assert!(expected.is_none_or(|port| port == local.port()));
            ports.insert(local.port());
            socket.get_ref().send(b"?").unwrap();
            release(socket, address);
            assert_eq!(pool_len(), (1, 0), "always the same one");
            assert_is_given_up(local);
            assert_eq!(server.recv_from(&mut [0]).unwrap(), (1, local));
        }
        assert!(ports.len() > 56, "{ports:?}");
    }

    #[tokio::test]
    async fn one_is_connected_for_each_of_the_last_servers_and_the_others_have_no_port() {
        let servers: Vec<_> = (0..MAX_PRECONNECTED + 2).map(|_| server()).collect();
        let _pool = PoolGuard::new();
        let mut used = Vec::new();
        for (_, address) in &servers {
            used.extend([acquire(*address).unwrap(), acquire(*address).unwrap()].map(|socket| (socket, *address)));
        }
        let local_addrs: Vec<_> = used.iter().map(|(socket, _)| local_addr(socket)).collect();
        used.into_iter().for_each(|(socket, address)| release(socket, address));
        assert_eq!(pool_len(), (MAX_PRECONNECTED, MAX_PRECONNECTED + 4));
        local_addrs.into_iter().for_each(assert_is_given_up);
        let is_preconnected = servers.iter().map(|(_, address)| preconnected_port(*address).is_some());
        assert!(is_preconnected.eq((0..servers.len()).map(|server| server >= 2)), "the first servers are replaced");
    }

    #[tokio::test]
    async fn a_port_that_has_been_open_for_long_is_not_used() {
        let (_server, address) = server();
        let _pool = PoolGuard::new();
        release(acquire(address).unwrap(), address);
        let old_port = preconnected_port(address).unwrap();
        age_preconnected(MAX_PRECONNECTED_AGE + Duration::from_millis(1));
        let socket = acquire(address).unwrap();
        assert_eq!(pool_len(), (0, 0), "it was disconnected and is used again");
        assert_ne!(local_addr(&socket).port(), old_port);
    }

    #[tokio::test]
    async fn a_reconnected_socket_receives_from_the_next_server_and_not_from_the_one_before() {
        let (first, first_address) = server();
        let (second, second_address) = server();
        let _pool = PoolGuard::new();
        let socket = acquire(first_address).unwrap();
        SocketPool::default().disconnect(socket.clone(), first_address);
        socket.get_ref().connect(&second_address.into()).unwrap();
        first.send_to(b"1", local_addr(&socket)).unwrap();
        second.send_to(b"2", local_addr(&socket)).unwrap();
        let mut ready = socket.readable().await.unwrap();
        let mut buffer = [0; 1];
        let received = ready.try_io(|socket| Ok(recv(socket, &mut buffer, RecvFlags::empty())?));
        assert_eq!(received.unwrap().unwrap().1, 1);
        assert_eq!(buffer, *b"2");
    }

    #[tokio::test]
    async fn a_packet_that_is_sent_before_a_query_is_not_read_as_its_response() {
        let (server, address) = server();
        let _pool = PoolGuard::new();
        let use_once = || {
            release(acquire(address).unwrap(), address);
            stop_aging();
        };
        let next_is_empty = || has_empty_queue(&acquire(address).unwrap());
        // A late packet for the query before.
        let with_late_packet = || {
            let socket = acquire(address).unwrap();
            server.send_to(b"late", local_addr(&socket)).unwrap();
            socket
        };
        release(with_late_packet(), address);
        assert!(next_is_empty());
        // A packet to a preconnected socket.
        use_once();
        server.send_to(b"early", (address.ip(), preconnected_port(address).unwrap())).unwrap();
        assert!(next_is_empty());
        // A socket with a packet or an ICMP error in its queue is not kept unbound either.
        let with_packet = with_late_packet();
        use_once();
        release(with_packet, address);
        assert_eq!(pool_len(), (1, 0));
        drop(server);
        let with_error = acquire(address).unwrap();
        with_error.get_ref().send(b"?").unwrap();
        use_once();
        release(with_error, address);
        assert_eq!(pool_len(), (1, 0));
    }

    #[tokio::test]
    async fn returns_are_deferred_until_after_the_work_bounded_and_need_a_guard() {
        let (_server, address) = server();
        release(acquire(address).unwrap(), address);
        assert_eq!(pool_len(), (0, 0));
        let guard = PoolGuard::new();
        let local = guard.with_deferred_returns(|| {
            let sockets: Vec<_> = (0..MAX_UNBOUND + 10).map(|_| acquire(address).unwrap()).collect();
            let local = local_addr(&sockets[0]);
            sockets.into_iter().for_each(|socket| release(socket, address));
            assert_eq!(pool_len(), (0, 0));
            UdpSocket::bind(local).unwrap_err();
            local
        });
        assert_eq!(pool_len(), (1, MAX_UNBOUND));
        assert_is_given_up(local);
        drop(guard);
        assert_eq!(pool_len(), (0, 0));
    }
}

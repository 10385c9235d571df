//! Sockets that have asked one question and are kept for the next one. A socket whose connection is dissolved has no port any
//! more and receives nothing; when it is connected again the kernel picks a new port at random, as it does for a new one. That
//! takes a quarter of what it takes to open, watch and close a socket for each question.
//!
//! Most are kept blank, without a port. One for each server that was asked of late is connected to it in advance, while there
//! is nothing better to do: the next question waits for that no more.

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

/// The most of a family that a thread keeps blank.
const MOST: usize = 256;
/// The most that a thread keeps connected.
const MOST_CONNECTED: usize = 8;
/// For so long one may be used: whoever looks for an open port finds one that is about to be given up.
const LONGEST: Duration = Duration::from_millis(100);

/// A socket for datagrams whose readiness the thread's runtime looks after. What is shared is kept together with it.
pub(in crate::upstream) type Watched = Arc<AsyncFd<Socket>>;

/// What a thread keeps.
#[derive(Default)]
struct Kept {
    blank_ipv4: Vec<Watched>,
    blank_ipv6: Vec<Watched>,
    /// At most one for each server, the oldest first.
    connected: Vec<Connected>,
    /// Those that are still connected from their last question, while there is more urgent work.
    used: Vec<(Watched, SocketAddr)>,
    is_busy: bool,
}

/// A socket that waits for a question to this server, since then.
struct Connected {
    socket: Watched,
    server: SocketAddr,
    since: Instant,
}

impl Kept {
    fn blank(&mut self, domain: Domain) -> &mut Vec<Watched> {
        if domain == Domain::IPV6 { &mut self.blank_ipv6 } else { &mut self.blank_ipv4 }
    }

    /// Keeps a socket that has asked this server, if it is good for another question.
    fn put(&mut self, socket: Watched, server: SocketAddr) {
        if connect_unspec(socket.get_ref()).is_err() {
            return;
        }
        if self.connected.iter().any(|other| other.server == server) {
            return self.put_blank(socket, server);
        }
        if socket.get_ref().connect(&server.into()).is_ok() {
            self.connected.push(Connected { socket, server, since: Instant::now() });
        }
        if self.connected.len() > MOST_CONNECTED {
            let Connected { socket, server, .. } = self.connected.remove(0);
            self.dissolve(socket, server);
        }
    }

    fn dissolve(&mut self, socket: Watched, server: SocketAddr) {
        if connect_unspec(socket.get_ref()).is_ok() {
            self.put_blank(socket, server);
        }
    }

    fn put_blank(&mut self, socket: Watched, server: SocketAddr) {
        let blank = self.blank(Domain::for_address(server));
        if blank.len() < MOST && is_unheard(&socket) {
            blank.push(socket);
        }
    }

    /// One that is connected to this server, to which nobody has sent anything by now.
    fn take_connected(&mut self, server: SocketAddr) -> Option<Watched> {
        let place = self.connected.iter().position(|other| other.server == server)?;
        let Connected { socket, since, .. } = self.connected.remove(place);
        if since.elapsed() > LONGEST {
            self.dissolve(socket, server);
            return None;
        }
        is_unheard(&socket).then_some(socket)
    }

    /// Any that can be connected to this server.
    fn take_blank(&mut self, server: SocketAddr) -> Option<Watched> {
        self.blank(Domain::for_address(server)).pop()
    }
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// While there is one, its thread keeps sockets. They belong to the runtime in which it was made.
#[derive(Debug)]
pub(crate) struct PoolGuard(());

impl PoolGuard {
    /// Begins to keep them.
    pub(crate) fn new() -> Self {
        KEPT.set(Some(Kept::default()));
        Self(())
    }

    /// Does work that is more urgent than to make sockets ready for the next question, which is done after it.
    pub(crate) fn with_deferred_returns<T>(&self, work: impl FnOnce() -> T) -> T {
        let busy = |is_busy| KEPT.with_borrow_mut(|kept| kept.as_mut().map(|kept| kept.is_busy = is_busy));
        busy(true);
        let done = work();
        busy(false);
        KEPT.with_borrow_mut(|kept| {
            let Some(kept) = kept else { return };
            let mut used = std::mem::take(&mut kept.used);
            used.drain(..).for_each(|(socket, server)| kept.put(socket, server));
            kept.used = used;
        });
        done
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        drop(KEPT.take());
    }
}

/// A socket that is connected to a server.
///
/// # Errors
///
/// None is to be had, or nothing leads to the server.
pub(in crate::upstream) fn connected(server: SocketAddr) -> io::Result<Watched> {
    let kept =
        |take: fn(&mut Kept, SocketAddr) -> Option<Watched>| KEPT.with_borrow_mut(|kept| take(kept.as_mut()?, server));
    if let Some(socket) = kept(Kept::take_connected) {
        return Ok(socket);
    }
    let socket = kept(Kept::take_blank).map_or_else(|| open(Domain::for_address(server)), Ok)?;
    // That picks a port as well, as binding it first would.
    socket.get_ref().connect(&server.into())?;
    Ok(socket)
}

#[allow(deprecated, reason = "what is said of it concerns descriptors that may change; a socket keeps its own")]
fn open(domain: Domain) -> io::Result<Watched> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
    // Only for reading: that each new socket can be written to would wake the runtime once more for each question.
    AsyncFd::with_interest(socket, Interest::READABLE | Interest::ERROR).map(Arc::new)
}

/// Takes back a socket that [`connected`] gave to this thread for a question to this server: what may still come to it is not
/// for anybody any more.
pub(in crate::upstream) fn take_back(socket: Watched, server: SocketAddr) {
    // A thread that ends keeps nothing.
    let _ = KEPT.try_with(|kept| match &mut *kept.borrow_mut() {
        Some(kept) if kept.is_busy => kept.used.push((socket, server)),
        Some(kept) => kept.put(socket, server),
        None => {}
    });
}

/// Whether nothing waits to be read, not even a report. What was sent before a question must not be read as the answer to it.
fn is_unheard(socket: &Watched) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 1];
    let is_empty = recv(socket.get_ref(), &mut buffer, RecvFlags::DONTWAIT)
        .is_err_and(|error| io::Error::from(error).kind() == ErrorKind::WouldBlock);
    heard_out(socket);
    is_empty
}

/// Nothing more is expected. That says so to the runtime, which would otherwise try to read before it waits; a packet that
/// comes is told of anew.
pub(in crate::upstream) fn heard_out(socket: &Watched) {
    for heard in [Interest::READABLE, Interest::ERROR] {
        let _ = socket.try_io(heard, |_| io::Result::<()>::Err(ErrorKind::WouldBlock.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn server() -> (UdpSocket, SocketAddr) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        (server, address)
    }

    fn local(socket: &Watched) -> SocketAddr {
        socket.get_ref().local_addr().unwrap().as_socket().unwrap()
    }

    /// How many are connected, and how many are blank.
    fn kept() -> (usize, usize) {
        KEPT.with_borrow(|kept| {
            kept.as_ref().map_or((0, 0), |kept| (kept.connected.len(), kept.blank_ipv4.len() + kept.blank_ipv6.len()))
        })
    }

    /// The port from which the next question to this server leaves, if that is known by now.
    fn known_port(server: SocketAddr) -> Option<u16> {
        KEPT.with_borrow(|kept| {
            let kept = kept.as_ref()?.connected.iter().find(|other| other.server == server)?;
            Some(local(&kept.socket).port())
        })
    }

    fn age(by: Duration) {
        KEPT.with_borrow_mut(|kept| {
            kept.iter_mut().flat_map(|kept| &mut kept.connected).for_each(|other| other.since -= by);
        });
    }

    #[tokio::test]
    async fn a_socket_that_was_used_gets_a_new_port_before_the_next_question() {
        let (server, address) = server();
        let _keeper = PoolGuard::new();
        let mut ports = std::collections::HashSet::new();
        for _ in 0..64 {
            let expected = known_port(address);
            let socket = connected(address).unwrap();
            let from = local(&socket);
            assert!(expected.is_none_or(|port| port == from.port()));
            ports.insert(from.port());
            socket.get_ref().send(b"?").unwrap();
            take_back(socket, address);
            assert_eq!(kept(), (1, 0), "always the same one");
            UdpSocket::bind(from).unwrap();
            assert_eq!(server.recv_from(&mut [0]).unwrap(), (1, from));
        }
        assert!(ports.len() > 56, "{ports:?}");
    }

    #[tokio::test]
    async fn one_is_connected_for_each_of_the_last_servers_and_the_others_have_no_port() {
        let servers: Vec<_> = (0..MOST_CONNECTED + 2).map(|_| server()).collect();
        let _keeper = PoolGuard::new();
        let mut used = Vec::new();
        for (_, address) in &servers {
            used.extend([connected(*address).unwrap(), connected(*address).unwrap()].map(|socket| (socket, *address)));
        }
        let ports: Vec<_> = used.iter().map(|(socket, _)| local(socket)).collect();
        used.into_iter().for_each(|(socket, address)| take_back(socket, address));
        assert_eq!(kept(), (MOST_CONNECTED, MOST_CONNECTED + 4));
        ports.into_iter().for_each(|port| drop(UdpSocket::bind(port).unwrap()));
        let known = servers.iter().map(|(_, address)| known_port(*address).is_some());
        assert!(known.eq((0..servers.len()).map(|server| server >= 2)), "the first ones asked are forgotten");
    }

    #[tokio::test]
    async fn a_port_that_has_been_open_for_long_is_not_used() {
        let (_server, address) = server();
        let _keeper = PoolGuard::new();
        take_back(connected(address).unwrap(), address);
        let known = known_port(address).unwrap();
        age(LONGEST + Duration::from_millis(1));
        let socket = connected(address).unwrap();
        assert_eq!(kept(), (0, 0), "it was made blank and serves again");
        assert_ne!(local(&socket).port(), known);
    }

    #[tokio::test]
    async fn it_hears_the_next_server_and_not_the_one_before() {
        let ((first, first_address), (second, second_address)) = (server(), server());
        let _keeper = PoolGuard::new();
        let socket = connected(first_address).unwrap();
        Kept::default().dissolve(socket.clone(), first_address);
        socket.get_ref().connect(&second_address.into()).unwrap();
        first.send_to(b"1", local(&socket)).unwrap();
        second.send_to(b"2", local(&socket)).unwrap();
        let mut ready = socket.readable().await.unwrap();
        let mut buffer = [0; 1];
        let read = ready.try_io(|socket| Ok(recv(socket, &mut buffer, RecvFlags::empty())?));
        assert_eq!(read.unwrap().unwrap().1, 1);
        assert_eq!(buffer, *b"2");
    }

    #[tokio::test]
    async fn what_is_sent_before_a_question_is_not_read_as_its_answer() {
        let (server, address) = server();
        let _keeper = PoolGuard::new();
        let use_once = || take_back(connected(address).unwrap(), address);
        let next_is_unheard = || is_unheard(&connected(address).unwrap());
        // After the question before.
        let late = || {
            let socket = connected(address).unwrap();
            server.send_to(b"late", local(&socket)).unwrap();
            socket
        };
        take_back(late(), address);
        assert!(next_is_unheard());
        // While the socket waits for the next one.
        use_once();
        server.send_to(b"early", (address.ip(), known_port(address).unwrap())).unwrap();
        assert!(next_is_unheard());
        // What was left in one is not kept beside another one either, nor is a report that nobody listens.
        let heard = late();
        use_once();
        take_back(heard, address);
        assert_eq!(kept(), (1, 0));
        drop(server);
        let reported = connected(address).unwrap();
        reported.get_ref().send(b"?").unwrap();
        use_once();
        take_back(reported, address);
        assert_eq!(kept(), (1, 0));
    }

    #[tokio::test]
    async fn they_are_made_ready_after_urgent_work_bounded_and_only_for_a_keeper() {
        let (_server, address) = server();
        take_back(connected(address).unwrap(), address);
        assert_eq!(kept(), (0, 0));
        let keeper = PoolGuard::new();
        let from = keeper.with_deferred_returns(|| {
            let sockets: Vec<_> = (0..MOST + 10).map(|_| connected(address).unwrap()).collect();
            let from = local(&sockets[0]);
            sockets.into_iter().for_each(|socket| take_back(socket, address));
            assert_eq!(kept(), (0, 0));
            UdpSocket::bind(from).unwrap_err();
            from
        });
        assert_eq!(kept(), (1, MOST));
        UdpSocket::bind(from).unwrap();
        drop(keeper);
        assert_eq!(kept(), (0, 0));
    }
}

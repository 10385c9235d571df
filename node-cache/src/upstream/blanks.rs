//! Sockets without a port, kept for the next question to whomever. A socket whose connection is dissolved has no port any more
//! and receives nothing; when it is connected again the kernel picks a new port at random, as it does for a new one. That takes
//! a quarter of what it takes to open, watch and close a socket for each question.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::net::{RecvFlags, connect_unspec, recv};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most of a family that a thread keeps.
const MOST: usize = 256;

/// A socket for datagrams whose readiness the thread's runtime looks after. What is shared is kept together with it.
pub(super) type Watched = Arc<AsyncFd<Socket>>;

/// What a thread keeps.
#[derive(Default)]
struct Kept {
    ipv4: Vec<Watched>,
    ipv6: Vec<Watched>,
    /// Those that are still connected, while there is more urgent work.
    used: Vec<(Watched, Domain)>,
    is_busy: bool,
}

impl Kept {
    fn of(&mut self, domain: Domain) -> &mut Vec<Watched> {
        if domain == Domain::IPV6 { &mut self.ipv6 } else { &mut self.ipv4 }
    }

    fn put(&mut self, socket: Watched, domain: Domain) {
        let kept = self.of(domain);
        if kept.len() < MOST && is_blank(&socket) {
            kept.push(socket);
        }
    }
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// While there is one, its thread keeps blank sockets. They belong to the runtime in which it was made.
#[derive(Debug)]
pub(crate) struct Keeper(());

impl Keeper {
    /// Begins to keep them.
    pub(crate) fn new() -> Self {
        KEPT.set(Some(Kept::default()));
        Self(())
    }

    /// Does work that is more urgent than to make sockets blank, which is done after it.
    pub(crate) fn before_tidying<T>(&self, work: impl FnOnce() -> T) -> T {
        let busy = |is_busy| KEPT.with_borrow_mut(|kept| kept.as_mut().map(|kept| kept.is_busy = is_busy));
        busy(true);
        let done = work();
        busy(false);
        KEPT.with_borrow_mut(|kept| {
            let Some(kept) = kept else { return };
            let mut used = std::mem::take(&mut kept.used);
            used.drain(..).for_each(|(socket, domain)| kept.put(socket, domain));
            kept.used = used;
        });
        done
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(KEPT.take());
    }
}

/// A socket that is connected to a server.
///
/// # Errors
///
/// None is to be had, or nothing leads to the server.
pub(super) fn connected(server: SocketAddr) -> io::Result<Watched> {
    let domain = Domain::for_address(server);
    let blank = KEPT.with_borrow_mut(|kept| kept.as_mut()?.of(domain).pop());
    let socket = blank.map_or_else(|| open(domain), Ok)?;
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

/// Takes back a socket of this family that [`connected`] gave to this thread: what may still come to it is not for anybody any
/// more.
pub(super) fn take_back(socket: Watched, domain: Domain) {
    // A thread that ends keeps nothing.
    let _ = KEPT.try_with(|kept| match &mut *kept.borrow_mut() {
        Some(kept) if kept.is_busy => kept.used.push((socket, domain)),
        Some(kept) => kept.put(socket, domain),
        None => {}
    });
}

/// Takes the port away from a socket; whether it is as good as new. One in which something waits to be read is not: what was
/// sent to it as an answer to one question must not be read as the answer to another one.
fn is_blank(socket: &Watched) -> bool {
    let dissolved = connect_unspec(socket.get_ref()).is_ok();
    let mut buffer = [MaybeUninit::uninit(); 1];
    let is_empty = recv(socket.get_ref(), &mut buffer, RecvFlags::DONTWAIT)
        .is_err_and(|error| io::Error::from(error).kind() == ErrorKind::WouldBlock);
    heard_out(socket);
    dissolved && is_empty
}

/// Nothing more is expected. That says so to the runtime, which would otherwise try to read before it waits; a packet that
/// comes is told of anew.
pub(super) fn heard_out(socket: &Watched) {
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

    fn kept() -> usize {
        KEPT.with_borrow(|kept| kept.as_ref().map_or(0, |kept| kept.ipv4.len() + kept.ipv6.len()))
    }

    #[tokio::test]
    async fn a_socket_that_was_used_has_no_port_and_gets_a_new_one() {
        let (server, address) = server();
        let _keeper = Keeper::new();
        let mut ports = std::collections::HashSet::new();
        for _ in 0..64 {
            let socket = connected(address).unwrap();
            let from = local(&socket);
            ports.insert(from.port());
            socket.get_ref().send(b"?").unwrap();
            take_back(socket, Domain::IPV4);
            assert_eq!(kept(), 1, "always the same one");
            UdpSocket::bind(from).unwrap();
            assert_eq!(server.recv_from(&mut [0]).unwrap(), (1, from));
        }
        assert!(ports.len() > 56, "{ports:?}");
    }

    #[tokio::test]
    async fn it_hears_the_next_server_and_not_the_one_before() {
        let ((first, first_address), (second, second_address)) = (server(), server());
        let _keeper = Keeper::new();
        let socket = connected(first_address).unwrap();
        take_back(socket, Domain::IPV4);
        let socket = connected(second_address).unwrap();
        first.send_to(b"1", local(&socket)).unwrap();
        second.send_to(b"2", local(&socket)).unwrap();
        let mut ready = socket.readable().await.unwrap();
        let mut buffer = [0; 1];
        let read = ready.try_io(|socket| Ok(recv(socket, &mut buffer, RecvFlags::empty())?));
        assert_eq!(read.unwrap().unwrap().1, 1);
        assert_eq!(buffer, *b"2");
    }

    #[tokio::test]
    async fn a_socket_with_something_to_read_is_not_used_again() {
        let (server, address) = server();
        let _keeper = Keeper::new();
        let socket = connected(address).unwrap();
        server.send_to(b"late", local(&socket)).unwrap();
        take_back(socket, Domain::IPV4);
        assert_eq!(kept(), 0);
        // The same with a report: nobody listens there.
        drop(server);
        let socket = connected(address).unwrap();
        socket.get_ref().send(b"?").unwrap();
        take_back(socket, Domain::IPV4);
        assert_eq!(kept(), 0);
    }

    #[tokio::test]
    async fn they_are_made_blank_after_urgent_work_bounded_and_only_for_a_keeper() {
        let (_server, address) = server();
        take_back(connected(address).unwrap(), Domain::IPV4);
        assert_eq!(kept(), 0);
        let keeper = Keeper::new();
        let from = keeper.before_tidying(|| {
            let sockets: Vec<_> = (0..MOST + 10).map(|_| connected(address).unwrap()).collect();
            let from = local(&sockets[0]);
            sockets.into_iter().for_each(|socket| take_back(socket, Domain::IPV4));
            assert_eq!(kept(), 0);
            UdpSocket::bind(from).unwrap_err();
            from
        });
        assert_eq!(kept(), MOST);
        UdpSocket::bind(from).unwrap();
        drop(keeper);
        assert_eq!(kept(), 0);
    }
}

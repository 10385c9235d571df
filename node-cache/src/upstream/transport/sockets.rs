//! The UDP sockets from which one server is asked. Each is connected, so that nobody else's packets reach it, and has a port
//! that the kernel has picked at random. One question at a time has it.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::socket_pool::{self, Watched};

/// The most that wait for the next question, for one server.
const MOST_OF_ONE: usize = 64;
/// The most of them for all servers of a process.
const MOST: usize = 1024;
/// Questions after which one is closed.
const MOST_QUESTIONS: u32 = 256;
/// And the age. What a network on the way remembers of a flow (connection tracking) outlives a server that was replaced only
/// for as long as the flow goes on.
const LONGEST: Duration = Duration::from_secs(10);

/// Those of the process that wait for the next question.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// How many questions a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortPolicy {
    /// One: whoever forges an answer has to guess the port anew each time. For all servers that are not our own.
    Fresh,
    /// Many, one after the other, for some seconds.
    Reuse,
}

/// The sockets of one server.
#[derive(Debug)]
pub(crate) struct Sockets {
    server: SocketAddr,
    usage: PortPolicy,
    waiting: Mutex<Vec<Waiting>>,
}

/// A socket and what it has been through. Its port is given up when it is dropped.
#[derive(Debug)]
pub(in crate::upstream) struct PooledSocket {
    socket: Watched,
    server: SocketAddr,
    /// Its readiness is told to the runtime of this one.
    thread: ThreadId,
    at: Instant,
    questions: u32,
    /// Once it was, the runtime takes its end that writes for closed, for ever.
    is_reported: bool,
}

impl Drop for PooledSocket {
    fn drop(&mut self) {
        if !self.is_reported && self.thread == std::thread::current().id() {
            socket_pool::take_back(self.socket.clone(), self.server);
        }
    }
}

/// A socket that waits for the next question, and its place among all those of the process.
#[derive(Debug)]
struct Waiting(Option<PooledSocket>);

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sockets {
    /// For questions to this server; none is open yet.
    pub(crate) const fn new(server: SocketAddr, usage: PortPolicy) -> Self {
        Self { server, usage, waiting: Mutex::new(Vec::new()) }
    }

    /// Whom they lead to.
    pub(in crate::upstream) const fn server(&self) -> SocketAddr {
        self.server
    }

    /// A socket for one question.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// None is to be had, or nothing leads to the server.
    pub(in crate::upstream) fn acquire(&self) -> io::Result<PooledSocket> {
        let thread = std::thread::current().id();
        let mut opened = match self.any_of(thread) {
            Some(opened) => opened,
            None => {
                let socket = socket_pool::connected(self.server)?;
                PooledSocket {
                    socket,
                    server: self.server,
                    thread,
                    at: Instant::now(),
                    questions: 0,
                    is_reported: false,
                }
            }
        };
        opened.questions += 1;
        Ok(opened)
    }

    /// Takes back a socket whose question was answered: it may serve for another one.
    pub(in crate::upstream) fn release(&self, opened: PooledSocket) {
        if self.usage == PortPolicy::Fresh || opened.is_worn() {
            return;
        }
        socket_pool::heard_out(&opened.socket);
        let place = Waiting(Some(opened));
        let others = WAITING.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.waiting();
        if others < MOST && waiting.len() < MOST_OF_ONE {
            waiting.push(place);
        }
    }

    /// Closes those that have become old.
    pub(in crate::upstream) fn close_old(&self, now: Instant) {
        let is_young = |opened: &PooledSocket| now.saturating_duration_since(opened.at) < LONGEST;
        self.waiting().retain(|waiting| waiting.0.as_ref().is_some_and(is_young));
    }

    /// Closes those that wait: what the server was may no longer be there.
    pub(in crate::upstream) fn close_all(&self) {
        self.waiting().clear();
    }

    /// One of those that wait for questions of a thread, picked at random.
    fn any_of(&self, thread: ThreadId) -> Option<PooledSocket> {
        if self.usage == PortPolicy::Fresh {
            return None;
        }
        let mut waiting = self.waiting();
        let is_usable = |waiting: &Waiting| waiting.0.as_ref().is_some_and(|opened| opened.thread == thread);
        let usable = waiting.iter().filter(|waiting| is_usable(waiting)).count();
        let chosen = if usable > 1 { rand::random_range(0..usable) } else { 0 };
        let place = waiting.iter().enumerate().filter(|(_, waiting)| is_usable(waiting)).nth(chosen)?.0;
        waiting.swap_remove(place).0.take()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PooledSocket {
    /// Where it leads from.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(in crate::upstream) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()?.as_socket().ok_or_else(|| ErrorKind::Unsupported.into())
    }

    /// Sends the question. A report that nobody listens, about what was sent before, does not keep it from being sent.
    ///
    /// # Errors
    ///
    /// It cannot be sent.
    pub(in crate::upstream) fn send(&self, message: &[u8]) -> io::Result<()> {
        // The kernel tells what it has heard of a socket instead of sending, once.
        let socket = self.socket.get_ref();
        if socket.send(message).is_err() {
            socket.send(message)?;
        }
        Ok(())
    }

    /// Waits for a packet or the first report, and says which of them there may be.
    ///
    /// # Errors
    ///
    /// The runtime ends.
    pub(in crate::upstream) fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Interest>> {
        if let Poll::Ready(readable) = self.socket.poll_read_ready(context) {
            return Poll::Ready(readable.map(|_| Interest::READABLE));
        }
        if !self.is_reported {
            // The runtime takes an error alone for the end of what can be written.
            drop(ready!(self.socket.poll_write_ready(context))?);
            self.is_reported = true;
            return Poll::Ready(Ok(Interest::ERROR));
        }
        Poll::Pending
    }

    /// Reads what was heard.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none yet; others report what became of packets that were sent.
    pub(in crate::upstream) fn read<'b>(
        &self,
        heard: Interest,
        buffer: &'b mut [MaybeUninit<u8>],
    ) -> io::Result<&'b [u8]> {
        let ((packet, _), _) = self.socket.try_io(heard, |socket| Ok(recv(socket, buffer, RecvFlags::DONTWAIT)?))?;
        Ok(packet)
    }

    fn is_worn(&self) -> bool {
        self.is_reported || self.questions >= MOST_QUESTIONS || self.at.elapsed() >= LONGEST
    }
}

#[cfg(test)]
mod tests;

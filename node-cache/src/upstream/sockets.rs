//! The UDP sockets from which one server is asked. Each is connected, so that nobody else's packets reach it, and has a port
//! that the kernel has picked at random. One question at a time has it.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::blanks::{self, Watched};

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
pub(crate) enum Use {
    /// One: whoever forges an answer has to guess the port anew each time. For all servers that are not our own.
    Once,
    /// Many, one after the other, for some seconds.
    Again,
}

/// The sockets of one server.
#[derive(Debug)]
pub(crate) struct Sockets {
    server: SocketAddr,
    usage: Use,
    waiting: Mutex<Vec<Waiting>>,
}

/// A socket and what it has been through.
#[derive(Debug)]
struct Opened {
    socket: Watched,
    /// Its readiness is told to the runtime of this one.
    thread: ThreadId,
    at: Instant,
    questions: u32,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.thread == std::thread::current().id() {
            blanks::take_back(self.socket.clone());
        }
    }
}

/// A socket that waits for the next question, and its place among all those of the process.
#[derive(Debug)]
struct Waiting(Option<Opened>);

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sockets {
    /// For questions to this server; none is open yet.
    pub(crate) const fn new(server: SocketAddr, usage: Use) -> Self {
        Self { server, usage, waiting: Mutex::new(Vec::new()) }
    }

    /// A socket for one question. Its port is given up when what is given is dropped.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// None is to be had, or nothing leads to the server.
    pub(super) fn lend(&self) -> io::Result<Lent<'_>> {
        let thread = std::thread::current().id();
        let opened = match self.any_of(thread) {
            Some(opened) => opened,
            None => Opened { socket: blanks::connected(self.server)?, thread, at: Instant::now(), questions: 0 },
        };
        Ok(Lent { sockets: self, opened })
    }

    /// Closes those that have become old.
    pub(super) fn close_old(&self, now: Instant) {
        let is_young = |opened: &Opened| now.saturating_duration_since(opened.at) < LONGEST;
        self.waiting().retain(|waiting| waiting.0.as_ref().is_some_and(is_young));
    }

    /// Closes those that wait: what the server was may no longer be there.
    pub(super) fn close_all(&self) {
        self.waiting().clear();
    }

    /// One of those that wait for questions of a thread, picked at random.
    fn any_of(&self, thread: ThreadId) -> Option<Opened> {
        if self.usage == Use::Once {
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

/// A socket for one question.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    sockets: &'a Sockets,
    opened: Opened,
}

impl Lent<'_> {
    /// Whom it leads to.
    pub(super) const fn server(&self) -> SocketAddr {
        self.sockets.server
    }

    /// Where it leads from.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.opened.socket.get_ref().local_addr()?.as_socket().ok_or_else(|| ErrorKind::Unsupported.into())
    }

    /// Sends the question. A report that nobody listens, about what was sent before, does not keep it from being sent.
    ///
    /// # Errors
    ///
    /// It cannot be sent.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        // The kernel tells what it has heard of a socket instead of sending, once.
        let socket = self.opened.socket.get_ref();
        if socket.send(message).is_err() {
            socket.send(message)?;
        }
        Ok(())
    }

    /// Waits for a packet or a report, and says which of them there may be.
    ///
    /// # Errors
    ///
    /// The runtime ends.
    pub(super) async fn heard(&self) -> io::Result<Interest> {
        let ready = self.opened.socket.ready(Interest::READABLE | Interest::ERROR).await?.ready();
        Ok(if ready.is_readable() { Interest::READABLE } else { Interest::ERROR })
    }

    /// Reads what was heard.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none yet; others report what became of packets that were sent.
    pub(super) fn read<'b>(&self, heard: Interest, buffer: &'b mut [MaybeUninit<u8>]) -> io::Result<&'b [u8]> {
        let ((packet, _), _) =
            self.opened.socket.try_io(heard, |socket| Ok(recv(socket, buffer, RecvFlags::DONTWAIT)?))?;
        Ok(packet)
    }

    /// The question was answered: the socket may serve for another one.
    pub(super) fn give_back(mut self) {
        self.opened.questions += 1;
        let Self { sockets, opened } = self;
        let is_worn = opened.questions >= MOST_QUESTIONS || opened.at.elapsed() >= LONGEST;
        if sockets.usage == Use::Once || is_worn {
            return;
        }
        blanks::heard_out(&opened.socket);
        let place = Waiting(Some(opened));
        let others = WAITING.fetch_add(1, Ordering::Relaxed);
        let mut waiting = sockets.waiting();
        if others < MOST && waiting.len() < MOST_OF_ONE {
            waiting.push(place);
        }
    }
}

#[cfg(test)]
mod tests;

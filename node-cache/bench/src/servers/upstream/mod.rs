//! The server that everybody forwards to: it answers whatever it is asked at once, and counts what it was asked.

mod answer;

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};

pub(crate) use answer::{Said, answer_to};

use crate::servers::process::stay_on;

/// Datagrams of one system call.
const BATCH: usize = 32;
/// Room for datagrams that wait, in bytes.
const ROOM: usize = 8 << 20;
/// How often a thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// What it says to a name, in wire form and lower case without its final zero, and a type.
pub(crate) type Knowledge = fn(&[u8], u16) -> Said;

/// A server that answers when its caller lets it ([`Self::serve`]), or on a thread of its own ([`Self::on`]).
pub(crate) struct Upstream {
    socket: UdpSocket,
    knowledge: Knowledge,
    asked: Arc<AtomicU64>,
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; 1472]>,
    answers: Vec<Vec<u8>>,
}

impl Upstream {
    pub(crate) fn new(knowledge: Knowledge) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = setsockopt(&socket, RcvBufForce, &ROOM);
        socket.set_read_timeout(Some(LOOK)).unwrap();
        Self::at(socket, knowledge, Arc::default())
    }

    fn at(socket: UdpSocket, knowledge: Knowledge, asked: Arc<AtomicU64>) -> Self {
        Self {
            socket,
            knowledge,
            asked,
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; 1472]; BATCH],
            answers: (0..BATCH).map(|_| Vec::with_capacity(1472)).collect(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// How many questions it has read.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Answers what waits.
    pub(crate) fn serve(&mut self) {
        while self.batch(MsgFlags::MSG_DONTWAIT) == BATCH {}
    }

    /// Answers on a thread of its own, on this processor.
    pub(crate) fn on(self, processor: usize) -> Running {
        let address = self.address();
        let Self { socket, knowledge, asked, .. } = self;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            stay_on(processor);
            let mut upstream = Self::at(socket, knowledge, asked);
            while !stopped.load(Ordering::Relaxed) {
                upstream.batch(MsgFlags::MSG_WAITFORONE);
            }
        });
        Running { address, stop, thread: Some(thread) }
    }

    /// Reads some questions and answers them; how many it read.
    fn batch(&mut self, flags: MsgFlags) -> usize {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = self.socket.as_raw_fd();
        let Ok(received) = recvmmsg(fd, &mut self.incoming, &mut slices, flags, None) else { return 0 };
        let received: Vec<(usize, Option<SockaddrIn>)> =
            received.map(|message| (message.bytes, message.address)).collect();
        let rows = self.buffers.iter().zip(&mut self.answers).zip(&received);
        let mut clients = Vec::with_capacity(BATCH);
        let mut written = Vec::with_capacity(BATCH);
        for ((question, answer), (length, client)) in rows {
            if answer_to(&question[..*length], self.knowledge, answer) {
                clients.push(*client);
                written.push([IoSlice::new(answer)]);
            }
        }
        self.asked.fetch_add(written.len() as u64, Ordering::Relaxed);
        if !written.is_empty() {
            let _ = sendmmsg(fd, &mut self.outgoing, &written, &clients, [], MsgFlags::empty());
        }
        received.len()
    }
}

/// A thread that answers, until it is dropped.
pub(crate) struct Running {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! Upstream of all servers that forward: answers every query at once, and counts queries.

mod response;

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};

pub(crate) use response::{Answer, write as write_response};

use crate::host::processors::pin_current_thread;

/// Datagrams per system call.
const BATCH: usize = 32;
/// Receive buffer of the socket, in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Interval at which a thread checks whether it has to stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// TTL of [`four_addresses`] in seconds, longer than any part takes.
const TTL: u32 = 3600;
const A: u16 = 1;

/// Returns the answer to a name, in wire form and lower case without its final zero, and a type.
pub(crate) type ZoneData = fn(&[u8], u16) -> Answer;

/// Zone data of most parts: four addresses for each name, and no data of other types.
pub(crate) fn four_addresses(_name: &[u8], rtype: u16) -> Answer {
    if rtype == A { Answer::Addresses(4, TTL) } else { Answer::NoData(1, TTL) }
}

/// Upstream that answers when its caller lets it ([`Self::serve_pending`]), or on a thread ([`Self::spawn`]).
pub(crate) struct Upstream {
    socket: UdpSocket,
    zone_data: ZoneData,
    queries: Arc<AtomicU64>,
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; 1472]>,
    responses: Vec<Vec<u8>>,
}

impl Upstream {
    pub(crate) fn new(zone_data: ZoneData) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
        socket.set_read_timeout(Some(STOP_CHECK_INTERVAL)).unwrap();
        Self::from_socket(socket, zone_data, Arc::default())
    }

    fn from_socket(socket: UdpSocket, zone_data: ZoneData, queries: Arc<AtomicU64>) -> Self {
        Self {
            socket,
            zone_data,
            queries,
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; 1472]; BATCH],
            responses: (0..BATCH).map(|_| Vec::with_capacity(1472)).collect(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Returns the number of queries that it has answered.
    pub(crate) fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// Answers the queries that wait, without waiting for others.
    pub(crate) fn serve_pending(&mut self) {
        while self.serve_batch(MsgFlags::MSG_DONTWAIT) == BATCH {}
    }

    /// Starts a thread on a processor that answers queries.
    pub(crate) fn spawn(self, processor: usize) -> UpstreamThread {
        let address = self.address();
        let Self { socket, zone_data, queries, .. } = self;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            pin_current_thread(processor);
            let mut upstream = Self::from_socket(socket, zone_data, queries);
            while !is_stopped.load(Ordering::Relaxed) {
                upstream.serve_batch(MsgFlags::MSG_WAITFORONE);
            }
        });
        UpstreamThread { address, stop, thread: Some(thread) }
    }

    /// Reads a batch of queries and answers them; returns how many datagrams it read.
    fn serve_batch(&mut self, flags: MsgFlags) -> usize {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = self.socket.as_raw_fd();
        let Ok(received) = recvmmsg(fd, &mut self.incoming, &mut slices, flags, None) else { return 0 };
        let received: Vec<(usize, Option<SockaddrIn>)> =
            received.map(|message| (message.bytes, message.address)).collect();
        let rows = self.buffers.iter().zip(&mut self.responses).zip(&received);
        let mut clients = Vec::with_capacity(BATCH);
        let mut responses = Vec::with_capacity(BATCH);
        for ((query, response), (length, client)) in rows {
            if response::write(&query[..*length], self.zone_data, response) {
                clients.push(*client);
                responses.push([IoSlice::new(response)]);
            }
        }
        self.queries.fetch_add(responses.len() as u64, Ordering::Relaxed);
        if !responses.is_empty() {
            let _ = sendmmsg(fd, &mut self.outgoing, &responses, &clients, [], MsgFlags::empty());
        }
        received.len()
    }
}

/// Thread of an upstream. Dropping it stops the thread.
pub(crate) struct UpstreamThread {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UpstreamThread {
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UpstreamThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

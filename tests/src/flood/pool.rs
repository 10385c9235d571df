//! Sockets of a flood, and the queries that are pending on them.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::tally::Tally;
use crate::dns::{Query, encode, is_response_to, udp_socket};

/// Number of sockets.
const SOCKET_COUNT: usize = 256;
/// Queries after which a socket is replaced, as soon as none of them is pending: fresh ports all the time, without one
/// flow for each query in the tables of connection tracking.
const QUERIES_PER_SOCKET: u32 = 16;

/// Sockets, used in turn.
pub(super) struct Pool {
    flows: Vec<Flow>,
    next: usize,
    /// Queries in the order of sending; those answered are skipped.
    sent: VecDeque<(Instant, usize, u16)>,
    pending: usize,
}

struct Flow {
    server: SocketAddr,
    socket: UdpSocket,
    queries: u32,
    pending: HashMap<u16, Query>,
}

impl Flow {
    fn new(server: SocketAddr) -> io::Result<Self> {
        Ok(Self { server, socket: new_socket(server)?, queries: 0, pending: HashMap::new() })
    }
}

fn new_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp_socket(server)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Pool {
    pub(super) fn open(servers: &[SocketAddr]) -> io::Result<Self> {
        let flows: io::Result<_> = servers.iter().cycle().take(SOCKET_COUNT).map(|server| Flow::new(*server)).collect();
        Ok(Self { flows: flows?, next: 0, sent: VecDeque::new(), pending: 0 })
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending > 0
    }

    /// Sends a query. A query that the kernel does not accept is lost like any other.
    pub(super) fn send(&mut self, query: Query, now: Instant, tally: &mut Tally) -> io::Result<()> {
        let number = self.next;
        self.next = (number + 1) % self.flows.len();
        let flow = &mut self.flows[number];
        if flow.queries >= QUERIES_PER_SOCKET && flow.pending.is_empty() {
            flow.socket = new_socket(flow.server)?;
            flow.queries = 0;
        }
        let mut id: u16 = rand::random();
        while flow.pending.contains_key(&id) {
            id = rand::random();
        }
        let packet = encode(&query, id)?;
        let mut result = flow.socket.send(&packet);
        if matches!(&result, Err(error) if error.kind() == ErrorKind::ConnectionRefused) {
            // The error belongs to an earlier query; this one was not sent yet.
            tally.refused();
            result = flow.socket.send(&packet);
        }
        if result.is_err() {
            tally.refused();
        }
        flow.queries += 1;
        flow.pending.insert(id, query);
        self.pending += 1;
        self.sent.push_back((now, number, id));
        tally.sent();
        Ok(())
    }

    /// Counts the queries as lost that were sent before `deadline` and are still pending.
    pub(super) fn expire_sent_before(&mut self, deadline: Option<Instant>, tally: &mut Tally) {
        while let Some((sent_at, number, id)) = self.sent.front().copied() {
            let pending = self.flows[number].pending.contains_key(&id);
            if pending && deadline.is_none_or(|deadline| sent_at > deadline) {
                return;
            }
            self.sent.pop_front();
            if pending {
                self.flows[number].pending.remove(&id);
                self.pending -= 1;
                tally.lost(sent_at);
            }
        }
    }

    /// Waits for responses, at most this long, and receives all that are there.
    pub(super) fn receive(&mut self, wait: Duration, tally: &mut Tally) -> io::Result<()> {
        let mut fds: Vec<_> = self.flows.iter().map(|flow| PollFd::new(&flow.socket, PollFlags::IN)).collect();
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.min(Duration::from_millis(100)).subsec_nanos()) };
        match poll(&mut fds, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (flow, _) in self.flows.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            self.pending -= flow.receive_all(tally);
        }
        Ok(())
    }
}

impl Flow {
    /// Receives what has arrived; returns the number of queries that it answers.
    fn receive_all(&mut self, tally: &mut Tally) -> usize {
        let mut buffer = [0; 4096];
        let mut answered = 0;
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(size) => match self.match_response(&buffer[..size]) {
                    Some(message) => {
                        tally.answered(message.metadata.response_code);
                        answered += 1;
                    }
                    None => tally.unexpected(),
                },
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => tally.refused(),
                Err(_) => return answered,
            }
        }
    }

    fn match_response(&mut self, packet: &[u8]) -> Option<Message> {
        let message = Message::from_vec(packet).ok()?;
        let id = message.metadata.id;
        let query = self.pending.get(&id)?;
        if !is_response_to(&message, query, id) {
            return None;
        }
        self.pending.remove(&id);
        Some(message)
    }
}

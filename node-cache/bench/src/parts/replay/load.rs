//! Clients: queries at planned times, one try each, whatever becomes of earlier ones (open loop).

use std::io::{IoSliceMut, Result};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer::{Content, dead_domain, judge};
use super::measure::{GOOD, count};
use super::network::{CLIENTS_PER_SERVER, client_address};
use super::outcome::{Outcome, Query};

/// A right answer is in time until then.
const IN_TIME: Duration = Duration::from_secs(1);
/// A query without a response until then had none.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// Time after its planned one from which on a query counts as sent late by the client itself. What gathers until then
/// is less than the burst that limiters allow a source.
const LATE_AFTER: Duration = Duration::from_millis(25);
/// Pause between two rounds of sending and receiving.
const ROUND_PAUSE: Duration = Duration::from_millis(1);
/// Receive buffer of a socket, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Datagrams per system call.
const BATCH: usize = 32;
/// OPT record of each query, by which servers may say that an answer is stale.
const EDNS: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

/// Result of a load.
#[derive(Debug, Default)]
pub(super) struct LoadReport {
    /// All queries in the order of their planned times.
    pub(super) queries: Vec<Query>,
    /// Queries that the client itself sent late.
    pub(super) sent_late: usize,
}

/// Socket of a client, with the number of the query that each ID was last used for; `u32::MAX` for none.
struct Lane {
    socket: UdpSocket,
    pending: Vec<u32>,
}

/// Clients of all servers.
struct Clients<'a> {
    lanes: Vec<Lane>,
    trace: &'a [Vec<u8>],
    rate: u32,
    started: Instant,
    incoming: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; 1472]>,
    packet: Vec<u8>,
    report: LoadReport,
}

/// Sends the trace at a rate, from `started` on, to all servers in turn, and waits for the last responses. Ends early
/// where too few answers are right in the control window, which is given in milliseconds from the start.
pub(super) fn run(
    servers: &[SocketAddr],
    trace: &[Vec<u8>],
    rate: u32,
    started: Instant,
    control: Range<u32>,
) -> LoadReport {
    let lane = |number: usize| Lane::open(number / servers.len(), servers[number % servers.len()]);
    let lanes = (0..servers.len() * CLIENTS_PER_SERVER).map(lane);
    let mut clients = Clients {
        lanes: lanes.collect::<Result<_>>().unwrap(),
        trace,
        rate,
        started,
        incoming: MultiHeaders::preallocate(BATCH, None),
        buffers: vec![[0; 1472]; BATCH],
        packet: Vec::new(),
        report: LoadReport { queries: Vec::with_capacity(trace.len()), sent_late: 0 },
    };
    let last = planned(trace.len(), rate);
    let control_known = Duration::from_millis(control.end.into()) + IN_TIME;
    let mut is_control_checked = false;
    while started.elapsed() < last + SILENT_AFTER {
        clients.send_due();
        clients.receive_all();
        if !is_control_checked && started.elapsed() > control_known {
            is_control_checked = true;
            if count(&clients.report.queries, control.start, control.end).right_share() < GOOD {
                break;
            }
        }
        std::thread::sleep(ROUND_PAUSE);
    }
    clients.report
}

/// Waits until a server answers a query, at most this long; returns whether it does.
pub(super) fn wait_until_answered(server: SocketAddr, time_limit: Duration) -> bool {
    let deadline = Instant::now() + time_limit;
    let lane = Lane::open(0, server).unwrap();
    lane.socket.set_nonblocking(false).unwrap();
    lane.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut query = Vec::new();
    crate::load::queries::append(b"\x05ready\x07example", 1, &mut query);
    while Instant::now() < deadline {
        let mut response = [0; 1472];
        let _ = lane.socket.send(&query);
        match lane.socket.recv(&mut response) {
            Ok(length) if length > 12 && response[3] & 0xf == 0 => return true,
            Ok(_) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => {}
        }
    }
    false
}

/// Returns the planned time of a query.
fn planned(number: usize, rate: u32) -> Duration {
    Duration::from_micros(number as u64 * 1_000_000 / u64::from(rate))
}

/// Returns the name of a query in wire form, without its final zero, and its type.
fn question(query: &[u8]) -> (&[u8], u16) {
    let end = query.len() - 5;
    (&query[12..end], u16::from_be_bytes([query[end + 1], query[end + 2]]))
}

/// Returns the end of a query from its response and the time since its planned one.
fn outcome(content: Content, time: Duration) -> Outcome {
    match content {
        _ if time > SILENT_AFTER => Outcome::Silent,
        Content::Right if time > IN_TIME => Outcome::Late,
        Content::Right => Outcome::Right,
        Content::Stale => Outcome::Stale,
        Content::Wrong => Outcome::Wrong,
        Content::Failure => Outcome::Failure,
    }
}

impl Lane {
    /// Opens a socket of a client that queries a server.
    fn open(client: usize, server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((client_address(client).as_str(), 0))?;
        let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, pending: vec![u32::MAX; 1 << 16] })
    }
}

impl Clients<'_> {
    fn send_due(&mut self) {
        loop {
            let number = self.report.queries.len();
            let planned = planned(number, self.rate);
            let Some(late) = self.started.elapsed().checked_sub(planned) else { return };
            let Some(query) = self.trace.get(number) else { return };
            let is_answerable = dead_domain(question(query).0).is_none();
            let planned_ms = planned.as_millis() as u32;
            self.report.queries.push(Query { planned_ms, is_answerable, outcome: Outcome::Silent });
            self.report.sent_late += usize::from(late > LATE_AFTER);
            let lanes = self.lanes.len();
            let lane = &mut self.lanes[number % lanes];
            // IDs of a socket come round after more than the time of a query.
            let id = (number / lanes) as u16;
            self.packet.clear();
            self.packet.extend_from_slice(query);
            self.packet[..2].copy_from_slice(&id.to_be_bytes());
            self.packet[11] = 1;
            self.packet.extend_from_slice(&EDNS);
            lane.pending[usize::from(id)] = number as u32;
            // What the kernel does not take is lost, as on a network.
            let _ = lane.socket.send(&self.packet);
        }
    }

    fn receive_all(&mut self) {
        for lane in self.lanes_with_responses() {
            while self.receive(lane) == BATCH {}
        }
    }

    fn lanes_with_responses(&self) -> Vec<usize> {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut sockets: Vec<PollFd<'_>> =
            self.lanes.iter().map(|lane| PollFd::new(&lane.socket, PollFlags::IN)).collect();
        let _ = poll(&mut sockets, Some(&AT_ONCE));
        (0..sockets.len()).filter(|lane| !sockets[*lane].revents().is_empty()).collect()
    }

    /// Reads a batch of responses from a socket; returns how many there were.
    fn receive(&mut self, lane: usize) -> usize {
        let lane = &mut self.lanes[lane];
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = lane.socket.as_raw_fd();
        let Ok(received) = recvmmsg(fd, &mut self.incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None) else {
            return 0;
        };
        let lengths: Vec<usize> = received.map(|message| message.bytes).collect();
        let now = self.started.elapsed();
        for (response, length) in self.buffers.iter().zip(&lengths).filter(|(_, length)| **length >= 12) {
            let id = usize::from(u16::from_be_bytes([response[0], response[1]]));
            let number = std::mem::replace(&mut lane.pending[id], u32::MAX) as usize;
            let Some(query) = self.report.queries.get_mut(number) else { continue };
            let (name, rtype) = question(&self.trace[number]);
            let time = now.saturating_sub(planned(number, self.rate));
            query.outcome = outcome(judge(&response[..*length], name, rtype), time);
        }
        lengths.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Content, Outcome, outcome, planned, question};
    use crate::load::queries;

    #[test]
    fn queries_are_planned_evenly() {
        assert_eq!([0, 1, 8_000].map(|number| planned(number, 8_000).as_micros()), [0, 125, 1_000_000]);
    }

    #[test]
    fn a_right_answer_counts_within_a_second_and_none_after_five() {
        let after = |content, ms| outcome(content, Duration::from_millis(ms));
        assert_eq!(after(Content::Right, 1_000), Outcome::Right);
        assert_eq!(after(Content::Right, 1_001), Outcome::Late);
        assert_eq!(after(Content::Failure, 2_800), Outcome::Failure);
        assert_eq!(after(Content::Right, 5_001), Outcome::Silent);
    }

    #[test]
    fn a_question_is_read_from_its_query() {
        let mut query = Vec::new();
        queries::append(b"\x01a\x07example", 28, &mut query);
        assert_eq!(question(&query), (&b"\x01a\x07example"[..], 28));
    }
}

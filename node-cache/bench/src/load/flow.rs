//! Load on one server: in a closed loop with a window of queries in flight, or in an open loop at planned times.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};

use super::plan::{Outcome, Plan};

/// Datagrams per system call.
const BATCH: usize = 32;
/// Receive buffer of a socket, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// When no response came for so long, queries in flight are lost.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Nanoseconds after its planned time from which on a query counts as sent late by the client itself.
const LATE_AFTER: u64 = 100_000;
/// From this window on, queries of a closed loop are sent when half of it is free, as many clients together would.
const MIN_BURST_WINDOW: usize = 16;

/// Writes the query of a number. The caller overwrites its ID.
pub(crate) type QuerySource<'a> = dyn FnMut(u64, &mut Vec<u8>) + 'a;

/// Socket of a client, with its queries in flight.
struct Lane {
    socket: UdpSocket,
    next_id: u16,
    /// Planned time of the query in flight with each ID, in nanoseconds and never 0; 0 where none is in flight.
    planned: Vec<u64>,
}

/// Client with several sockets, all to one server.
pub(crate) struct Flow {
    lanes: Vec<Lane>,
    next_lane: usize,
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    queries: Vec<Vec<u8>>,
    buffers: Vec<[u8; 1472]>,
}

/// Progress of a plan.
pub(crate) struct Progress {
    plan: Plan,
    started: Instant,
    /// Time of the last response, or of the first query in flight, in nanoseconds.
    last_response: u64,
    in_flight: usize,
    outcome: Outcome,
}

impl Progress {
    pub(crate) fn new(plan: Plan) -> Self {
        let latencies = Vec::with_capacity(plan.queries.min(4 << 20) as usize);
        let outcome = Outcome { latencies, ..Outcome::default() };
        Self { plan, started: Instant::now(), last_response: 0, in_flight: 0, outcome }
    }

    pub(crate) const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns nanoseconds since the plan was begun, never 0.
    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64 + 1
    }

    /// Returns the planned time of a query, which in a closed loop is now.
    fn planned_time(&self, number: u64, now: u64) -> u64 {
        self.plan.rate.map_or(now, |rate| 1 + (number as f64 * 1e9 / rate) as u64)
    }

    /// Returns how many queries are to be sent now, at most a batch.
    fn due(&self, now: u64) -> usize {
        if now > self.plan.time_limit.as_nanos() as u64 {
            return 0;
        }
        let free = self.plan.window.saturating_sub(self.in_flight);
        if self.plan.rate.is_none() && self.plan.window >= MIN_BURST_WINDOW && free < self.plan.window / 2 {
            return 0;
        }
        let planned = self.plan.rate.map_or(u64::MAX, |rate| 1 + (now as f64 * rate / 1e9) as u64);
        (planned.min(self.plan.queries).saturating_sub(self.outcome.sent)).min(free.min(BATCH) as u64) as usize
    }

    fn is_done(&self, now: u64) -> bool {
        let all_sent = self.outcome.sent >= self.plan.queries || now > self.plan.time_limit.as_nanos() as u64;
        all_sent && self.in_flight == 0
    }
}

impl Flow {
    /// Creates a client at 127.0.0.1.
    pub(crate) fn new(server: SocketAddr, sockets: usize) -> Self {
        Self::from("127.0.0.1", server, sockets)
    }

    /// Creates a client at this address.
    pub(crate) fn from(source: &str, server: SocketAddr, sockets: usize) -> Self {
        let lane = || {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
            socket.connect(server).unwrap();
            socket.set_nonblocking(true).unwrap();
            Lane { socket, next_id: 0, planned: vec![0; 1 << 16] }
        };
        Self {
            lanes: (0..sockets).map(|_| lane()).collect(),
            next_lane: 0,
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            queries: (0..BATCH).map(|_| Vec::with_capacity(512)).collect(),
            buffers: vec![[0; 1472]; BATCH],
        }
    }

    /// Carries out a plan; calls `meanwhile` in every round, such as for an upstream on the same thread.
    pub(crate) fn run(&mut self, plan: Plan, source: &mut QuerySource<'_>, mut meanwhile: impl FnMut()) -> Outcome {
        let mut progress = Progress::new(plan);
        while !self.step(&mut progress, source) {
            meanwhile();
        }
        progress.outcome
    }

    /// Sends queries at a rate until the server answers one of them without a failure; returns whether it did in time.
    pub(crate) fn run_until_answered(
        &mut self,
        rate: f64,
        time_limit: Duration,
        source: &mut QuerySource<'_>,
        mut meanwhile: impl FnMut(),
    ) -> bool {
        let plan = Plan { queries: 1 << 20, time_limit, rate: Some(rate), window: usize::MAX };
        let mut progress = Progress::new(plan);
        while !self.step(&mut progress, source) {
            meanwhile();
            if progress.outcome.answered > progress.outcome.failed {
                return true;
            }
        }
        false
    }

    /// Sends the queries that are due and reads responses, without waiting; returns whether the plan is done.
    pub(crate) fn step(&mut self, progress: &mut Progress, source: &mut QuerySource<'_>) -> bool {
        let now = progress.now();
        let due = progress.due(now);
        if due > 0 {
            self.send(progress, due, now, source);
        }
        for lane in 0..self.lanes.len() {
            self.receive(progress, lane);
        }
        let now = progress.now();
        if progress.in_flight > 0 && now - progress.last_response > RESPONSE_TIMEOUT.as_nanos() as u64 {
            progress.outcome.lost += progress.in_flight as u64;
            progress.in_flight = 0;
            self.lanes.iter_mut().for_each(|lane| lane.planned.fill(0));
        }
        let is_done = progress.is_done(now);
        if is_done {
            progress.outcome.seconds = now as f64 / 1e9;
        }
        is_done
    }

    /// Sends a number of queries from the next socket.
    fn send(&mut self, progress: &mut Progress, count: usize, now: u64, source: &mut QuerySource<'_>) {
        let current = self.next_lane;
        self.next_lane = (current + 1) % self.lanes.len();
        let lane = &mut self.lanes[current];
        let first = progress.outcome.sent;
        for (row, query) in self.queries.iter_mut().take(count).enumerate() {
            query.clear();
            source(first + row as u64, query);
            query[..2].copy_from_slice(&lane.next_id.wrapping_add(row as u16).to_be_bytes());
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.queries.iter().take(count).map(|query| [IoSlice::new(query)]).collect();
        let no_addresses = [None::<SockaddrIn>; BATCH];
        let fd = lane.socket.as_raw_fd();
        let sent = sendmmsg(fd, &mut self.outgoing, &slices, &no_addresses[..count], [], MsgFlags::empty())
            .map_or(0, Iterator::count);
        for row in 0..sent as u64 {
            let planned = progress.planned_time(first + row, now);
            progress.outcome.late += u64::from(now - planned.min(now) > LATE_AFTER);
            let previous = std::mem::replace(&mut lane.planned[usize::from(lane.next_id)], planned);
            lane.next_id = lane.next_id.wrapping_add(1);
            // IDs have wrapped around: the previous query with this ID had no response.
            if previous == 0 { progress.in_flight += 1 } else { progress.outcome.lost += 1 }
        }
        progress.outcome.sent += sent as u64;
        progress.last_response = progress.last_response.max(if progress.in_flight == sent { now } else { 0 });
    }

    /// Reads a batch of responses from a socket.
    fn receive(&mut self, progress: &mut Progress, lane: usize) {
        let lane = &mut self.lanes[lane];
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = lane.socket.as_raw_fd();
        let Ok(received) = recvmmsg(fd, &mut self.incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None) else { return };
        let received = received.filter(|message| message.bytes >= 12).count();
        let now = progress.now();
        for response in &self.buffers[..received] {
            let id = u16::from_be_bytes([response[0], response[1]]);
            let planned = std::mem::take(&mut lane.planned[usize::from(id)]);
            if planned == 0 {
                continue;
            }
            progress.last_response = now;
            progress.in_flight -= 1;
            progress.outcome.answered += 1;
            progress.outcome.failed += u64::from(!matches!(response[3] & 0xf, 0 | 3));
            if progress.outcome.latencies.len() < progress.outcome.latencies.capacity() {
                progress.outcome.latencies.push(u32::try_from(now.saturating_sub(planned)).unwrap_or(u32::MAX));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Plan, Progress};

    fn progress(rate: Option<f64>, window: usize) -> Progress {
        Progress::new(Plan { queries: 100, time_limit: Duration::from_secs(1), rate, window })
    }

    #[test]
    fn an_open_loop_sends_at_planned_times_whatever_is_in_flight() {
        let mut progress = progress(Some(1000.0), usize::MAX);
        progress.outcome.sent = 3;
        progress.in_flight = 3;
        assert_eq!([1, 3_000_001, 10_000_000].map(|now| progress.due(now)), [0, 1, 8]);
        assert_eq!(progress.planned_time(5, 9), 5_000_001);
        assert_eq!(progress.due(1_000_000_001), 0, "after its time limit");
    }

    #[test]
    fn a_closed_loop_with_a_wide_window_sends_half_of_it_at_once() {
        let mut progress = progress(None, 64);
        assert_eq!(progress.due(1), 32, "no more than a batch");
        progress.in_flight = 33;
        assert_eq!(progress.due(1), 0);
        progress.in_flight = 32;
        assert_eq!((progress.due(1), progress.planned_time(5, 9)), (32, 9));
        progress.outcome.sent = 98;
        assert_eq!((progress.due(1), progress.is_done(1)), (2, false));
    }
}

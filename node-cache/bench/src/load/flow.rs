//! Questions to one server: as fast as it answers with so many under way, or at times that were planned beforehand.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};

/// Datagrams of one system call.
const BATCH: usize = 32;
/// Room for answers that wait, in bytes.
const ROOM: usize = 4 << 20;
/// When nothing was heard for so long, what is under way is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// A question that leaves so much later than planned was held up by the client itself.
const LATE: u64 = 100_000;
/// From this window on questions are sent when half of it is free, as many clients together would.
const WIDE: usize = 16;

/// Writes the question of a number. Its ID is written over.
pub(crate) type Source<'a> = dyn FnMut(u64, &mut Vec<u8>) + 'a;

/// What shall be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) questions: u64,
    /// No question is sent after that.
    pub(crate) limit: Duration,
    /// Questions a second; none: whenever another one has been answered.
    pub(crate) rate: Option<f64>,
    /// The most that may be under way.
    pub(crate) window: usize,
}

/// What came of it. Times are nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Answers that say neither what there is nor that there is nothing.
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    /// Questions that left later than they should have, because of the client.
    pub(crate) late: u64,
    /// From the planned time of each question to its answer.
    pub(crate) latencies: Vec<u32>,
    pub(crate) seconds: f64,
}

impl Outcome {
    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// The latency that so many of a thousand are not above, in microseconds.
    pub(crate) fn per_mille(&mut self, share: usize) -> f64 {
        if self.latencies.is_empty() {
            return f64::NAN;
        }
        let place = (self.latencies.len() * share / 1000).min(self.latencies.len() - 1);
        let (_, value, _) = self.latencies.select_nth_unstable(place);
        f64::from(*value) / 1000.0
    }
}

/// The median of this percentile of some turns, in microseconds.
pub(crate) fn median_per_mille<'a>(turns: impl IntoIterator<Item = &'a Outcome>, share: usize) -> f64 {
    let mut of_turns: Vec<f64> = turns.into_iter().map(|turn| turn.clone().per_mille(share)).collect();
    of_turns.sort_by(f64::total_cmp);
    of_turns.get(of_turns.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The latencies of all of them, and nothing else.
pub(crate) fn together<'a>(turns: impl IntoIterator<Item = &'a Outcome>) -> Outcome {
    let latencies = turns.into_iter().flat_map(|turn| turn.latencies.iter().copied()).collect();
    Outcome { latencies, ..Outcome::default() }
}

struct Lane {
    socket: UdpSocket,
    id: u16,
    /// When the question with this ID was to be sent, in nanoseconds and never zero; zero: it is not under way.
    planned: Vec<u64>,
}

/// Sockets that ask one server.
pub(crate) struct Flow {
    lanes: Vec<Lane>,
    next: usize,
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    questions: Vec<Vec<u8>>,
    buffers: Vec<[u8; 1472]>,
}

/// A plan that is being carried out.
pub(crate) struct Course {
    plan: Plan,
    started: Instant,
    heard: u64,
    under_way: usize,
    outcome: Outcome,
}

impl Course {
    pub(crate) fn new(plan: Plan) -> Self {
        let latencies = Vec::with_capacity(plan.questions.min(4 << 20) as usize);
        let outcome = Outcome { latencies, ..Outcome::default() };
        Self { plan, started: Instant::now(), heard: 0, under_way: 0, outcome }
    }

    /// Nanoseconds since it began, never zero.
    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64 + 1
    }

    fn planned(&self, number: u64, now: u64) -> u64 {
        self.plan.rate.map_or(now, |rate| 1 + (number as f64 * 1e9 / rate) as u64)
    }

    /// How many questions are to be sent now.
    fn due(&self, now: u64) -> usize {
        if now > self.plan.limit.as_nanos() as u64 {
            return 0;
        }
        let free = self.plan.window.saturating_sub(self.under_way);
        if self.plan.rate.is_none() && self.plan.window >= WIDE && free < self.plan.window / 2 {
            return 0;
        }
        let planned = self.plan.rate.map_or(u64::MAX, |rate| 1 + (now as f64 * rate / 1e9) as u64);
        (planned.min(self.plan.questions).saturating_sub(self.outcome.sent)).min(free.min(BATCH) as u64) as usize
    }

    fn is_over(&self, now: u64) -> bool {
        let all = self.outcome.sent >= self.plan.questions || now > self.plan.limit.as_nanos() as u64;
        all && self.under_way == 0
    }

    pub(crate) const fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

impl Flow {
    pub(crate) fn new(server: SocketAddr, sockets: usize) -> Self {
        Self::from("127.0.0.1", server, sockets)
    }

    /// The same from this address.
    pub(crate) fn from(source: &str, server: SocketAddr, sockets: usize) -> Self {
        let lane = || {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            let _ = setsockopt(&socket, RcvBufForce, &ROOM);
            socket.connect(server).unwrap();
            socket.set_nonblocking(true).unwrap();
            Lane { socket, id: 0, planned: vec![0; 1 << 16] }
        };
        Self {
            lanes: (0..sockets).map(|_| lane()).collect(),
            next: 0,
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            questions: (0..BATCH).map(|_| Vec::with_capacity(512)).collect(),
            buffers: vec![[0; 1472]; BATCH],
        }
    }

    /// Carries out a plan; `meanwhile` is called all the time.
    pub(crate) fn ask(&mut self, plan: Plan, source: &mut Source<'_>, mut meanwhile: impl FnMut()) -> Outcome {
        let mut course = Course::new(plan);
        while !self.step(&mut course, source) {
            meanwhile();
        }
        course.outcome
    }

    /// Asks one question after the other, at this rate, until the first of them is answered; whether one was.
    pub(crate) fn until_answered(
        &mut self,
        rate: f64,
        limit: Duration,
        source: &mut Source<'_>,
        mut meanwhile: impl FnMut(),
    ) -> bool {
        let mut course = Course::new(Plan { questions: 1 << 20, limit, rate: Some(rate), window: usize::MAX });
        while !self.step(&mut course, source) {
            meanwhile();
            if course.outcome.answered > course.outcome.failed {
                return true;
            }
        }
        false
    }

    /// Sends what is to be sent now and reads what has come; whether that was all.
    pub(crate) fn step(&mut self, course: &mut Course, source: &mut Source<'_>) -> bool {
        let now = course.now();
        let due = course.due(now);
        if due > 0 {
            self.send(course, due, now, source);
        }
        for lane in 0..self.lanes.len() {
            self.receive(course, lane);
        }
        let now = course.now();
        if course.under_way > 0 && now - course.heard > PATIENCE.as_nanos() as u64 {
            course.outcome.lost += course.under_way as u64;
            course.under_way = 0;
            self.lanes.iter_mut().for_each(|lane| lane.planned.fill(0));
        }
        let over = course.is_over(now);
        if over {
            course.outcome.seconds = now as f64 / 1e9;
        }
        over
    }

    fn send(&mut self, course: &mut Course, number: usize, now: u64, source: &mut Source<'_>) {
        let next = self.next;
        self.next = (next + 1) % self.lanes.len();
        let lane = &mut self.lanes[next];
        let first = course.outcome.sent;
        for (row, question) in self.questions.iter_mut().take(number).enumerate() {
            question.clear();
            source(first + row as u64, question);
            question[..2].copy_from_slice(&lane.id.wrapping_add(row as u16).to_be_bytes());
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.questions.iter().take(number).map(|question| [IoSlice::new(question)]).collect();
        let nobody = [None::<SockaddrIn>; BATCH];
        let fd = lane.socket.as_raw_fd();
        let flags = MsgFlags::empty();
        let sent = sendmmsg(fd, &mut self.outgoing, &slices, &nobody[..number], [], flags).map_or(0, Iterator::count);
        for row in 0..sent as u64 {
            let planned = course.planned(first + row, now);
            course.outcome.late += u64::from(now - planned.min(now) > LATE);
            let before = std::mem::replace(&mut lane.planned[usize::from(lane.id)], planned);
            lane.id = lane.id.wrapping_add(1);
            // Its ID has come round, and it was not answered.
            if before == 0 { course.under_way += 1 } else { course.outcome.lost += 1 }
        }
        course.outcome.sent += sent as u64;
        course.heard = course.heard.max(if course.under_way == sent { now } else { 0 });
    }

    fn receive(&mut self, course: &mut Course, lane: usize) {
        let lane = &mut self.lanes[lane];
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = lane.socket.as_raw_fd();
        let Ok(received) = recvmmsg(fd, &mut self.incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None) else { return };
        let received = received.filter(|message| message.bytes >= 12).count();
        let now = course.now();
        for answer in &self.buffers[..received] {
            let id = u16::from_be_bytes([answer[0], answer[1]]);
            let planned = std::mem::take(&mut lane.planned[usize::from(id)]);
            if planned == 0 {
                continue;
            }
            course.heard = now;
            course.under_way -= 1;
            course.outcome.answered += 1;
            course.outcome.failed += u64::from(!matches!(answer[3] & 0xf, 0 | 3));
            if course.outcome.latencies.len() < course.outcome.latencies.capacity() {
                course.outcome.latencies.push(u32::try_from(now.saturating_sub(planned)).unwrap_or(u32::MAX));
            }
        }
    }
}

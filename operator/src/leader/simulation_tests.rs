//! Simulation of elections: processes that stand still, die, stop and start in front of an API server that is slow,
//! loses responses and carries out requests late.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::leader::election::{Election, Request, Response, Timing, VersionedRecord};

const TIMING: Timing = Timing::OPERATOR;
const STEP: Duration = Duration::from_millis(20);

/// Generator of pseudo-random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns whether something happens that happens once in `count` times.
    fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// API server with one Lease.
#[derive(Default)]
struct Server {
    lease: Option<VersionedRecord>,
    version: u64,
}

impl Server {
    fn carry_out(&mut self, request: &Request) -> Response {
        let record = match (request, &self.lease) {
            (Request::Read, Some(lease)) => return Response::Lease(lease.clone()),
            (Request::Read | Request::Replace { .. }, None) => return Response::Missing,
            (Request::Create(_), Some(_)) => return Response::Conflict,
            (Request::Create(record), None) => record,
            (Request::Replace { resource_version, .. }, Some(lease)) if lease.resource_version != *resource_version => {
                return Response::Conflict;
            }
            (Request::Replace { record, .. }, Some(_)) => record,
        };
        // As the API server does: a write without a change is none.
        if self.lease.as_ref().is_none_or(|lease| lease.record != *record) {
            self.version += 1;
        }
        let lease = VersionedRecord { record: record.clone(), resource_version: self.version.to_string() };
        self.lease = Some(lease.clone());
        Response::Lease(lease)
    }
}

/// Behavior of the API server for a while.
#[derive(Clone, Copy, Debug)]
enum Weather {
    Fair,
    Slow,
    /// Half of the requests get no response, though they are carried out.
    Lossy,
    Away,
}

/// Request on its way.
struct Flight {
    request: Request,
    start: Instant,
    /// When the API server carries it out; `None` when it never does.
    arrival: Option<Instant>,
    /// When the response is here; `None` when it gets lost.
    return_: Option<Instant>,
    response: Option<Response>,
    process: usize,
}

struct Process {
    election: Election,
    /// Difference of its wall clock, up to a day.
    skew: SignedDuration,
    /// End of its standstill.
    paused_until: Instant,
    /// End of the time in which it is dead.
    dead_until: Option<Instant>,
    /// Whether it waits for a response.
    waits: bool,
    /// Whether it releases the Lease.
    releases: bool,
    names: u32,
}

struct Simulation {
    random: Random,
    start: Instant,
    now: Instant,
    server: Server,
    flights: VecDeque<Flight>,
    processes: Vec<Process>,
    weather: Weather,
    /// Last time at which each process could have written.
    last_write: Vec<Option<Instant>>,
    /// Whether the Lease was released since the last change of the leader.
    was_released: bool,
    leader: Option<usize>,
    changes: Vec<(Instant, usize)>,
}

impl Simulation {
    fn new(seed: u64, processes: usize) -> Self {
        let start = Instant::now();
        let mut random = Random(seed);
        let processes: Vec<Process> = (0..processes)
            .map(|index| Process {
                election: Election::new(format!("process-{index}-0"), TIMING, start + random.millis(0, 2_000)),
                skew: SignedDuration::from_secs(random.below(172_800) as i64 - 86_400),
                paused_until: start,
                dead_until: None,
                waits: false,
                releases: false,
                names: 0,
            })
            .collect();
        let last_write = vec![None; processes.len()];
        Self {
            random,
            start,
            now: start,
            server: Server::default(),
            flights: VecDeque::new(),
            processes,
            weather: Weather::Fair,
            last_write,
            was_released: false,
            leader: None,
            changes: Vec::new(),
        }
    }

    fn wall_clock(&self, process: usize) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.now - self.start).unwrap();
        // Also a clock that stands: seconds are all it has.
        let time = Timestamp::from_second(1_700_000_000 + elapsed.as_secs()).unwrap();
        time + self.processes[process].skew
    }

    fn step(&mut self) {
        self.now += STEP;
        self.carry_out();
        for process in 0..self.processes.len() {
            self.run_process(process);
        }
        self.check();
    }

    /// Lets the API server carry out what has arrived.
    fn carry_out(&mut self) {
        for flight in &mut self.flights {
            if flight.response.is_none() && flight.arrival.is_some_and(|arrival| arrival <= self.now) {
                let response = self.server.carry_out(&flight.request);
                let is_release = matches!(&flight.request, Request::Replace { record, .. } if record.holder.is_none());
                if is_release && matches!(response, Response::Lease(_)) {
                    self.was_released = true;
                }
                flight.response = Some(response);
            }
        }
    }

    fn run_process(&mut self, index: usize) {
        let now = self.now;
        let process = &mut self.processes[index];
        if let Some(dead_until) = process.dead_until {
            if now < dead_until {
                return;
            }
            // Another process of another name starts in its place.
            process.names += 1;
            process.election = Election::new(format!("process-{index}-{}", process.names), TIMING, now);
            (process.dead_until, process.waits, process.releases) = (None, false, false);
        }
        if now < process.paused_until {
            return;
        }
        process.election.stand(now);
        let own = self.flights.iter().position(|flight| flight.process == index);
        if process.waits {
            let position = own.unwrap();
            let flight = &self.flights[position];
            // Who was still looks at the response first, then at the clock.
            let response = match flight.return_ {
                Some(return_) if return_ <= now => flight.response.clone(),
                _ if now - flight.start >= TIMING.request_limit => Some(Response::Failed),
                _ => return,
            };
            let Some(response) = response else { return };
            let flight = self.flights.remove(position).unwrap();
            process.waits = false;
            process.election.finish(&flight.request, response.clone(), flight.start, now);
            if response == Response::Failed && flight.response.is_none() && flight.arrival.is_some() {
                // It is carried out without anybody who waits for it.
                self.flights.push_back(Flight { process: usize::MAX, ..flight });
            }
            return;
        }
        let mut request = None;
        if process.releases {
            request = process.election.release(Timestamp::UNIX_EPOCH);
            // Its writes are over before the request starts.
            process.dead_until = Some(now + self.random.millis(500, 20_000));
        } else if process.election.next_start() <= now {
            process.waits = true;
            let wall_clock = self.wall_clock(index);
            request = Some(self.processes[index].election.request(wall_clock));
        }
        if let Some(request) = request {
            let flight = self.fly(index, request);
            self.flights.push_back(flight);
        }
    }

    fn fly(&mut self, process: usize, request: Request) -> Flight {
        let process_waits = self.processes[process].waits;
        let random = &mut self.random;
        let (there, back) = match self.weather {
            Weather::Fair => (random.millis(1, 40), Some(random.millis(1, 40))),
            Weather::Slow => (random.millis(1, 3_000), Some(random.millis(1, 1_500))),
            Weather::Lossy => (random.millis(1, 6_000), random.once_in(2).then(|| random.millis(1, 500))),
            Weather::Away => (random.millis(2_000, 30_000), None),
        };
        let arrives = !matches!(self.weather, Weather::Away) || random.once_in(2);
        let arrival = arrives.then(|| self.now + there);
        let return_ = back.and_then(|back| arrival.map(|arrival| arrival + back));
        let process = if process_waits { process } else { usize::MAX };
        Flight { request, start: self.now, arrival, return_, response: None, process }
    }

    fn may_write(&self, process: usize) -> bool {
        let Process { election, paused_until, dead_until, releases, .. } = &self.processes[process];
        let is_running = dead_until.is_none() && *paused_until <= self.now && !releases;
        is_running && election.write_end().is_some_and(|end| self.now < end)
    }

    /// Checks that one process at most may write, and that five seconds without a leader are before one who was not
    /// given the Lease.
    fn check(&mut self) {
        let leaders: Vec<usize> = (0..self.processes.len()).filter(|process| self.may_write(*process)).collect();
        assert!(leaders.len() <= 1, "{leaders:?} may write at {:?}", self.now - self.start);
        let Some(leader) = leaders.first().copied() else { return };
        let before = self.last_write.iter().enumerate().filter(|(other, _)| *other != leader);
        if let Some(last) = before.filter_map(|(_, last)| *last).max()
            && self.leader != Some(leader)
            && !self.was_released
        {
            assert!(self.now - last >= Duration::from_secs(5), "{:?} after the last write", self.now - last);
        }
        if self.leader != Some(leader) {
            self.changes.push((self.now, leader));
            (self.leader, self.was_released) = (Some(leader), false);
        }
        self.last_write[leader] = Some(self.now);
    }

    /// Lets something happen, now and then.
    fn disturb(&mut self) {
        if self.random.once_in(500) {
            self.weather = match self.random.below(6) {
                0..=2 => Weather::Fair,
                3 => Weather::Slow,
                4 => Weather::Lossy,
                _ => Weather::Away,
            };
        }
        for index in 0..self.processes.len() {
            let (now, random) = (self.now, &mut self.random);
            let process = &mut self.processes[index];
            if process.dead_until.is_some() || now < process.paused_until {
                continue;
            }
            match random.below(5_000) {
                0..=4 => process.paused_until = now + random.millis(1_000, 40_000),
                5 => process.dead_until = Some(now + random.millis(500, 20_000)),
                6 if !process.waits => process.releases = true,
                7 => process.skew = SignedDuration::from_secs(random.below(172_800) as i64 - 86_400),
                _ => continue,
            }
            if process.dead_until.is_some() && process.waits {
                for flight in self.flights.iter_mut().filter(|flight| flight.process == index) {
                    flight.process = usize::MAX;
                }
            }
        }
        let is_over =
            |flight: &Flight| flight.process == usize::MAX && (flight.response.is_some() || flight.arrival.is_none());
        self.flights.retain(|flight| !is_over(flight));
    }

    /// Runs for a while without disturbance and returns how long it took to a leader.
    fn settle(&mut self) -> Duration {
        self.weather = Weather::Fair;
        let start = self.now;
        while self.now - start < Duration::from_secs(120) {
            if (0..self.processes.len()).any(|process| self.may_write(process)) {
                return self.now - start;
            }
            self.step();
        }
        panic!("no leader");
    }
}

#[test]
fn two_processes_never_may_write_at_the_same_time_whatever_happens() {
    let mut changes = 0;
    for seed in 0..800 {
        let mut simulation = Simulation::new(seed, 2 + (seed % 2) as usize);
        for _ in 0..9_000 {
            simulation.disturb();
            simulation.step();
        }
        simulation.settle();
        changes += simulation.changes.len();
    }
    assert!(changes > 1_000, "only {changes} changes of the leader were tried");
}

#[test]
fn a_killed_leader_is_followed_within_twenty_seconds_and_one_that_stops_within_two() {
    for seed in 0..100 {
        for is_killed in [true, false] {
            let mut simulation = Simulation::new(seed, 3);
            simulation.settle();
            for _ in 0..(100 + seed * 3) {
                simulation.step();
            }
            let leader = simulation.leader.unwrap();
            while simulation.processes[leader].waits {
                simulation.step();
            }
            if is_killed {
                simulation.processes[leader].dead_until = Some(simulation.now + Duration::from_secs(300));
            } else {
                simulation.processes[leader].releases = true;
            }
            let duration = simulation.settle();
            let limit = Duration::from_secs(if is_killed { 20 } else { 2 });
            assert!(duration > Duration::ZERO || is_killed, "{seed}");
            assert!(duration <= limit, "{duration:?} with seed {seed}");
        }
    }
}

#[test]
fn a_process_that_stood_still_for_twenty_seconds_does_not_write_afterwards() {
    for seed in 0..50 {
        let mut simulation = Simulation::new(seed, 2);
        simulation.settle();
        for _ in 0..seed * 7 {
            simulation.step();
        }
        let leader = simulation.leader.unwrap();
        simulation.processes[leader].paused_until = simulation.now + Duration::from_secs(20);
        for _ in 0..1_500 {
            simulation.step();
        }
        assert_eq!(simulation.changes.len(), 2, "the other has followed and leads on");
        assert!(!simulation.may_write(leader));
    }
}

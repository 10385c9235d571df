//! Run of a scenario: events in a wheel of milliseconds.

use std::time::{Duration, Instant};

use super::super::cells::OVERDUE;
use super::super::detector::ControlPort;
use super::super::state::{Cause, State};
use super::limiter::{Kind, Limiter, UNANSWERED_TIME};
use super::process::{Process, Query, Second};
use super::random::Random;
use super::world::{Fault, POPULAR, Span, World};

const WHEEL: usize = 8192;
const TICK_MILLIS: u64 = 100;
/// Milliseconds after which a query is sent again or elsewhere, and after which its client gets SERVFAIL.
const RETRY_AFTER: u64 = 350;
const CLOSE_AFTER: u64 = 2_800;
/// Milliseconds after a tick was due at which a process counts as starved.
const LATE_TICK: u64 = 20;

/// Scenario of a run. Times are in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) length: u64,
    pub(super) processes: u64,
    /// Queries a second of each process.
    pub(super) rate: f64,
    pub(super) limiter: Option<Kind>,
    /// Whether each process has a limiter of its own.
    pub(super) is_limited_each: bool,
    pub(super) spans: Vec<Span>,
    pub(super) has_fallback: bool,
    pub(super) block_list_share: f64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            length: 60_000,
            processes: 1,
            rate: 100.0,
            limiter: None,
            is_limited_each: true,
            spans: Vec::new(),
            has_fallback: false,
            block_list_share: 0.0,
        }
    }
}

/// State of a process from a time on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) at: u64,
    pub(super) state: State,
    pub(super) keeps_ports: bool,
}

/// Record of one process.
pub(super) struct Outcome {
    pub(super) changes: Vec<Change>,
    pub(super) seconds: Vec<Second>,
    /// First packet that a limiter dropped.
    pub(super) first_drop: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Arrival,
    Tick,
    Answer(u32, u32),
    FallbackAnswer(u32, u32),
    Hedge(u32, u32),
    Retry(u32, u32),
    Close(u32, u32),
    Control { is_answered: bool, is_kept: bool },
    SendControl { is_kept: bool },
    LateControl,
    Release,
}

struct Run {
    scenario: Scenario,
    world: World,
    random: Random,
    now: u64,
    base: Instant,
    wheel: Vec<Vec<(u16, Action)>>,
    processes: Vec<Process>,
    limiters: Vec<Limiter>,
    outcomes: Vec<Outcome>,
    faults: Vec<Fault>,
}

/// Runs a scenario.
pub(super) fn run(scenario: Scenario) -> Vec<Outcome> {
    let base = Instant::now();
    let processes: Vec<Process> =
        (0..scenario.processes).map(|index| Process::new(index + 1, scenario.seed, base)).collect();
    let limiters = if scenario.is_limited_each { scenario.processes } else { 1 };
    let outcome = |_| Outcome { changes: Vec::new(), seconds: Vec::new(), first_drop: None };
    let mut run = Run {
        world: World::new(scenario.block_list_share),
        random: Random(scenario.seed),
        now: 0,
        base,
        wheel: (0..WHEEL).map(|_| Vec::new()).collect(),
        limiters: scenario.limiter.map_or_else(Vec::new, |kind| (0..limiters).map(|_| Limiter::new(kind)).collect()),
        outcomes: processes.iter().map(outcome).collect(),
        processes,
        faults: Vec::new(),
        scenario,
    };
    for process in 0..run.processes.len() as u16 {
        run.schedule(process, 0, Action::Arrival);
        run.schedule(process, 7 * u64::from(process), Action::Tick);
        run.processes[usize::from(process)].next_tick = 7 * u64::from(process);
    }
    run.finish()
}

impl Run {
    fn finish(mut self) -> Vec<Outcome> {
        let mut due = Vec::new();
        while self.now < self.scenario.length {
            if self.now.is_multiple_of(10) {
                let now = self.now;
                let active = self.scenario.spans.iter().filter(|span| span.is_active(now)).map(|span| span.fault);
                self.faults.clear();
                self.faults.extend(active);
            }
            // An action may schedule another one for this millisecond.
            while !self.wheel[self.now as usize % WHEEL].is_empty() {
                std::mem::swap(&mut due, &mut self.wheel[self.now as usize % WHEEL]);
                for (process, action) in due.drain(..) {
                    self.act(process, action);
                }
            }
            self.now += 1;
        }
        for (outcome, process) in self.outcomes.iter_mut().zip(self.processes) {
            outcome.seconds = process.seconds;
        }
        self.outcomes
    }

    fn schedule(&mut self, process: u16, delay: u64, action: Action) {
        let delay = delay.min(WHEEL as u64 - 1);
        self.wheel[(self.now + delay) as usize % WHEEL].push((process, action));
    }

    fn time(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    /// Returns the rest of a pause of the process.
    fn pause(&self) -> Option<u64> {
        self.faults.iter().find_map(|fault| match *fault {
            Fault::Pause { every, length } if self.now % every < length => Some(length - self.now % every),
            _ => None,
        })
    }

    fn act(&mut self, index: u16, action: Action) {
        if let Some(rest) = self.pause().filter(|_| !matches!(action, Action::Arrival | Action::Release)) {
            return self.schedule(index, rest, action);
        }
        let now = self.now;
        match action {
            Action::Arrival => self.arrive(index),
            Action::Tick => self.tick(index),
            Action::Answer(query, generation) => self.answer(index, query, generation),
            Action::FallbackAnswer(query, generation) => self.answer_query(index, query, generation),
            Action::Hedge(query, generation) => self.ask_fallback(index, query, generation, true),
            Action::Retry(query, generation) => self.retry(index, query, generation),
            Action::Close(query, generation) => {
                let process = &mut self.processes[usize::from(index)];
                if process.queries[query as usize].generation == generation {
                    process.queries[query as usize].generation = generation.wrapping_add(1);
                    process.free.push(query);
                }
            }
            Action::SendControl { is_kept } => self.send_control(index, is_kept),
            Action::Control { is_answered, is_kept } => {
                let port = if is_kept { ControlPort::Kept } else { ControlPort::Fresh };
                self.processes[usize::from(index)].detector.record_control(port, is_answered);
            }
            Action::LateControl => self.processes[usize::from(index)].detector.record_late(),
            Action::Release => {
                let limiter = usize::from(index).min(self.limiters.len() - 1);
                self.limiters[limiter].release();
            }
        }
        debug_assert_eq!(self.now, now);
    }

    fn arrive(&mut self, index: u16) {
        let crowd = self.faults.iter().find_map(|fault| match fault {
            Fault::Crowd(factor) => Some(*factor),
            _ => None,
        });
        let mean = 1000.0 / (self.scenario.rate * crowd.unwrap_or(1.0));
        let gap = self.random.exponential(mean);
        let process = &mut self.processes[usize::from(index)];
        process.next_arrival = process.next_arrival.max(self.now as f64 - 1.0) + gap;
        let delay = (process.next_arrival as u64).saturating_sub(self.now);
        self.schedule(index, delay, Action::Arrival);

        let is_of_crowd = crowd.is_some_and(|factor| self.random.chance(1.0 - 1.0 / factor));
        let domain = if is_of_crowd { POPULAR } else { self.world.domain(&mut self.random) };
        let is_answerable = World::is_answerable(domain, &self.faults, &mut self.random);
        let (now, has_fallback) = (self.now, self.scenario.has_fallback);
        let process = &mut self.processes[usize::from(index)];
        process.detector.record_offer();
        process.second(now).offered += u32::from(is_answerable);
        let query = Query {
            generation: 0,
            domain,
            sent_at: now,
            flow: 0,
            stamp: None,
            is_answerable,
            is_answered: false,
            is_at_fallback: false,
        };
        if !process.take(now) {
            if has_fallback {
                process.second(now).diverted += 1;
                let (query, generation) = process.insert(query);
                self.ask_fallback(index, query, generation, false);
                self.schedule(index, CLOSE_AFTER, Action::Close(query, generation));
            } else {
                process.second(now).refused += u32::from(is_answerable);
            }
            return;
        }
        process.earn_retry();
        let stamp = process.detector.record_send(World::hash(domain));
        let flow = process.port(now, &mut self.random);
        let (query, generation) = process.insert(Query { stamp: Some(stamp), flow, ..query });
        let (is_hedged, p95) = (process.detector.hedges_to_fallback() && has_fallback, process.p95 as u64 + 1);
        if let Some(delay) = self.transmit(index, flow, is_answerable, false) {
            self.schedule(index, delay, Action::Answer(query, generation));
        }
        if is_hedged {
            self.schedule(index, p95.min(RETRY_AFTER), Action::Hedge(query, generation));
        }
        self.schedule(index, RETRY_AFTER, Action::Retry(query, generation));
    }

    /// Sends a packet to the upstream. Returns when its answer comes.
    fn transmit(&mut self, index: u16, flow: u64, is_answerable: bool, is_cached: bool) -> Option<u64> {
        let now = self.now;
        self.processes[usize::from(index)].second(now).packets += 1;
        let has = |wanted: fn(&Fault) -> bool| self.faults.iter().any(wanted);
        let is_limited =
            !self.scenario.spans.iter().any(|span| span.fault == Fault::Limit) || has(|fault| *fault == Fault::Limit);
        let mut delay = World::latency(is_cached, &mut self.random);
        let mut loss = 0.0;
        let mut is_black = false;
        for fault in &self.faults {
            match fault {
                Fault::Blackout => is_black = true,
                Fault::Loss(share) => loss = *share,
                Fault::Delay(more) => delay += more,
                _ => {}
            }
        }
        let limiter = usize::from(index).min(self.limiters.len().saturating_sub(1));
        let mut counts_in_flight = false;
        if let Some(limiter) = self.limiters.get_mut(limiter).filter(|_| is_limited) {
            counts_in_flight = limiter.counts_in_flight();
            let Some(queue) = limiter.pass(flow, now) else {
                self.processes[usize::from(index)].second(now).dropped += 1;
                let outcome = &mut self.outcomes[usize::from(index)];
                outcome.first_drop = outcome.first_drop.or(Some(now));
                return None;
            };
            delay += queue;
        }
        if counts_in_flight {
            self.schedule(index, if is_answerable { delay } else { UNANSWERED_TIME }, Action::Release);
        }
        if is_black || self.random.chance(loss) {
            self.processes[usize::from(index)].second(now).dropped += 1;
            return None;
        }
        is_answerable.then_some(delay)
    }

    fn answer(&mut self, index: u16, query: u32, generation: u32) {
        let (now, time) = (self.now, self.time());
        let process = &mut self.processes[usize::from(index)];
        let Query { generation: current, domain, sent_at, stamp, flow, .. } = process.queries[query as usize];
        if current != generation {
            return;
        }
        let latency = now - sent_at;
        if let Some(stamp) = stamp {
            process.queries[query as usize].stamp = None;
            process.detector.record_answer(stamp, Duration::from_millis(latency));
            if latency as f64 <= process.p95 && process.detector.is_name_due(time) {
                let ttl = Duration::from_millis(self.random.exponential(300_000.0) as u64);
                process.detector.record_name(domain, World::hash(domain), ttl, time);
                process.keep_port(flow, now);
            } else if process.detector.keeps_ports() {
                process.keep_port(flow, now);
            }
            process.record_answer(domain, latency);
        }
        self.answer_query(index, query, generation);
    }

    fn answer_query(&mut self, index: u16, query: u32, generation: u32) {
        let now = self.now;
        let process = &mut self.processes[usize::from(index)];
        let entry = &mut process.queries[query as usize];
        if entry.generation != generation || entry.is_answered {
            return;
        }
        entry.is_answered = true;
        let sent_at = entry.sent_at;
        if now - sent_at <= 1_000 {
            process.second(sent_at).right += 1;
        }
    }

    fn ask_fallback(&mut self, index: u16, query: u32, generation: u32, is_hedge: bool) {
        let process = &mut self.processes[usize::from(index)];
        let entry = &mut process.queries[query as usize];
        if entry.generation != generation || entry.is_answered || entry.is_at_fallback {
            return;
        }
        if is_hedge && entry.stamp.is_none() {
            return;
        }
        entry.is_at_fallback = true;
        if entry.is_answerable {
            let delay = 5 + World::latency(false, &mut self.random);
            self.schedule(index, delay, Action::FallbackAnswer(query, generation));
        }
    }

    fn retry(&mut self, index: u16, query: u32, generation: u32) {
        let (now, has_fallback) = (self.now, self.scenario.has_fallback);
        let process = &mut self.processes[usize::from(index)];
        let entry = process.queries[query as usize];
        if entry.generation != generation {
            return;
        }
        if entry.is_answered && entry.stamp.is_none() {
            process.queries[query as usize].generation = generation.wrapping_add(1);
            process.free.push(query);
            return;
        }
        self.schedule(index, CLOSE_AFTER - RETRY_AFTER, Action::Close(query, generation));
        let process = &mut self.processes[usize::from(index)];
        process.record_silence(entry.domain, entry.flow);
        if entry.is_answered || entry.is_at_fallback || !process.take_retry(entry.domain) {
            return;
        }
        if has_fallback {
            self.ask_fallback(index, query, generation, false);
        } else if process.take(now) {
            let flow = process.port(now, &mut self.random);
            if let Some(delay) = self.transmit(index, flow, entry.is_answerable, false) {
                self.schedule(index, delay, Action::FallbackAnswer(query, generation));
            }
        }
    }

    fn send_control(&mut self, index: u16, is_kept: bool) {
        let now = self.now;
        let process = &mut self.processes[usize::from(index)];
        let kept = if is_kept { process.kept_port(now, &mut self.random) } else { None };
        let (flow, is_kept) = (kept.unwrap_or_else(|| process.fresh_port()), kept.is_some());
        process.charge();
        let overdue = OVERDUE.as_millis() as u64;
        let delay = self.transmit(index, flow, true, true);
        match delay {
            Some(delay) if delay <= overdue => {
                self.schedule(index, delay, Action::Control { is_answered: true, is_kept });
            }
            _ => {
                self.schedule(index, overdue, Action::Control { is_answered: false, is_kept });
                if let Some(delay) = delay {
                    self.schedule(index, delay, Action::LateControl);
                }
            }
        }
    }

    fn tick(&mut self, index: u16) {
        let (now, time) = (self.now, self.time());
        let process = &mut self.processes[usize::from(index)];
        let is_starved = now > process.next_tick + LATE_TICK;
        process.next_tick = now + TICK_MILLIS;
        // Where a name is missing the root is asked for, which every upstream has.
        let (order, _) = process.detector.step(is_starved, 0, time);
        let state = process.detector.state();
        let changes = &mut self.outcomes[usize::from(index)].changes;
        if changes.last().is_none_or(|last| !is_alike(&last.state, &state) || last.keeps_ports != order.keeps_ports) {
            changes.push(Change { at: now, state, keeps_ports: order.keeps_ports });
        }
        let spacing = TICK_MILLIS / u64::from(order.controls.max(1));
        for control in 0..order.controls {
            let action = Action::SendControl { is_kept: self.random.chance(0.5) };
            // At even times they would fall into step with the tokens of a policer.
            let delay = u64::from(control) * spacing + self.random.below((spacing - 10).max(1));
            self.schedule(index, delay, action);
        }
        self.schedule(index, TICK_MILLIS, Action::Tick);
    }
}

/// Returns whether two states differ in figures only.
fn is_alike(left: &State, right: &State) -> bool {
    let name = |cause: &Option<Cause>| cause.as_ref().map(std::mem::discriminant);
    match (left, right) {
        (State::Held { ceiling: a, cause: b }, State::Held { ceiling: c, cause: d }) => {
            a.is_some() == c.is_some() && name(b) == name(d)
        }
        _ => std::mem::discriminant(left) == std::mem::discriminant(right),
    }
}

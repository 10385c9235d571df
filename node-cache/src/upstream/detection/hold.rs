//! An upstream that is held: a ceiling for its packets, the name of the cause, and the way back.

mod way_back;

use std::time::{Duration, Instant};

use super::evidence::{Interval, Seen};
use super::state::Cause;

/// Share of what an upstream carried that it is sent from then on.
pub(super) const CEILING_SHARE: f64 = 0.9;
/// Share of a ceiling at rest that is left after silence.
const SILENCED_REST_SHARE: f64 = 0.7;
/// Part of a ceiling at rest that loss takes away when it is as large as the demand; of smaller ones a smaller part. Of
/// those behind one limit the one that has most gives way most.
const CUT_AT_REST: f64 = 0.2;
/// Share while answers are late: a queue has to drain before it shows that the rate was the reason.
const LATE_SHARE: f64 = 0.5;
const LATE_SETTLE_TIME: Duration = Duration::from_secs(3);
/// Part of what an interval misses that came late when lateness is the reason. Most of it is still in a queue.
pub(super) const LATE_PART: f64 = 0.2;
/// Lowest ceiling of an upstream that answers, in packets a second.
pub(super) const MIN_CEILING: f64 = 10.0;
/// Time after an action that says nothing yet: others behind the same limit act, too.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// Bounds of the time in which the cause gets its name, and the queries that are enough for it.
const MIN_NAMING_TIME: Duration = Duration::from_secs(3);
const MAX_NAMING_TIME: Duration = Duration::from_secs(8);
const NAMING_QUERIES: u32 = 400;
/// Queries and time that are enough where loss is left.
const LOSSY_QUERIES: u32 = 60;
const LOSSY_TIME: Duration = Duration::from_millis(1500);
/// Part of the loss before the action that is left when the action changed nothing.
const UNCHANGED_LOSS: f64 = 0.5;
const MIN_UNCHANGED_LOSS: f64 = 0.05;
/// Ceilings, each below what the one before carried, after which loss that becomes less with each is that of a limit.
const MAX_LOWERED: u32 = 4;
/// Growth of the loss without a ceiling, as factor and summand, that shows a limit after all.
const GROWN_LOSS: (f64, f64) = (1.4, 0.05);
/// Part of a named loss below which it is over.
const FADED_LOSS: f64 = 0.35;
/// Part of the loss that may be left when kept ports are the cure, and the loss that always may.
const LOSS_OF_KEPT_PORTS: (f64, f64) = (0.25, 0.05);
/// Time until kept ports have taken over, and the time in which they are judged.
const PORTS_TIME: Duration = Duration::from_millis(2500);
const PORTS_TRIAL: Duration = Duration::from_secs(2);
/// Time for which a lossy or slow upstream is watched at a time, and the time after which it is well again.
const WATCH_TIME: Duration = Duration::from_secs(10);
const WATCHES: u32 = 6;
/// First and longest time after which a ceiling that changed nothing is tried again: who shares a limit with others
/// that give way loses as much with a ceiling as without.
const MIN_RETRY_TIME: Duration = Duration::from_secs(300);
const MAX_RETRY_TIME: Duration = Duration::from_secs(960);
/// First wait before the ceiling is raised.
pub(super) const MIN_WAIT: Duration = Duration::from_secs(5);
/// Longest wait after steps that ended in silence: a limiter that punishes.
pub(super) const MAX_PUNISHED_WAIT: Duration = Duration::from_secs(300);
/// Time in which the ceiling doubles after silence.
const RAMP_TIME: Duration = Duration::from_secs(1);

/// Surroundings of a step.
pub(super) struct Context<'a> {
    pub(super) seen: &'a Seen,
    pub(super) now: Instant,
    /// Queries a second that are meant for the upstream.
    pub(super) demand: f64,
    /// Share of queries that a good upstream answers.
    pub(super) baseline: &'a mut f64,
    /// A number between 0.8 and 1.2.
    pub(super) jitter: f64,
}

/// State after a step of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Held,
    /// All traffic is back; the ceiling stays above the demand for a while.
    Returning,
    Well,
}

/// Part of a hold that is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// The ceiling has come, and shows what the cause is.
    Name,
    /// The ceiling stays.
    Wait,
    /// The ceiling was raised, for the n-th time.
    Step(u32),
    /// The ceiling doubles after silence.
    Ramp,
    /// Ports are kept, and show whether that is enough.
    TryPorts,
    /// Ports are kept.
    KeepPorts,
    /// The ceiling is gone: it changed nothing.
    Endure,
}

/// An upstream that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) ceiling: Option<f64>,
    pub(super) cause: Option<Cause>,
    plan: Plan,
    interval: Interval,
    until: Instant,
    /// Loss before the action; without a ceiling the loss that is left, and how far off it may be.
    loss: f64,
    loss_error: f64,
    wait: Duration,
    /// Ceiling without loss before it was last raised.
    clean: f64,
    watches: u32,
    /// Time without a ceiling until it is tried again, and when that is.
    retry_time: Duration,
    retry_at: Option<Instant>,
    /// Queries a second that were carried before the ceiling, and whether they were late rather than lost.
    carried: f64,
    is_late: bool,
    /// Whether ports are kept beside a ceiling: new flows were what failed.
    is_of_flows: bool,
    /// Ceilings in a row that left loss.
    lowered: u32,
    /// Control queries answered in a row.
    answered_controls: u32,
    /// Whether a loss of this step was looked at a second time.
    is_in_doubt: bool,
    /// Time for which ports are kept.
    ports_time: Duration,
}

impl Hold {
    fn new(ceiling: Option<f64>, cause: Option<Cause>, plan: Plan, start: Instant, until: Instant) -> Self {
        Self {
            ceiling,
            cause,
            plan,
            interval: Interval::begin(start),
            until,
            loss: 0.0,
            loss_error: 0.0,
            wait: MIN_WAIT,
            clean: ceiling.unwrap_or_default(),
            watches: 0,
            retry_time: MIN_RETRY_TIME,
            retry_at: None,
            carried: 0.0,
            is_late: false,
            is_of_flows: false,
            lowered: 0,
            answered_controls: 0,
            is_in_doubt: false,
            ports_time: Duration::ZERO,
        }
    }

    /// Holds an upstream that carried this many queries a second, many of them late or not.
    pub(super) fn act(carried: f64, is_late: bool, now: Instant) -> Self {
        let (share, settle) = if is_late { (LATE_SHARE, LATE_SETTLE_TIME) } else { (CEILING_SHARE, SETTLE_TIME) };
        let ceiling = (share * carried).max(MIN_CEILING);
        let start = now + settle;
        Self { carried, is_late, ..Self::new(Some(ceiling), None, Plan::Name, start, now + MAX_NAMING_TIME) }
    }

    /// Sets the loss before the ceiling.
    pub(super) const fn after_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// Holds an upstream that was over its limit after all.
    pub(super) fn limit(carried: f64, wait: Duration, now: Instant) -> Self {
        let ceiling = (CEILING_SHARE * carried).max(MIN_CEILING);
        let cause = Some(Cause::Limit { rate: carried });
        Self { wait, ..Self::new(Some(ceiling), cause, Plan::Wait, now, now + wait) }
    }

    /// Keeps ports, to see whether that ends the loss.
    pub(super) fn try_ports(loss: f64, ports_time: Duration, now: Instant) -> Self {
        let start = now + PORTS_TIME;
        Self { loss, ports_time, ..Self::new(None, None, Plan::TryPorts, start, start + PORTS_TRIAL) }
    }

    /// Lets an upstream that was silent return: the ceiling begins at this rate and doubles each second.
    pub(super) fn ramp(ceiling: f64, now: Instant) -> Self {
        let ceiling = ceiling.max(MIN_CEILING);
        Self::new(Some(ceiling), Some(Cause::Silent), Plan::Ramp, now, now + RAMP_TIME)
    }

    /// Watches an upstream that answers late.
    pub(super) fn endure(cause: Cause, loss: f64, now: Instant) -> Self {
        let start = now + SETTLE_TIME;
        Self { loss, ..Self::new(None, Some(cause), Plan::Endure, start, start + WATCH_TIME) }
    }

    /// Returns whether silence says something: ports are not on trial.
    pub(super) const fn heeds_silence(&self) -> bool {
        !matches!(self.plan, Plan::TryPorts)
    }

    /// Returns whether ports are kept.
    pub(super) const fn keeps_ports(&self) -> bool {
        self.is_of_flows || matches!(self.plan, Plan::TryPorts | Plan::KeepPorts)
    }

    /// Returns the ceiling that is left after silence; `None` where no ceiling was the reason.
    pub(super) fn after_silence(&self) -> Option<f64> {
        match self.plan {
            Plan::Wait => Some(SILENCED_REST_SHARE * self.clean),
            Plan::Step(_) | Plan::Ramp => Some(self.clean),
            Plan::Name | Plan::TryPorts | Plan::KeepPorts | Plan::Endure => None,
        }
    }

    pub(super) const fn wait(&self) -> Duration {
        self.wait
    }

    pub(super) const fn ports_time(&self) -> Duration {
        self.ports_time
    }

    /// Forgets the interval in progress: the process itself was late until `until`.
    pub(super) fn forget(&mut self, until: Instant) {
        self.interval.restart(until);
        self.until = self.until.max(until + MIN_NAMING_TIME);
    }

    /// Takes one step.
    pub(super) fn step(&mut self, context: &mut Context<'_>) -> Next {
        self.interval.add(context.seen, context.now);
        let controls = context.seen.controls();
        self.answered_controls = if controls.overdue > 0 { 0 } else { self.answered_controls + controls.answered };
        if self.interval.is_contradicted(*context.baseline) {
            *context.baseline = self.interval.share().max(0.01);
            self.interval.restart(context.now);
        }
        match self.plan {
            Plan::Name => self.name(context),
            Plan::Wait => self.wait_for_step(context),
            Plan::Step(index) => self.climb(index, context),
            Plan::Ramp => self.double(context),
            Plan::TryPorts => self.judge_ports(context),
            Plan::KeepPorts => self.keep_ports(context),
            Plan::Endure => self.watch(context),
        }
    }

    fn begin(&mut self, plan: Plan, time: Duration, now: Instant) {
        self.plan = plan;
        self.interval.restart(now);
        self.until = now + time;
    }

    /// Lowers the ceiling to what the interval carried, and never below half of it at once.
    fn lower(&mut self, context: &Context<'_>) {
        let previous = self.ceiling.unwrap_or(context.demand);
        let carried = self.interval.carried(*context.baseline);
        let share = match self.plan {
            _ if self.is_interval_late(*context.baseline) => LATE_SHARE,
            Plan::Wait => 1.0 - CUT_AT_REST * (previous / context.demand.max(MIN_CEILING)).min(1.0),
            _ => CEILING_SHARE,
        };
        let ceiling = (share * carried).clamp(previous.min(self.clean) / 2.0, previous);
        self.ceiling = Some(ceiling.max(MIN_CEILING));
        self.lowered += 1;
        if self.cause.is_some() {
            self.cause = Some(Cause::Limit { rate: carried });
        }
    }

    /// Returns whether what the interval misses came late.
    fn is_interval_late(&self, baseline: f64) -> bool {
        let missed = self.interval.loss(baseline).share * f64::from(self.interval.sent());
        f64::from(self.interval.late()) > LATE_PART * missed
    }

    /// Lets the ceiling go: it changed nothing.
    fn give_up(&mut self, loss: f64, baseline: f64, now: Instant) {
        let is_slow = self.is_interval_late(baseline);
        self.cause = Some(if is_slow { Cause::Slow } else { Cause::Loss { share: loss } });
        (self.ceiling, self.loss, self.watches, self.lowered) = (None, loss, 0, 0);
        self.loss_error = self.interval.uncertainty();
        self.retry_at = Some(now + self.retry_time);
        self.retry_time = (self.retry_time * 2).min(MAX_RETRY_TIME);
        self.begin(Plan::Endure, SETTLE_TIME + WATCH_TIME, now);
        self.interval.restart(now + SETTLE_TIME);
    }

    /// Names the cause by what the ceiling changed. The first ceiling may be too high: what was carried before it was
    /// measured while the loss began.
    fn name(&mut self, context: &mut Context<'_>) -> Next {
        let (now, baseline) = (context.now, *context.baseline);
        let (sent, age) = (self.interval.sent(), self.interval.age(now));
        let is_lossy_early = sent >= LOSSY_QUERIES && age >= LOSSY_TIME && self.interval.is_lossy(baseline, false);
        let is_enough = sent >= NAMING_QUERIES && age >= MIN_NAMING_TIME;
        if !is_lossy_early && !is_enough && now < self.until {
            return Next::Held;
        }
        let loss = self.interval.loss(baseline).share;
        if !self.interval.is_lossy(baseline, true) {
            let ceiling = self.ceiling.unwrap_or_default();
            let rate = if self.is_late { self.carried } else { ceiling / CEILING_SHARE };
            self.ceiling = Some(ceiling.max(CEILING_SHARE * rate));
            self.cause = Some(Cause::Limit { rate });
            (self.clean, self.lowered) = (self.ceiling.unwrap_or_default(), 0);
            self.begin(Plan::Wait, self.wait.mul_f64(context.jitter), now);
            return Next::Held;
        }
        if loss >= MIN_UNCHANGED_LOSS.max(UNCHANGED_LOSS * self.loss) {
            self.give_up(loss, baseline, now);
            return Next::Held;
        }
        self.lower(context);
        if self.lowered >= MAX_LOWERED {
            // Less is lost with each ceiling: others behind the limit are slower to give way.
            self.cause = Some(Cause::Limit { rate: self.interval.carried(baseline) });
            (self.clean, self.lowered) = (self.ceiling.unwrap_or_default(), 0);
            self.wait_after_loss(context);
            return Next::Held;
        }
        self.begin(Plan::Name, MAX_NAMING_TIME, now);
        self.interval.restart(now + SETTLE_TIME);
        Next::Held
    }

    fn judge_ports(&mut self, context: &mut Context<'_>) -> Next {
        if context.now < self.until {
            return Next::Held;
        }
        let loss = self.interval.loss(*context.baseline).share;
        let (part, always) = LOSS_OF_KEPT_PORTS;
        if loss <= always.max(part * self.loss) {
            self.cause = Some(Cause::Flows);
            self.until = context.now + self.ports_time;
            self.plan = Plan::KeepPorts;
            self.interval.restart(context.now);
        } else {
            *self = Self::act(self.interval.carried(*context.baseline), false, context.now);
        }
        Next::Held
    }

    fn keep_ports(&mut self, context: &mut Context<'_>) -> Next {
        if context.now >= self.until {
            return Next::Well;
        }
        if self.interval.age(context.now) >= WATCH_TIME {
            let loss = self.interval.loss(*context.baseline).share;
            if self.interval.is_lossy(*context.baseline, false) && loss > 2.0 * LOSS_OF_KEPT_PORTS.1 {
                let carried = self.interval.carried(*context.baseline);
                *self = Self { is_of_flows: true, ..Self::act(carried, false, context.now) };
            } else {
                self.interval.restart(context.now);
            }
        }
        Next::Held
    }

    /// Watches an upstream without a ceiling, until it is well again, or loses more than with the ceiling.
    fn watch(&mut self, context: &mut Context<'_>) -> Next {
        let baseline = *context.baseline;
        let is_end = context.now >= self.until;
        let loss = self.interval.loss(baseline).share;
        let (factor, summand) = GROWN_LOSS;
        let is_grown =
            self.interval.is_lossy(baseline, is_end) && loss > factor * self.loss + summand + self.loss_error;
        if is_grown && self.interval.ticks() >= 20 {
            *self = Self::act(self.interval.carried(baseline), self.is_interval_late(baseline), context.now);
        } else if is_end {
            let is_lossy = self.interval.is_lossy(baseline, true);
            self.watches = if is_lossy { 1 } else { self.watches + 1 };
            if let Some(Cause::Loss { share }) = self.cause
                && loss < FADED_LOSS * share
            {
                // Loss of the path is steady; behind a limit it comes with each step of others and goes.
                let carried = self.interval.carried(baseline);
                *self = Self { retry_time: self.retry_time, ..Self::limit(carried, self.wait, context.now) };
                return Next::Held;
            }
            if self.watches > WATCHES {
                return Next::Well;
            }
            if self.watches == 1 && self.retry_at.is_some_and(|at| at <= context.now) {
                let (carried, is_late) = (self.interval.carried(baseline), self.is_interval_late(baseline));
                *self = Self { retry_time: self.retry_time, ..Self::act(carried, is_late, context.now) };
                return Next::Held;
            }
            if let Some(Cause::Loss { share }) = &mut self.cause {
                *share = loss;
            }
            self.begin(Plan::Endure, WATCH_TIME, context.now);
        }
        Next::Held
    }
}

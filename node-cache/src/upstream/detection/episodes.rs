//! Episodes: the last times at which an upstream was held or silent, each with the minute around its begin, and the
//! limit that is in force or was until a moment ago. Pure: the time is a parameter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use node_cache_config::status::BUDGET_SPENT;

use super::state::{Cause, State};

/// Episodes that are kept.
const MAX_EPISODES: usize = 8;
/// Ticks of a second.
const SECOND_TICKS: u32 = 10;
/// Seconds of an episode before its begin, and in all.
const SECONDS_BEFORE: usize = 15;
const MAX_SECONDS: usize = 60;
/// Time after which a limit that is gone is told no more.
const HYSTERESIS: Duration = Duration::from_secs(30);
/// Queries a second below which nothing is decided, and the time for which more of them count as enough.
const ENOUGH_DEMAND: f64 = 20.0;
const ENOUGH_TIME: Duration = Duration::from_secs(300);
/// Share of the queries for which a packet budget that is spent has no room, and for how many ticks running.
const SPENT_SHARE: f64 = 0.02;
const SPENT_TICKS: u32 = 50;
/// Ticks in which the refused queries a second follow by 63 %.
const REFUSED_TICKS: f64 = 30.0;

/// Counts of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Queries that were meant for the upstream.
    pub offered: u32,
    /// First sends that became ripe in this second: answered or overdue.
    pub sent: u32,
    /// Of those, the ones that were answered in time.
    pub answered: u32,
    /// Answers that were overdue.
    pub late: u32,
    /// Queries that the ceiling or the packet budget had no room for.
    pub refused: u32,
    /// Stale responses of the process.
    pub stale: u32,
    /// Name of the state at its end.
    pub state: &'static str,
}

/// One episode.
#[derive(Clone, Debug)]
pub struct Episode {
    /// When it began.
    pub started_at: Instant,
    /// When the upstream was well again.
    pub ended_at: Option<Instant>,
    /// Seconds before its begin.
    pub before: usize,
    /// Seconds from shortly before its begin on.
    pub seconds: Vec<Second>,
}

/// Limit, loss, slowness or spent budget that people are told of, with the figures of the moment in which it got its
/// name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    /// Name of the state, or [`BUDGET_SPENT`].
    pub state: &'static str,
    /// When it began.
    pub since: Instant,
    /// Queries a second that were meant for the upstream.
    pub offered: f64,
    /// Queries a second that it answered.
    pub answered: f64,
}

/// Record of one upstream.
#[derive(Debug, Default)]
pub struct Episodes {
    /// The latest last.
    last: VecDeque<Episode>,
    recent: VecDeque<Second>,
    current: Second,
    ticks: u32,
    throttle: Option<(Throttle, Instant)>,
    enough_until: Option<Instant>,
    /// Refused queries a second, smoothed, and the ticks for which they were many.
    refused_rate: f64,
    spent_ticks: u32,
    totals: Totals,
}

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Queries that the ceiling or the packet budget had no room for.
    pub refused: u64,
    /// Answers that were overdue.
    pub late: u64,
}

impl Episodes {
    /// Records a tick: its counts, the state after it, and the queries a second that are meant for the upstream and
    /// that it answered in the last second.
    pub fn record(&mut self, tick: Second, state: State, (demand, answered): (f64, f64), now: Instant) {
        if demand >= ENOUGH_DEMAND {
            self.enough_until = Some(now + ENOUGH_TIME);
        }
        self.current = Second {
            offered: self.current.offered + tick.offered,
            sent: self.current.sent + tick.sent,
            answered: self.current.answered + tick.answered,
            late: self.current.late + tick.late,
            refused: self.current.refused + tick.refused,
            stale: self.current.stale + tick.stale,
            state: state.name(),
        };
        self.totals.refused += u64::from(tick.refused);
        self.totals.late += u64::from(tick.late);
        self.refused_rate += (f64::from(tick.refused * SECOND_TICKS) - self.refused_rate) / REFUSED_TICKS;
        let is_spent = self.refused_rate > (SPENT_SHARE * demand).max(1.0) && !matches!(state, State::Held { .. });
        self.spent_ticks = if is_spent { self.spent_ticks + 1 } else { 0 };
        self.ticks += 1;
        self.follow(state, now);
        self.tell(state, (demand, answered), now);
        if self.ticks >= SECOND_TICKS {
            self.ticks = 0;
            let second = std::mem::take(&mut self.current);
            if let Some(episode) = self.last.back_mut().filter(|episode| episode.seconds.len() < MAX_SECONDS) {
                episode.seconds.push(second);
            }
            if self.recent.len() >= SECONDS_BEFORE {
                self.recent.pop_front();
            }
            self.recent.push_back(second);
        }
    }

    /// Begins or ends an episode.
    fn follow(&mut self, state: State, now: Instant) {
        let open = self.last.back_mut().filter(|episode| episode.ended_at.is_none());
        match (state, open) {
            (State::Held { .. } | State::Silent, None) => {
                if self.last.len() >= MAX_EPISODES {
                    self.last.pop_front();
                }
                let seconds: Vec<_> = self.recent.iter().copied().collect();
                self.last.push_back(Episode { started_at: now, ended_at: None, before: seconds.len(), seconds });
            }
            (State::Well, Some(episode)) => episode.ended_at = Some(now),
            _ => {}
        }
    }

    fn tell(&mut self, state: State, (offered, answered): (f64, f64), now: Instant) {
        let told = match state {
            _ if is_told(state) => Some(state.name()),
            State::Well | State::Suspected if self.spent_ticks >= SPENT_TICKS => Some(BUDGET_SPENT),
            _ => None,
        };
        match (&mut self.throttle, told) {
            (Some((throttle, until)), Some(told)) if throttle.state == told => *until = now + HYSTERESIS,
            // Between steps a cause may have no name for some seconds.
            (Some((_, until)), None) if matches!(state, State::Held { cause: None, .. }) => *until = now + HYSTERESIS,
            (_, Some(told)) => {
                let open = self.last.back().filter(|_| told != BUDGET_SPENT);
                let since = open.map_or(now, |episode| episode.started_at);
                let answered = match state {
                    State::Held { cause: Some(Cause::Limit { rate }), .. } => rate,
                    _ => answered,
                };
                self.throttle = Some((Throttle { state: told, since, offered, answered }, now + HYSTERESIS));
            }
            (Some((_, until)), None) if now >= *until => self.throttle = None,
            _ => {}
        }
    }

    /// Returns the limit that people are told of: until 30 s after it.
    #[must_use]
    pub fn throttle(&self) -> Option<Throttle> {
        self.throttle.map(|(throttle, _)| throttle)
    }

    /// Returns whether there were enough queries in the last five minutes to find a limit.
    #[must_use]
    pub fn has_enough_traffic(&self, now: Instant) -> bool {
        self.enough_until.is_some_and(|until| now < until)
    }

    /// Returns the counts since the start.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns the last episodes, the latest last.
    pub fn last(&self) -> impl Iterator<Item = &Episode> {
        self.last.iter()
    }
}

/// Returns whether a state has a cause that people are told of. Silence is told as an upstream that does not answer.
fn is_told(state: State) -> bool {
    matches!(
        state,
        State::Held { cause: Some(Cause::Limit { .. } | Cause::Flows | Cause::Loss { .. } | Cause::Slow), .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITED: State = State::Held { ceiling: Some(36.0), cause: Some(Cause::Limit { rate: 40.0 }) };

    /// Records this many seconds of a state.
    fn run(episodes: &mut Episodes, state: State, seconds: u32, now: &mut Instant) {
        for _ in 0..seconds * SECOND_TICKS {
            *now += super::super::cells::TICK;
            let tick = Second { offered: 10, sent: 10, answered: 4, ..Second::default() };
            episodes.record(tick, state, (100.0, 40.0), *now);
        }
    }

    #[test]
    fn an_episode_has_the_minute_around_its_begin_and_the_last_eight_are_kept() {
        let (mut episodes, mut now) = (Episodes::default(), Instant::now());
        for _ in 0..10 {
            run(&mut episodes, State::Well, 20, &mut now);
            run(&mut episodes, LIMITED, 90, &mut now);
        }
        run(&mut episodes, State::Well, 1, &mut now);
        assert_eq!(episodes.last().count(), MAX_EPISODES);
        for episode in episodes.last() {
            assert_eq!((episode.seconds.len(), episode.seconds[0].state), (MAX_SECONDS, "well"));
            assert_eq!(
                episode.seconds[16],
                Second { offered: 100, sent: 100, answered: 40, state: "limited", ..Second::default() }
            );
            assert!(episode.ended_at.is_some_and(|end| end - episode.started_at >= Duration::from_secs(89)));
        }
    }

    #[test]
    fn a_limit_is_told_with_the_figures_of_its_begin_until_thirty_seconds_after_it() {
        let (mut episodes, mut now) = (Episodes::default(), Instant::now());
        run(&mut episodes, State::Held { ceiling: Some(36.0), cause: None }, 3, &mut now);
        assert_eq!(episodes.throttle(), None);
        run(&mut episodes, LIMITED, 5, &mut now);
        let told = episodes.throttle().unwrap();
        assert_eq!((told.state, told.offered, told.answered), ("limited", 100.0, 40.0));
        run(&mut episodes, State::Returning { ceiling: 200.0 }, 29, &mut now);
        assert_eq!(episodes.throttle(), Some(told));
        run(&mut episodes, State::Returning { ceiling: 200.0 }, 2, &mut now);
        assert_eq!(episodes.throttle(), None);
        assert!(episodes.has_enough_traffic(now) && !episodes.has_enough_traffic(now + ENOUGH_TIME));
    }

    #[test]
    fn a_budget_that_refuses_for_five_seconds_is_told_unless_a_ceiling_refuses() {
        let (mut episodes, mut now) = (Episodes::default(), Instant::now());
        let mut run_with_refusals = |state: State, refused: u32, seconds: u32| {
            for _ in 0..seconds * SECOND_TICKS {
                now += super::super::cells::TICK;
                episodes.record(Second { offered: 10, refused, ..Second::default() }, state, (100.0, 60.0), now);
            }
            episodes.throttle().map(|throttle| (throttle.state, throttle.offered))
        };
        assert_eq!(run_with_refusals(State::Held { ceiling: Some(50.0), cause: None }, 4, 60), None);
        assert_eq!(run_with_refusals(State::Well, 0, 60), None);
        assert_eq!(run_with_refusals(State::Well, 4, 4), None, "too short");
        assert_eq!(run_with_refusals(State::Well, 4, 4), Some((BUDGET_SPENT, 100.0)));
        assert_eq!(run_with_refusals(State::Well, 0, 20), Some((BUDGET_SPENT, 100.0)));
        assert_eq!(run_with_refusals(State::Well, 0, 30), None);
        assert_eq!(episodes.totals().refused, 4 * 10 * (60 + 8));
    }

    #[test]
    fn silence_is_an_episode_and_no_limit() {
        let (mut episodes, mut now) = (Episodes::default(), Instant::now());
        run(&mut episodes, State::Silent, 5, &mut now);
        assert_eq!((episodes.last().count(), episodes.throttle()), (1, None));
    }
}

//! Episodes: the last times at which an upstream was held or silent, each with the minute around its begin, and the
//! limit that is in force or was until a moment ago. Pure: the time is a parameter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::state::State;

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
    /// Seconds from shortly before its begin on.
    pub seconds: Vec<Second>,
}

/// Limit, loss or slowness that people are told of, with the figures of the moment in which it got its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    /// Name of the state.
    pub state: &'static str,
    /// When the episode began.
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
            state: state.name(),
        };
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
                let seconds = self.recent.iter().copied().collect();
                self.last.push_back(Episode { started_at: now, ended_at: None, seconds });
            }
            (State::Well, Some(episode)) => episode.ended_at = Some(now),
            _ => {}
        }
    }

    fn tell(&mut self, state: State, (offered, answered): (f64, f64), now: Instant) {
        let since = self.last.back().map_or(now, |episode| episode.started_at);
        match &mut self.throttle {
            Some((throttle, until)) if throttle.state == state.name() => *until = now + HYSTERESIS,
            // Between steps a cause may have no name for some seconds.
            Some((_, until)) if matches!(state, State::Held { cause: None, .. }) => *until = now + HYSTERESIS,
            _ if is_told(state) => {
                let throttle = Throttle { state: state.name(), since, offered, answered };
                self.throttle = Some((throttle, now + HYSTERESIS));
            }
            Some((_, until)) if now >= *until => self.throttle = None,
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

    /// Returns the last episodes, the latest last.
    pub fn last(&self) -> impl Iterator<Item = &Episode> {
        self.last.iter()
    }
}

/// Returns whether a state has a cause that people are told of. Silence is told as an upstream that does not answer.
fn is_told(state: State) -> bool {
    use super::state::Cause;
    matches!(
        state,
        State::Held { cause: Some(Cause::Limit { .. } | Cause::Flows | Cause::Loss { .. } | Cause::Slow), .. }
    )
}

#[cfg(test)]
mod tests {
    use super::super::state::Cause;
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
                Second { offered: 100, sent: 100, answered: 40, late: 0, state: "limited" }
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
    fn silence_is_an_episode_and_no_limit() {
        let (mut episodes, mut now) = (Episodes::default(), Instant::now());
        run(&mut episodes, State::Silent, 5, &mut now);
        assert_eq!((episodes.last().count(), episodes.throttle()), (1, None));
    }
}

//! Clock of the trial of one tier: it goes on as the wall clock does, and never goes back.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// Clock of the trial of one tier. Its times are since the Unix epoch, and later by as much as the wall clock was set
/// back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Time of the wall clock when it was last read.
    wall: Timestamp,
    now: Duration,
}

impl Clock {
    /// Starts a clock at a time of the wall clock.
    pub(super) fn new(wall: Timestamp) -> Self {
        Self { wall, now: passed(Timestamp::UNIX_EPOCH, wall) }
    }

    /// Goes on to a time of the wall clock; not at all when that was set back.
    pub(super) fn go_on(&mut self, wall: Timestamp) {
        self.now += passed(self.wall, wall);
        self.wall = wall;
    }

    /// Returns the present time.
    pub(super) const fn now(&self) -> Duration {
        self.now
    }

    /// Returns when some time of the wall clock was. One that lies ahead comes from another clock and counts as the
    /// present.
    pub(super) fn time_of(&self, wall: Timestamp) -> Duration {
        self.now.saturating_sub(passed(wall, self.wall))
    }
}

/// Returns the time from one moment to a later one; zero when it is earlier.
fn passed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_set_back_takes_no_time_and_goes_on_from_there() {
        let (wall, at) = (|second| Timestamp::from_second(second).unwrap(), Duration::from_secs);
        let mut clock = Clock::new(wall(1_000));
        for (second, now) in [(1_007, 1_007), (400, 1_007), (403, 1_010), (403, 1_010), (410, 1_017)] {
            clock.go_on(wall(second));
            assert_eq!(clock.now(), at(now), "at {second}");
        }
        assert_eq!(clock.time_of(wall(405)), at(1_012));
        assert_eq!(clock.time_of(wall(9_000)), clock.now(), "a time ahead is now");
    }
}

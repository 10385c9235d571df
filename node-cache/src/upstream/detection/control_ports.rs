//! Ports of control queries: fresh ones, and ones that were answered before. Pure: the time is a parameter.

use std::time::{Duration, Instant};

use super::detector::ControlPort;

/// Interval at which a port is kept answered while the upstream is well: four of them live at a time.
const KEEPING_INTERVAL: Duration = Duration::from_millis(2500);
/// Interval of fresh ports while nothing is to be confirmed. In a table of flows each of them has a place for 30 s.
const FRESH_INTERVAL: Duration = Duration::from_millis(200);

/// Choice of the ports of an upstream's control queries.
#[derive(Clone, Copy, Debug)]
pub struct ControlPorts {
    next_keeping: Instant,
    next_fresh: Instant,
    was_fresh: bool,
}

impl ControlPorts {
    /// Creates the choice of an upstream that was not queried yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { next_keeping: now, next_fresh: now, was_fresh: false }
    }

    /// Returns whether a query is due that keeps a port answered.
    pub fn take_keeping(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next_keeping;
        if is_due {
            self.next_keeping = now + KEEPING_INTERVAL;
        }
        is_due
    }

    /// Returns the port of the next control query: each second one is fresh while the upstream is suspected, which
    /// tells a limit of flows from others, and five a second otherwise. Without a kept port all are.
    pub fn choose(&mut self, is_suspected: bool, has_kept: bool, now: Instant) -> ControlPort {
        let is_fresh = !has_kept || if is_suspected { !self.was_fresh } else { now >= self.next_fresh };
        self.was_fresh = is_fresh;
        if is_fresh {
            self.next_fresh = now + FRESH_INTERVAL;
            ControlPort::Fresh
        } else {
            ControlPort::Kept
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of a hundred control queries in a second have a fresh port.
    fn fresh(is_suspected: bool, has_kept: bool) -> usize {
        let start = Instant::now();
        let mut ports = ControlPorts::new(start);
        let times = (0..100).map(|number| start + number * Duration::from_millis(10));
        times.filter(|now| ports.choose(is_suspected, has_kept, *now) == ControlPort::Fresh).count()
    }

    #[test]
    fn half_of_the_ports_are_fresh_in_a_suspicion_five_a_second_otherwise_and_all_without_a_kept_one() {
        assert_eq!([(true, true), (false, true), (true, false)].map(|(is, has)| fresh(is, has)), [50, 5, 100]);
    }

    #[test]
    fn a_port_is_kept_answered_each_two_and_a_half_seconds() {
        let start = Instant::now();
        let mut ports = ControlPorts::new(start);
        let due = (0..100).filter(|number| ports.take_keeping(start + *number * Duration::from_millis(100))).count();
        assert_eq!(due, 4);
    }
}

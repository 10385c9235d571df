//! Distinct names as a HyperLogLog of 64 registers: a client that repeats a name that fails is one failure.
//!
//! Pods begin new registers with each minute of the clock and keep those of the minute before. A [`NameWindow`] joins
//! the minutes since one look, without the names that had failed before it.

/// Number of registers.
pub(crate) const REGISTERS: usize = 64;

/// Registers of a HyperLogLog: for each the largest rank of a hash that chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers(pub(crate) [u8; REGISTERS]);

impl Default for Registers {
    fn default() -> Self {
        Self([0; REGISTERS])
    }
}

impl Registers {
    /// Adds the names of other registers.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (register, other) in self.0.iter_mut().zip(other.0) {
            *register = (*register).max(other);
        }
    }

    /// Returns the registers in which a name stands that is not in `earlier`.
    #[must_use]
    fn risen_since(&self, earlier: &Self) -> Self {
        let mut risen = *self;
        for (register, earlier) in risen.0.iter_mut().zip(earlier.0) {
            if *register <= earlier {
                *register = 0;
            }
        }
        risen
    }

    /// Returns the estimated number of names: nearly exact up to a dozen, within 13 % beyond 160.
    #[must_use]
    pub(crate) fn estimate(&self) -> u64 {
        const ALPHA: f64 = 0.709;
        let size = REGISTERS as f64;
        let empty = self.0.iter().filter(|rank| **rank == 0).count();
        if empty == REGISTERS {
            return 0;
        }
        const ONE: u64 = 1 << (u64::BITS - 1 - REGISTERS.trailing_zeros());
        let sum: u64 = self.0.iter().map(|rank| ONE.checked_shr(u32::from(*rank)).unwrap_or_default()).sum();
        let raw = ALPHA * size * size / (sum.max(1) as f64 / ONE as f64);
        let estimate = if raw <= 2.5 * size && empty > 0 { size * (size / empty as f64).ln() } else { raw };
        estimate.round() as u64
    }
}

/// Distinct names of this minute and of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecentNames {
    /// Minute of `current`, since the Unix epoch.
    pub(crate) minute: u64,
    /// Names of that minute.
    pub(crate) current: Registers,
    /// Names of the minute before it.
    pub(crate) previous: Registers,
}

#[cfg(test)]
impl RecentNames {
    /// Begins new registers with a new minute, as a pod does.
    pub(crate) fn turn(&mut self, minute: u64) {
        if self.minute != minute {
            (self.previous, self.current, self.minute) = (self.current, Registers::default(), minute);
        }
    }
}

/// Names that a pod reports of the measures that it knows them of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MeasuredNames {
    /// Names that were answered with SERVFAIL.
    pub(crate) servfail: RecentNames,
    /// Names of slow misses; `None` from a release that does not count them.
    pub(crate) slow: Option<RecentNames>,
}

/// Distinct names since one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameWindow {
    /// Names at the first look; their minute had begun before it.
    start: RecentNames,
    /// Names of that minute by now.
    first_minute: Registers,
    /// Names of later minutes.
    later: Registers,
}

impl NameWindow {
    /// Starts a window at a look.
    #[must_use]
    pub(crate) fn new(names: &RecentNames) -> Self {
        Self { start: *names, first_minute: names.current, later: Registers::default() }
    }

    /// Adds the names of a later look.
    pub(crate) fn add(&mut self, names: &RecentNames) {
        for (minute, registers) in [(names.minute, names.current), (names.minute.wrapping_sub(1), names.previous)] {
            match minute.cmp(&self.start.minute) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => self.first_minute.merge(&registers),
                std::cmp::Ordering::Greater => self.later.merge(&registers),
            }
        }
    }

    /// Returns the estimated number of names since the first look.
    #[must_use]
    pub(crate) fn estimate(&self) -> u64 {
        let before = &self.start.current;
        let mut clean = self.first_minute.risen_since(before);
        clean.merge(&self.later);
        // Names that had failed before hide some of the new ones from the registers, but not from the estimate.
        clean.estimate().max(self.first_minute.estimate().saturating_sub(before.estimate()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::judge::simulation::random::Random;

    fn registers(numbers: std::ops::Range<u64>) -> Registers {
        let mut registers = Registers::default();
        numbers.for_each(|number| Random::insert_name(&mut registers, number));
        registers
    }

    #[test]
    fn few_names_are_told_apart_and_many_are_estimated() {
        for count in 0..=6 {
            assert!(registers(0..count).estimate().abs_diff(count) <= 1, "{count}");
        }
        for count in [100, 1_000, 9_000] {
            let estimate = registers(0..count).estimate() as f64 / count as f64;
            assert!((0.6..1.6).contains(&estimate), "{estimate} of {count}");
        }
    }

    #[test]
    fn names_that_failed_before_the_first_look_are_left_out() {
        let names = |minute, current, previous| RecentNames { minute, current, previous };
        let mut window = NameWindow::new(&names(7, registers(0..40), registers(100..200)));
        assert_eq!(window.estimate(), 0);
        window.add(&names(7, registers(0..60), registers(100..200)));
        assert!((10..=30).contains(&window.estimate()), "{}", window.estimate());
        window.add(&names(8, registers(200..300), registers(0..60)));
        assert!((70..=150).contains(&window.estimate()), "{}", window.estimate());
        let before = window;
        window.add(&names(6, registers(500..900), registers(500..900)));
        assert_eq!(window, before, "a clock that was set back tells nothing");
    }
}

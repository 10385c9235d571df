//! Lateness of the machine: a thread sleeps for a moment again and again, and counts how often it wakes late. What is
//! measured waits for a processor as often.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SLEEP: Duration = Duration::from_millis(5);
/// Time after the end of its sleep from which on a wake-up is late. The tier's detection of limits calls it so, too.
const LATE_AFTER: Duration = Duration::from_millis(20);

/// Wake-ups of the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WakeUps {
    all: u32,
    late: u32,
}

impl WakeUps {
    /// Returns the share of late wake-ups since an earlier time; 0 without any.
    pub(super) fn late_share_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        f64::from(self.late.saturating_sub(earlier.late)) / f64::from(all.max(1))
    }
}

/// Counters of the thread, and the order to end.
#[derive(Debug, Default)]
pub(super) struct Watch {
    all: AtomicU32,
    late: AtomicU32,
    is_over: AtomicBool,
}

impl Watch {
    /// Counts wake-ups until [`Self::end`].
    pub(super) fn run(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let started = Instant::now();
            thread::sleep(SLEEP);
            let is_late = started.elapsed() > SLEEP + LATE_AFTER;
            self.all.fetch_add(1, Ordering::Relaxed);
            self.late.fetch_add(u32::from(is_late), Ordering::Relaxed);
        }
    }

    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn wake_ups(&self) -> WakeUps {
        WakeUps { all: self.all.load(Ordering::Relaxed), late: self.late.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::WakeUps;

    #[test]
    fn lateness_is_a_share_of_the_wake_ups_of_a_time() {
        let (earlier, later) = (WakeUps { all: 100, late: 50 }, WakeUps { all: 300, late: 60 });
        assert_eq!((later.late_share_since(earlier), later.late_share_since(later)), (0.05, 0.0));
    }
}

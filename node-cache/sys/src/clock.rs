//! The clock of what is done for every batch of datagrams.

use libc::{CLOCK_MONOTONIC, clock_gettime, timespec};

/// Nanoseconds of the clock that is never set back, which is the one behind [`Instant`](std::time::Instant). To read two of
/// those and to subtract them takes 60 instructions more.
#[must_use]
#[inline]
#[allow(unsafe_code)]
pub fn nanoseconds() -> u64 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is written there and nowhere else. It cannot fail: every kernel has this clock.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_goes_on_as_the_standard_one_does() {
        let (before, began) = (Instant::now(), nanoseconds());
        std::thread::sleep(Duration::from_millis(2));
        let inside = Duration::from_nanos(nanoseconds() - began);
        assert!(inside >= Duration::from_millis(2) && inside <= before.elapsed(), "{inside:?}");
    }
}

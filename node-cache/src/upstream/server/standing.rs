//! Standing of a server in its group: the share of the queries that it is sent. One word, read without a lock. Pure:
//! the time is a parameter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::timestamp::Timestamp;

/// Time in which the share of a server that returns rises to all (slow start).
pub(super) const SLOW_START: Duration = Duration::from_secs(10);
/// All of the share.
pub(in crate::upstream) const FULL_SHARE: u32 = 256;
/// Share with which slow start begins: a tenth.
const FIRST_SHARE: u32 = FULL_SHARE / 10;
/// Share of a suspected server. The rest shows how the others do.
const SUSPECTED_SHARE: u32 = FULL_SHARE * 3 / 4;

/// Standing of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// A server with all of its share.
    #[default]
    Full,
    /// A server that does badly, while it is not known how the others of its group do.
    Suspected,
    /// A server that is queried when no other one is left.
    Ejected,
    /// A server in slow start since this time.
    Returning(Timestamp),
}

impl Standing {
    /// Returns the share of the queries at `now`.
    fn share(self, now: Timestamp) -> u32 {
        match self {
            Self::Full => FULL_SHARE,
            Self::Suspected => SUSPECTED_SHARE,
            Self::Ejected => 0,
            Self::Returning(since) => {
                let slow_start = SLOW_START.as_micros() as u64;
                let elapsed = now.micros_since(since).min(slow_start);
                FIRST_SHARE + (u64::from(FULL_SHARE - FIRST_SHARE) * elapsed / slow_start) as u32
            }
        }
    }
}

/// Standing of a server as an atomic: two bits of kind, and the time above them.
#[derive(Debug, Default)]
pub(super) struct AtomicStanding(AtomicU64);

impl AtomicStanding {
    /// Returns the share of the queries at `now`.
    pub(super) fn share(&self, now: Timestamp) -> u32 {
        match self.0.load(Ordering::Relaxed) {
            0 => FULL_SHARE,
            word => decoded(word).share(now),
        }
    }

    /// Sets the standing.
    pub(super) fn set(&self, standing: Standing) {
        let word = match standing {
            Standing::Full => 0,
            Standing::Suspected => 1,
            Standing::Ejected => 2,
            Standing::Returning(since) => 3 | since.micros() << 2,
        };
        self.0.store(word, Ordering::Relaxed);
    }
}

const fn decoded(word: u64) -> Standing {
    match word & 3 {
        0 => Standing::Full,
        1 => Standing::Suspected,
        2 => Standing::Ejected,
        _ => Standing::Returning(Timestamp::from_micros(word >> 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returning_server_gets_a_tenth_of_its_share_and_all_of_it_after_ten_seconds() {
        let standing = AtomicStanding::default();
        let at = |seconds: u64| Timestamp::from_micros(1_000_000 * (100 + seconds));
        standing.set(Standing::Returning(at(0)));
        assert_eq!([0, 5, 10, 60].map(|seconds| standing.share(at(seconds))), [25, 140, 256, 256]);
        let shares = [Standing::Full, Standing::Suspected, Standing::Ejected].map(|each| {
            standing.set(each);
            standing.share(at(0))
        });
        assert_eq!(shares, [256, 192, 0]);
    }
}

//! Domains for which one server is lame: it fails for them, while other servers answer. Only queries for those domains
//! go to others first. Pure: the time is a parameter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::timestamp::Timestamp;

/// Refuted failures in a row, without an answer for the domain in between, that make a server lame for it.
const MAX_REFUTED: u32 = 5;
/// Time after which refuted failures are forgotten.
const MEMORY: Duration = Duration::from_secs(60);
/// Time for which a server is lame for a domain, for each time in a row. One more refuted failure after it is the next.
const LAME_PERIOD: Duration = Duration::from_secs(30);
const MAX_LAME_PERIOD: Duration = Duration::from_secs(300);
/// Most domains with refuted failures that are kept. One that makes room loses its count.
const MAX_DOMAINS: usize = 32;
/// Most domains for which a server is lame at a time. A server that fails for more of them is judged as a whole.
const MAX_LAME: usize = 8;

/// Refuted failures of one server by domain. A domain is known by a hash with a random seed.
#[derive(Debug, Default)]
pub(super) struct LameDomains {
    domains: Vec<LameDomain>,
}

#[derive(Debug)]
struct LameDomain {
    hash: u64,
    refuted: u32,
    refuted_at: Timestamp,
    /// Number of times in a row for which the server was lame.
    times: u32,
    lame_until: Timestamp,
}

impl LameDomains {
    /// Returns whether there is no domain with a refuted failure.
    pub(super) const fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Records that another server answered a query for a domain that this one failed to answer. Returns whether the
    /// server is lame for it from now on.
    pub(super) fn record_refuted_failure(&mut self, hash: u64, now: Timestamp) -> bool {
        self.domains.retain(|domain| now < domain.lame_until.max(domain.refuted_at).after(MEMORY));
        let index = self.domains.iter().position(|domain| domain.hash == hash).unwrap_or_else(|| {
            if self.domains.len() >= MAX_DOMAINS {
                let oldest = (0..self.domains.len()).min_by_key(|index| self.domains[*index].refuted_at);
                oldest.map(|index| self.domains.swap_remove(index));
            }
            let domain = LameDomain { hash, refuted: 0, refuted_at: now, times: 0, lame_until: Timestamp::NEVER };
            self.domains.push(domain);
            self.domains.len() - 1
        });
        let Some(domain) = self.domains.get_mut(index) else { return false };
        domain.refuted += 1;
        domain.refuted_at = now;
        if domain.refuted < MAX_REFUTED || now < domain.lame_until {
            return false;
        }
        domain.times += 1;
        domain.refuted = MAX_REFUTED - 1;
        domain.lame_until = now.after((LAME_PERIOD * domain.times).min(MAX_LAME_PERIOD));
        true
    }

    /// Records an answer for a domain. Returns whether the server was lame for it.
    pub(super) fn record_answer(&mut self, hash: u64, now: Timestamp) -> bool {
        let known = self.domains.iter().position(|domain| domain.hash == hash);
        known.is_some_and(|index| now < self.domains.swap_remove(index).lame_until)
    }

    /// Forgets all domains.
    pub(super) fn clear(&mut self) {
        self.domains.clear();
    }
}

/// Domains for which one server is lame now, read without a lock.
#[derive(Debug, Default)]
pub(super) struct LameSet {
    /// When the server is lame for no domain any more: until then each query looks for its domain.
    until: AtomicU64,
    /// Hash of a domain and the end of its time in seconds, 32 bits each.
    slots: [AtomicU64; MAX_LAME],
}

impl LameSet {
    /// Returns whether the server is lame for any domain at `now`.
    pub(super) fn has_any(&self, now: Timestamp) -> bool {
        self.until.load(Ordering::Relaxed) > now.micros()
    }

    /// Returns whether the server is lame for the domain with this hash.
    pub(super) fn contains(&self, hash: u64, now: Timestamp) -> bool {
        self.has_any(now)
            && self.slots.iter().any(|slot| {
                let word = slot.load(Ordering::Relaxed);
                word >> 32 == hash >> 32 && seconds(now) < word & u64::from(u32::MAX)
            })
    }

    /// Returns the number of domains for which the server is lame.
    pub(super) fn len(&self, now: Timestamp) -> usize {
        let is_lame = |slot: &&AtomicU64| seconds(now) < slot.load(Ordering::Relaxed) & u64::from(u32::MAX);
        if self.has_any(now) { self.slots.iter().filter(is_lame).count() } else { 0 }
    }

    /// Replaces the domains by those of `domains` that last longest.
    pub(super) fn publish(&self, domains: &LameDomains, now: Timestamp) {
        let mut lame: Vec<&LameDomain> = domains.domains.iter().filter(|domain| now < domain.lame_until).collect();
        lame.sort_unstable_by_key(|domain| std::cmp::Reverse(domain.lame_until));
        for (index, slot) in self.slots.iter().enumerate() {
            let word = lame.get(index).map(|domain| (domain.hash >> 32) << 32 | seconds(domain.lame_until));
            slot.store(word.unwrap_or_default(), Ordering::Relaxed);
        }
        let until = lame.first().map_or(Timestamp::NEVER, |domain| domain.lame_until);
        self.until.store(until.micros(), Ordering::Relaxed);
    }
}

const fn seconds(time: Timestamp) -> u64 {
    time.micros() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u64 = 1 << 40;
    const OTHER: u64 = 2 << 40;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(1_000_000 * (10 + seconds))
    }

    /// Returns whether the server is lame for both domains.
    fn is_lame(domains: &LameDomains, now: Timestamp) -> [bool; 2] {
        let set = LameSet::default();
        set.publish(domains, now);
        [ONE, OTHER].map(|hash| set.contains(hash, now))
    }

    fn refute(domains: &mut LameDomains, failures: std::ops::Range<u32>, now: Timestamp) {
        for _ in failures {
            domains.record_refuted_failure(ONE, now);
        }
    }

    #[test]
    fn a_server_is_lame_after_five_refuted_failures_and_for_that_domain_only() {
        let mut domains = LameDomains::default();
        assert!((0..4).all(|_| !domains.record_refuted_failure(ONE, at(0))));
        assert_eq!(is_lame(&domains, at(0)), [false, false]);
        assert!(domains.record_refuted_failure(ONE, at(0)));
        assert!(!domains.record_refuted_failure(ONE, at(1)), "it is reported once");
        assert_eq!(is_lame(&domains, at(29)), [true, false]);
        assert_eq!(is_lame(&domains, at(30)), [false, false]);
        assert!(domains.record_refuted_failure(ONE, at(30)), "one more shows it again");
        assert_eq!(is_lame(&domains, at(89)), [true, false]);
    }

    #[test]
    fn an_answer_ends_it() {
        let mut domains = LameDomains::default();
        refute(&mut domains, 0..4, at(0));
        assert!(!domains.record_answer(ONE, at(0)) && domains.is_empty());
        refute(&mut domains, 0..5, at(0));
        assert!(domains.record_answer(ONE, at(1)));
        assert_eq!(is_lame(&domains, at(1)), [false, false]);
    }

    #[test]
    fn failures_of_more_than_a_minute_ago_and_of_too_many_domains_are_forgotten() {
        let mut domains = LameDomains::default();
        refute(&mut domains, 0..4, at(0));
        assert!(!domains.record_refuted_failure(ONE, at(60)));
        for number in 0..1000 {
            domains.record_refuted_failure(number << 32, at(61));
        }
        assert_eq!(domains.domains.len(), MAX_DOMAINS);
    }
}

//! Registered domains whose last upstream queries all failed, in a table of fixed size.

use std::time::Instant;

/// Slots of the table; a domain has one of them.
const SLOTS: usize = 512;
/// Failures in a row that make a domain a failing one.
const MIN_FAILURES: u8 = 16;
/// Failures that are counted, at most. Each failure of another domain of the slot takes one away.
const MAX_FAILURES: u8 = 2 * MIN_FAILURES;

/// Failures in a row of one domain.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Hash of the domain.
    domain: u64,
    failures: u8,
    last_failure: Option<Instant>,
}

/// Failures in a row of registered domains. A domain is a hash under a secret seed, so that no client chooses which
/// domains share a slot. A domain that fails often keeps its slot against those that fail once.
#[derive(Debug)]
pub(super) struct FailingDomains {
    slots: Vec<Slot>,
}

impl Default for FailingDomains {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); SLOTS] }
    }
}

impl FailingDomains {
    /// Counts a failed query of a domain at `now`.
    pub(super) fn record_failure(&mut self, domain: u64, now: Instant) {
        let Some(slot) = self.slot_mut(domain) else { return };
        if slot.domain == domain {
            slot.failures = MAX_FAILURES.min(slot.failures + 1);
            slot.last_failure = Some(now);
        } else if slot.failures == 0 {
            *slot = Slot { domain, failures: 1, last_failure: Some(now) };
        } else {
            slot.failures -= 1;
        }
    }

    /// Ends the failures in a row of a domain: a query of it was answered.
    pub(super) fn record_answer(&mut self, domain: u64) {
        if let Some(slot) = self.slot_mut(domain).filter(|slot| slot.domain == domain) {
            slot.failures = 0;
        }
    }

    /// Returns whether the last [`MIN_FAILURES`] queries of a domain all failed, and the last one of them after
    /// `recovered_at`, when a server of its scope last came up again.
    pub(super) fn is_failing(&self, domain: u64, recovered_at: Option<Instant>) -> bool {
        let slot = self.slots.get(domain as usize % SLOTS);
        slot.is_some_and(|slot| {
            slot.domain == domain && slot.failures >= MIN_FAILURES && slot.last_failure >= recovered_at
        })
    }

    fn slot_mut(&mut self, domain: u64) -> Option<&mut Slot> {
        self.slots.get_mut(domain as usize % SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DOMAIN: u64 = 7;
    /// A domain of the same slot.
    const NEIGHBOUR: u64 = DOMAIN + SLOTS as u64;

    fn fail(domains: &mut FailingDomains, domain: u64, count: u8, now: Instant) {
        (0..count).for_each(|_| domains.record_failure(domain, now));
    }

    #[test]
    fn sixteen_failures_in_a_row_make_a_failing_domain_until_an_answer_or_a_recovery() {
        let now = Instant::now();
        let mut domains = FailingDomains::default();
        fail(&mut domains, DOMAIN, MIN_FAILURES - 1, now);
        assert!(!domains.is_failing(DOMAIN, None));
        fail(&mut domains, DOMAIN, 1, now);
        assert!(domains.is_failing(DOMAIN, None));
        assert!(!domains.is_failing(NEIGHBOUR, None));
        assert!(!domains.is_failing(DOMAIN, Some(now + Duration::from_secs(1))));
        domains.record_answer(NEIGHBOUR);
        assert!(domains.is_failing(DOMAIN, Some(now)));
        domains.record_answer(DOMAIN);
        assert!(!domains.is_failing(DOMAIN, None));
    }

    #[test]
    fn a_domain_keeps_its_slot_against_some_failures_of_others_and_leaves_it_to_many() {
        let now = Instant::now();
        let mut domains = FailingDomains::default();
        fail(&mut domains, DOMAIN, u8::MAX, now);
        fail(&mut domains, NEIGHBOUR, MIN_FAILURES, now);
        assert!(domains.is_failing(DOMAIN, None));
        fail(&mut domains, NEIGHBOUR, 2 * MIN_FAILURES, now);
        assert!(!domains.is_failing(DOMAIN, None) && domains.is_failing(NEIGHBOUR, None));
    }
}

//! Counters of a pod since the start of its processes, and what was counted between two looks.

use std::collections::BTreeMap;

use crate::controller::judge::names::MeasuredNames;

/// Counters of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Counters.
    pub(crate) counts: Counts,
    /// Distinct names of the last two minutes.
    pub(crate) names: MeasuredNames,
}

/// Responses by scope, and what else is counted of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Responses by scope.
    pub(crate) scopes: BTreeMap<String, Responses>,
    /// Cache misses that took 500 ms or longer.
    pub(crate) slow_misses: u64,
    /// Stale answers.
    pub(crate) stale: u64,
    /// Queries to upstreams without a response in time.
    pub(crate) timeouts: u64,
}

/// Responses by rcode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Responses {
    /// Responses with NOERROR.
    pub(crate) noerror: u64,
    /// Responses with NXDOMAIN.
    pub(crate) nxdomain: u64,
    /// Responses with SERVFAIL.
    pub(crate) servfail: u64,
    /// Responses with any other rcode.
    pub(crate) other: u64,
}

impl Responses {
    /// Returns the number of all responses.
    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        self.noerror.saturating_add(self.nxdomain).saturating_add(self.servfail).saturating_add(self.other)
    }

    /// Adds other responses.
    pub(crate) fn add(&mut self, more: &Self) {
        self.noerror = self.noerror.saturating_add(more.noerror);
        self.nxdomain = self.nxdomain.saturating_add(more.nxdomain);
        self.servfail = self.servfail.saturating_add(more.servfail);
        self.other = self.other.saturating_add(more.other);
    }

    fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            noerror: self.noerror.checked_sub(earlier.noerror)?,
            nxdomain: self.nxdomain.checked_sub(earlier.nxdomain)?,
            servfail: self.servfail.checked_sub(earlier.servfail)?,
            other: self.other.checked_sub(earlier.other)?,
        })
    }
}

impl Counts {
    /// Returns what was counted since an earlier look; `None` when a counter has gone back: a process has restarted in
    /// between, and nobody knows what it had counted.
    #[must_use]
    pub(crate) fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.scopes.keys().any(|scope| !self.scopes.contains_key(scope)) {
            return None;
        }
        let mut scopes = BTreeMap::new();
        for (scope, responses) in &self.scopes {
            let before = earlier.scopes.get(scope).copied().unwrap_or_default();
            scopes.insert(scope.clone(), responses.since(&before)?);
        }
        Some(Self {
            scopes,
            slow_misses: self.slow_misses.checked_sub(earlier.slow_misses)?,
            stale: self.stale.checked_sub(earlier.stale)?,
            // The sum of the upstreams that are there: one that goes takes its counter along.
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
        })
    }

    /// Adds other counts.
    pub(crate) fn add(&mut self, more: &Self) {
        for (scope, responses) in &more.scopes {
            match self.scopes.get_mut(scope) {
                Some(sum) => sum.add(responses),
                None => {
                    self.scopes.insert(scope.clone(), *responses);
                }
            }
        }
        self.slow_misses = self.slow_misses.saturating_add(more.slow_misses);
        self.stale = self.stale.saturating_add(more.stale);
        self.timeouts = self.timeouts.saturating_add(more.timeouts);
    }

    /// Returns the responses in one scope, or in all of them together.
    #[must_use]
    pub(crate) fn responses(&self, scope: Option<&str>) -> Responses {
        match scope {
            Some(scope) => self.scopes.get(scope).copied().unwrap_or_default(),
            None => self.scopes.values().fold(Responses::default(), |mut sum, responses| {
                sum.add(responses);
                sum
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(noerror: u64, servfail: u64) -> Counts {
        let responses = Responses { noerror, servfail, ..Responses::default() };
        Counts { scopes: [("outside".to_owned(), responses)].into(), ..Counts::default() }
    }

    #[test]
    fn counters_that_went_back_tell_nothing_of_the_time_between() {
        assert_eq!(counts(10, 2).since(&counts(4, 1)), Some(counts(6, 1)));
        assert_eq!(counts(3, 5).since(&counts(4, 1)), None, "one counter is enough");
        assert_eq!(Counts::default().since(&counts(4, 1)), None, "a scope that is gone");
        assert_eq!(counts(4, 1).since(&Counts::default()), Some(counts(4, 1)), "a scope that is new");
    }

    #[test]
    fn an_upstream_that_goes_takes_its_timeouts_along_and_nothing_else() {
        let of = |noerror, timeouts| Counts { timeouts, ..counts(noerror, 0) };
        assert_eq!(of(10, 3).since(&of(4, 8)), Some(of(6, 0)));
    }

    #[test]
    fn responses_are_summed_over_scopes() {
        let mut sum = counts(10, 2);
        sum.scopes.insert("cluster".to_owned(), Responses { nxdomain: 7, ..Responses::default() });
        assert_eq!((sum.responses(None).total(), sum.responses(Some("cluster")).total()), (19, 7));
        assert_eq!(sum.responses(Some("route/corp.example")), Responses::default());
    }
}

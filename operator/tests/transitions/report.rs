//! Report of a run: what was done, what it covers, and what failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// Counts of one tier, or of all.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Transitions that came to rest.
    pub(crate) rested: usize,
    /// Transitions that were held and went on.
    pub(crate) held: usize,
    /// Specs that the API server refused.
    pub(crate) refused: usize,
    /// Errors, by their reason.
    pub(crate) errors: BTreeMap<String, usize>,
    /// Specs that were taken back.
    pub(crate) reverted: usize,
    /// Values that were there already.
    pub(crate) idle: usize,
    /// Transitions that began from the first spec.
    pub(crate) begun_anew: usize,
    /// Fields whose change had an effect of its own.
    pub(crate) covered: BTreeSet<String>,
    /// Tiers that were at rest and had something left to do.
    pub(crate) left_rest: usize,
    /// Longest time for which a workload was not healthy while its tier was at rest.
    pub(crate) longest_lag: Duration,
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Notes a field whose change had an effect.
    pub(crate) fn cover(&mut self, path: &str) {
        self.covered.insert(path.to_owned());
    }

    /// Notes a failure.
    pub(crate) fn fail(&mut self, failure: String) {
        self.failures.push(failure);
    }

    /// Adds what another tier did.
    pub(crate) fn add(&mut self, other: Self) {
        self.rested += other.rested;
        self.held += other.held;
        self.refused += other.refused;
        self.reverted += other.reverted;
        self.idle += other.idle;
        self.begun_anew += other.begun_anew;
        self.left_rest += other.left_rest;
        self.covered.extend(other.covered);
        self.failures.extend(other.failures);
        self.longest_lag = self.longest_lag.max(other.longest_lag);
        for (reason, count) in other.errors {
            *self.errors.entry(reason).or_default() += count;
        }
    }

    /// Returns the number of errors.
    pub(crate) fn errors(&self) -> usize {
        self.errors.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rested, held, refused, reverted, idle, begun_anew, left_rest, .. } = self;
        write!(
            formatter,
            "{} transitions: {rested} came to rest, {held} of them held on the way, {} were errors ({:?}); {refused} \
             specs were refused by the API server; {reverted} were taken back; {idle} values were there already, \
             {begun_anew} transitions began from the first spec; {} fields had an effect; {left_rest} times a tier at \
             rest had something left to do; workloads were behind their tier for {:.1?} at most; {} failures",
            rested + self.errors(),
            self.errors(),
            self.errors,
            self.covered.len(),
            self.longest_lag,
            self.failures.len(),
        )
    }
}

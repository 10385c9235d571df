//! Liveness of the operator, for `/healthz`: fails while one reconciliation has been running for too long, or when the
//! election stands still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Duration of a reconciliation above which the operator counts as stuck. Each request of it ends after seconds.
const MAX_RECONCILE_DURATION: Duration = Duration::from_secs(120);

/// Time without the end of a look at the Lease above which the operator counts as stuck. A look ends after 2 s, with a
/// response or without.
const MAX_LOOK_AGE: Duration = Duration::from_secs(120);

/// Reconciliations that are running, and the last look at the Lease.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    /// Start of the reconciliation of each tier.
    running: Mutex<BTreeMap<String, Instant>>,
    /// End of the last look at the Lease; the start of the election before the first.
    last_look: Mutex<Option<Instant>>,
}

impl Liveness {
    /// Records that a reconciliation of a tier starts. It ends when the returned value is dropped.
    #[must_use]
    pub(crate) fn start(self: &Arc<Self>, tier: &str, now: Instant) -> RunningReconcile {
        self.lock().insert(tier.to_owned(), now);
        RunningReconcile { liveness: self.clone(), tier: tier.to_owned() }
    }

    /// Records the end of a look at the Lease, with any result: an API server that is away is no fault of this process.
    pub(crate) fn record_look(&self, now: Instant) {
        *self.last_look.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Returns whether the operator makes progress.
    ///
    /// # Errors
    ///
    /// A sentence about what is stuck.
    pub(crate) fn check(&self, now: Instant) -> Result<(), String> {
        let last_look = *self.last_look.lock().unwrap_or_else(PoisonError::into_inner);
        let age = last_look.map_or(Duration::ZERO, |look| now.saturating_duration_since(look));
        if age >= MAX_LOOK_AGE {
            return Err(format!("no look at the Lease has ended for {} s", age.as_secs()));
        }
        match overdue(&self.lock(), now) {
            Some((tier, duration)) => {
                Err(format!("the reconciliation of tier {tier} has been running for {} s", duration.as_secs()))
            }
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Running reconciliation of a tier.
#[derive(Debug)]
pub(crate) struct RunningReconcile {
    liveness: Arc<Liveness>,
    tier: String,
}

impl Drop for RunningReconcile {
    fn drop(&mut self) {
        self.liveness.lock().remove(&self.tier);
    }
}

/// Returns the tier whose reconciliation has been running for the longest time, if that is too long, and the time.
fn overdue(running: &BTreeMap<String, Instant>, now: Instant) -> Option<(&str, Duration)> {
    let (tier, start) = running.iter().min_by_key(|(_, start)| **start)?;
    let duration = now.saturating_duration_since(*start);
    (duration >= MAX_RECONCILE_DURATION).then_some((tier.as_str(), duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconciliation_that_runs_for_two_minutes_is_no_progress_whatever_the_other_tiers_do() {
        let liveness = Arc::new(Liveness::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stuck = liveness.start("stuck", start);
        for second in 0..120 {
            let _quick = liveness.start("quick", at(second));
            assert_eq!(liveness.check(at(second)), Ok(()), "{second}");
        }
        let sentence = liveness.check(at(125)).unwrap_err();
        assert_eq!(sentence, "the reconciliation of tier stuck has been running for 125 s");
        drop(stuck);
        assert_eq!(liveness.check(at(125)), Ok(()));
    }

    #[test]
    fn an_election_that_stands_still_for_two_minutes_is_no_progress() {
        let liveness = Liveness::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(liveness.check(at(600)), Ok(()), "it has not begun");
        liveness.record_look(start);
        assert_eq!(liveness.check(at(119)), Ok(()));
        assert_eq!(liveness.check(at(120)), Err("no look at the Lease has ended for 120 s".to_owned()));
        liveness.record_look(at(121));
        assert_eq!(liveness.check(at(122)), Ok(()));
    }

    #[test]
    fn an_operator_without_tiers_is_live() {
        assert_eq!(Liveness::default().check(Instant::now()), Ok(()));
    }
}

//! Decision about the claim of a tier: whether this release acts on the tier, claims it, or leaves it to the release
//! that has claimed it.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two looks at the Lease of the release that has claimed a tier.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Time without a change of the Lease after which the claim of its release ends.
const MAX_LEASE_AGE: Duration = Duration::from_secs(60);
/// How long a claim that was written may be missing from the store of the watch.
const MAX_STORE_LAG: Duration = Duration::from_secs(30);
/// Time between two claims where a CustomResourceDefinition of an older version drops them.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// Next step of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on: the tier is that of this release.
    Reconcile,
    /// Claim the tier: nobody has, or nobody who is still there.
    Claim,
    /// Look at the Lease of the release that has claimed the tier.
    Look,
    /// Leave the tier to the release that has claimed it, and look again after this time.
    Wait(Duration),
}

/// State of the claim of one tier.
#[derive(Clone, Debug, Default)]
pub(super) struct ClaimState {
    written: Option<WrittenClaim>,
    foreign: Option<ForeignClaim>,
}

/// Claim that this process has written.
#[derive(Clone, Debug)]
struct WrittenClaim {
    /// Namespace that was in its place.
    replaced: Option<String>,
    /// Time until which the old value is taken for the new one.
    until: Instant,
}

/// Claim of another release.
#[derive(Clone, Debug)]
struct ForeignClaim {
    namespace: String,
    lease: Option<LeaseSight>,
    next_look: Instant,
    is_gone: bool,
    is_told: bool,
}

/// Lease of the other release, as last seen.
#[derive(Clone, Debug)]
struct LeaseSight {
    /// Version; `None` when there is no Lease.
    version: Option<String>,
    /// Time at which it was first seen so.
    since: Instant,
}

impl ClaimState {
    /// Returns the next step for a tier that the release of the namespace `claimed` has claimed.
    pub(super) fn next(&mut self, claimed: Option<&str>, own: &str, now: Instant) -> Step {
        let is_lag = |written: &WrittenClaim| now < written.until && written.replaced.as_deref() == claimed;
        if claimed == Some(own) || self.written.as_ref().is_some_and(is_lag) {
            self.foreign = None;
            return Step::Reconcile;
        }
        let Some(claimed) = claimed else {
            self.foreign = None;
            return Step::Claim;
        };
        if self.foreign.as_ref().is_none_or(|foreign| foreign.namespace != claimed) {
            let namespace = claimed.to_owned();
            self.foreign =
                Some(ForeignClaim { namespace, lease: None, next_look: now, is_gone: false, is_told: false });
        }
        match &self.foreign {
            Some(foreign) if !foreign.is_gone && now < foreign.next_look => Step::Wait(foreign.next_look - now),
            Some(foreign) if !foreign.is_gone => Step::Look,
            _ => Step::Claim,
        }
    }

    /// Records the version of the other release's Lease; `None` when there is none. The claim ends when the Lease has
    /// not changed for a minute, or was missing twice: a leader whose Lease was deleted creates it again in seconds.
    pub(super) fn record_lease(&mut self, version: Option<&str>, now: Instant) {
        let Some(foreign) = &mut self.foreign else { return };
        foreign.next_look = now + LOOK_INTERVAL;
        match &foreign.lease {
            Some(lease) if lease.version.as_deref() == version => {
                let max_age = if version.is_some() { MAX_LEASE_AGE } else { LOOK_INTERVAL };
                foreign.is_gone = now.saturating_duration_since(lease.since) >= max_age;
            }
            _ => foreign.lease = Some(LeaseSight { version: version.map(str::to_owned), since: now }),
        }
    }

    /// Records that the Lease could not be read, which says nothing about it.
    pub(super) fn record_failure(&mut self, now: Instant) {
        if let Some(foreign) = &mut self.foreign {
            foreign.next_look = now + LOOK_INTERVAL;
        }
    }

    /// Records that the claim was not written. The other release may be back: its Lease is looked at once more.
    pub(super) fn record_refusal(&mut self, now: Instant) {
        if let Some(foreign) = &mut self.foreign {
            (foreign.is_gone, foreign.next_look) = (false, now);
        }
    }

    /// Returns whether people are to be told of the other release, which is once.
    pub(super) fn tell(&mut self) -> bool {
        self.foreign.as_mut().is_some_and(|foreign| !std::mem::replace(&mut foreign.is_told, true))
    }

    /// Records a claim that was written in the place of another, and whether the API server has kept it.
    pub(super) fn record_claim(&mut self, replaced: Option<&str>, is_kept: bool, now: Instant) {
        let until = now + if is_kept { MAX_STORE_LAG } else { RETRY_INTERVAL };
        self.written = Some(WrittenClaim { replaced: replaced.map(str::to_owned), until });
        self.foreign = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "dnstier-system";
    const OTHER: &str = "elsewhere";

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Lets a process look for as long as it does not claim the tier, and returns when it does. `version` is that of
    /// the other Lease at each second.
    fn takeover(start: Instant, version: impl Fn(u64) -> Option<String>) -> Option<u64> {
        let mut state = ClaimState::default();
        for second in 0..300 {
            let now = start + seconds(second);
            match state.next(Some(OTHER), OWN, now) {
                Step::Claim => return Some(second),
                Step::Look => {
                    state.record_lease(version(second).as_deref(), now);
                    if state.next(Some(OTHER), OWN, now) == Step::Claim {
                        return Some(second);
                    }
                }
                Step::Wait(_) => {}
                Step::Reconcile => panic!("it is not ours"),
            }
        }
        None
    }

    #[test]
    fn an_own_claim_and_none_need_no_look_at_any_lease() {
        let mut state = ClaimState::default();
        let now = Instant::now();
        assert_eq!(state.next(Some(OWN), OWN, now), Step::Reconcile);
        assert_eq!(state.next(None, OWN, now), Step::Claim);
    }

    #[test]
    fn a_release_that_renews_its_lease_keeps_its_tier_however_seldom_it_is_looked_at() {
        let start = Instant::now();
        assert_eq!(takeover(start, |second| Some(format!("{}", second / 2))), None);
        assert_eq!(takeover(start, |second| Some(format!("{}", second / 50))), None);
    }

    #[test]
    fn a_tier_of_a_release_that_is_gone_is_taken_over_within_ninety_seconds() {
        let start = Instant::now();
        for gone_at in 0..30 {
            let stands = takeover(start, |second| Some(second.min(gone_at).to_string())).unwrap();
            assert!(stands >= gone_at.max(60) && stands <= gone_at + 80, "{stands} after {gone_at}");
            let is_deleted = takeover(start, |second| (second < gone_at).then(|| second.to_string())).unwrap();
            assert!(is_deleted <= gone_at + 30, "{is_deleted} after {gone_at}");
        }
    }

    #[test]
    fn a_claim_that_was_not_written_is_tried_again_when_the_lease_of_the_other_release_still_stands_still() {
        let start = Instant::now();
        let mut state = ClaimState::default();
        for second in [0, 60] {
            assert_eq!(state.next(Some(OTHER), OWN, start + seconds(second)), Step::Look);
            state.record_lease(Some("1"), start + seconds(second));
        }
        let now = start + seconds(61);
        assert_eq!(state.next(Some(OTHER), OWN, now), Step::Claim);
        state.record_refusal(now);
        assert_eq!(state.next(Some(OTHER), OWN, now), Step::Look);
        state.record_lease(Some("1"), now);
        assert_eq!(state.next(Some(OTHER), OWN, now), Step::Claim);
        state.record_refusal(now);
        assert_eq!(state.next(Some(OTHER), OWN, now), Step::Look);
        state.record_lease(Some("2"), now);
        assert_eq!(state.next(Some(OTHER), OWN, now), Step::Wait(LOOK_INTERVAL));
    }

    #[test]
    fn a_lease_that_is_created_again_or_cannot_be_read_ends_no_claim() {
        let start = Instant::now();
        assert_eq!(takeover(start, |second| (second % 20 < 10).then(|| second.to_string())), None);
        let mut state = ClaimState::default();
        for minute in 0..10 {
            let now = start + seconds(60 * minute);
            assert_eq!(state.next(Some(OTHER), OWN, now), Step::Look);
            state.record_failure(now);
            assert_eq!(state.next(Some(OTHER), OWN, now), Step::Wait(LOOK_INTERVAL));
        }
    }

    #[test]
    fn a_claim_is_written_once_even_where_it_is_dropped_or_not_seen_yet() {
        let start = Instant::now();
        for replaced in [None, Some(OTHER)] {
            let mut state = ClaimState::default();
            state.record_claim(replaced, true, start);
            assert_eq!(state.next(replaced, OWN, start + seconds(5)), Step::Reconcile);
            assert_eq!(state.next(Some("third"), OWN, start + seconds(5)), Step::Look, "somebody else was faster");
        }
        let mut state = ClaimState::default();
        state.record_claim(None, false, start);
        for second in 0..600 {
            assert_eq!(state.next(None, OWN, start + seconds(second)), Step::Reconcile);
        }
        assert_eq!(state.next(None, OWN, start + seconds(600)), Step::Claim);
    }

    #[test]
    fn people_are_told_once_of_each_release_that_has_claimed_a_tier() {
        let mut state = ClaimState::default();
        let now = Instant::now();
        assert!(!state.tell());
        for (claimed, is_told) in [(OTHER, true), (OTHER, false), ("third", true), ("third", false)] {
            state.next(Some(claimed), OWN, now);
            assert_eq!(state.tell(), is_told, "{claimed}");
        }
    }
}

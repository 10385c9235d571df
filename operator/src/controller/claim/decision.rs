//! Decision about the claim of a tier: whether this release acts on the tier, claims it, or leaves it to the release
//! that has claimed it.

use std::time::Duration;

use tokio::time::Instant;

use crate::controller::observe::own_writes::MAX_LAG;
use crate::leader::Term;

/// Time between two looks at the Lease of the release that has claimed a tier, or at a tier whose store is behind.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Time without a change of the Lease after which the claim of its release ends.
const MAX_LEASE_AGE: Duration = Duration::from_secs(60);
/// Time between two claims where a CustomResourceDefinition of an older version drops them.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// Next step of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on: the tier is that of this release.
    Reconcile,
    /// Read the tier from the API server: the store says that it is that of this release, and may be minutes old.
    Check,
    /// Claim the tier: nobody has, or nobody who is still there.
    Claim,
    /// Look at the Lease of the release that has claimed the tier.
    Look,
    /// Leave the tier to the release that has claimed it, and look again after this time.
    Wait(Duration),
}

/// A tier, as the store has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredTier<'a> {
    /// Version.
    pub(super) version: Option<&'a str>,
    /// Namespace of the release that has claimed the tier.
    pub(super) claimed: Option<&'a str>,
}

/// Claim of a tier, as the API server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CurrentClaim<'a> {
    /// The tier is gone, or was created again.
    Gone,
    /// No release has claimed the tier.
    Unclaimed,
    /// The release in this namespace has claimed the tier.
    Of(&'a str),
}

/// State of the claim of one tier.
#[derive(Clone, Debug, Default)]
pub(super) struct ClaimState {
    written: Option<WrittenClaim>,
    foreign: Option<ForeignClaim>,
    /// Term of this process in which the API server had the claim of this release. A release loses its claim only to
    /// one that has seen no leader for a minute: not within a term.
    checked: Option<Term>,
    /// Time of the next check, after one by which the tier is not that of this release.
    next_check: Option<Instant>,
}

/// Claim that this process has written.
#[derive(Clone, Debug)]
struct WrittenClaim {
    /// Version of the tier that it replaced.
    version: Option<String>,
    /// Namespace that was in its place.
    replaced: Option<String>,
    /// Whether the API server has kept it.
    is_kept: bool,
    time: Instant,
}

impl WrittenClaim {
    /// Returns whether the claim counts although the store does not have it: the store lags, or no store will have it.
    fn counts_for(&self, stored: StoredTier<'_>, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.time);
        if self.is_kept {
            self.version.as_deref() == stored.version && age < MAX_LAG
        } else {
            self.replaced.as_deref() == stored.claimed && age < RETRY_INTERVAL
        }
    }
}

/// Claim of another release.
#[derive(Clone, Debug)]
struct ForeignClaim {
    namespace: String,
    lease: Option<LeaseSight>,
    next_look: Instant,
    is_gone: bool,
    notice: Notice,
}

/// Notice to people about a release that has claimed a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// Notice that is to be published.
    Due,
    /// Notice whose publication was tried. The notice is due again after the next look at the Lease.
    Tried,
    /// Notice that was published.
    Published,
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
    /// Returns the next step of the release in the namespace `own` for a tier, in a term of this process.
    pub(super) fn next(&mut self, stored: StoredTier<'_>, own: &str, term: Term, now: Instant) -> Step {
        let is_written = self.written.as_ref().is_some_and(|written| written.counts_for(stored, now));
        if stored.claimed == Some(own) || is_written {
            self.foreign = None;
            return match self.next_check {
                _ if self.checked == Some(term) => Step::Reconcile,
                Some(next) if now < next => Step::Wait(next - now),
                _ => Step::Check,
            };
        }
        let Some(claimed) = stored.claimed else {
            self.foreign = None;
            return Step::Claim;
        };
        if self.foreign.as_ref().is_none_or(|foreign| foreign.namespace != claimed) {
            let namespace = claimed.to_owned();
            let (lease, next_look, is_gone, notice) = (None, now, false, Notice::Due);
            self.foreign = Some(ForeignClaim { namespace, lease, next_look, is_gone, notice });
        }
        match &self.foreign {
            Some(foreign) if !foreign.is_gone && now < foreign.next_look => Step::Wait(foreign.next_look - now),
            Some(foreign) if !foreign.is_gone => Step::Look,
            _ => Step::Claim,
        }
    }

    /// Records the claim that the API server has, and returns whether the tier is that of the release in the namespace
    /// `own`. A definition of an older version drops what was written.
    pub(super) fn record_check(&mut self, current: CurrentClaim<'_>, own: &str, term: Term, now: Instant) -> bool {
        let is_dropped = || self.written.as_ref().is_some_and(|written| !written.is_kept);
        let is_own = match current {
            CurrentClaim::Gone => false,
            CurrentClaim::Unclaimed => is_dropped(),
            CurrentClaim::Of(claimed) => claimed == own,
        };
        self.checked = is_own.then_some(term);
        self.next_check = (!is_own).then(|| now + LOOK_INTERVAL);
        is_own
    }

    /// Records the version of the other release's Lease; `None` when there is none. The claim ends when the Lease has
    /// not changed for a minute, or was missing twice: a leader whose Lease was deleted creates it again in seconds.
    pub(super) fn record_lease(&mut self, version: Option<&str>, now: Instant) {
        let Some(foreign) = &mut self.foreign else { return };
        foreign.end_look(now);
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
            foreign.end_look(now);
        }
    }

    /// Records that a claim is about to be written. Unless [`Self::record_claim`] follows, the Lease of the other
    /// release is looked at once more, because that release may be back: the claim was refused, or was dropped with
    /// the term of this process.
    pub(super) fn begin_claim(&mut self, now: Instant) {
        if let Some(foreign) = &mut self.foreign {
            (foreign.is_gone, foreign.next_look) = (false, now);
        }
    }

    /// Returns whether people are to be told of the other release now.
    pub(super) fn tell(&mut self) -> bool {
        let due = self.foreign.as_mut().filter(|foreign| foreign.notice == Notice::Due);
        due.map(|foreign| foreign.notice = Notice::Tried).is_some()
    }

    /// Records that people were told of the other release, which is once.
    pub(super) fn record_notice(&mut self) {
        if let Some(foreign) = &mut self.foreign {
            foreign.notice = Notice::Published;
        }
    }

    /// Records a claim that was written in a term in the place of what the store has, and whether the API server has
    /// kept it.
    pub(super) fn record_claim(&mut self, stored: StoredTier<'_>, is_kept: bool, term: Term, now: Instant) {
        let [version, replaced] = [stored.version, stored.claimed].map(|text| text.map(str::to_owned));
        self.written = Some(WrittenClaim { version, replaced, is_kept, time: now });
        self.foreign = None;
        (self.checked, self.next_check) = (Some(term), None);
    }
}

impl ForeignClaim {
    /// Records the end of a look at the Lease, after which the next one waits and a notice that failed is due again.
    fn end_look(&mut self, now: Instant) {
        self.next_look = now + LOOK_INTERVAL;
        if self.notice == Notice::Tried {
            self.notice = Notice::Due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "dnstier-system";
    const OTHER: &str = "elsewhere";
    const TERM: Term = 1;

    /// Returns a tier of version 7 that a release has claimed.
    fn claimed_by(claimed: Option<&str>) -> StoredTier<'_> {
        StoredTier { version: Some("7"), claimed }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Lets a process look for as long as it does not claim the tier, and returns when it does. `version` is that of
    /// the other Lease at each second.
    fn takeover(start: Instant, version: impl Fn(u64) -> Option<String>) -> Option<u64> {
        let mut state = ClaimState::default();
        for second in 0..300 {
            let now = start + seconds(second);
            match state.next(claimed_by(Some(OTHER)), OWN, TERM, now) {
                Step::Claim => return Some(second),
                Step::Look => {
                    state.record_lease(version(second).as_deref(), now);
                    if state.next(claimed_by(Some(OTHER)), OWN, TERM, now) == Step::Claim {
                        return Some(second);
                    }
                }
                Step::Wait(_) => {}
                Step::Reconcile | Step::Check => panic!("it is not ours"),
            }
        }
        None
    }

    #[test]
    fn an_own_claim_and_none_need_no_look_at_any_lease() {
        let mut state = ClaimState::default();
        let now = Instant::now();
        assert_eq!(state.next(claimed_by(Some(OWN)), OWN, TERM, now), Step::Check);
        assert_eq!(state.next(claimed_by(None), OWN, TERM, now), Step::Claim);
    }

    #[test]
    fn an_own_claim_is_read_from_the_api_server_once_in_each_term() {
        let (mut state, start) = (ClaimState::default(), Instant::now());
        for term in [1, 2] {
            assert_eq!(state.next(claimed_by(Some(OWN)), OWN, term, start), Step::Check);
            assert!(state.record_check(CurrentClaim::Of(OWN), OWN, term, start));
            for second in [0, 5, 3_600] {
                let step = state.next(claimed_by(Some(OWN)), OWN, term, start + seconds(second));
                assert_eq!(step, Step::Reconcile, "term {term}, {second} s");
            }
        }
    }

    #[test]
    fn an_own_claim_of_a_store_that_is_behind_counts_once_the_api_server_has_it_again() {
        for current in [CurrentClaim::Of(OTHER), CurrentClaim::Unclaimed, CurrentClaim::Gone] {
            let (mut state, start) = (ClaimState::default(), Instant::now());
            let mut next = |second: u64, found: Option<CurrentClaim<'_>>| {
                let now = start + seconds(second);
                let step = state.next(claimed_by(Some(OWN)), OWN, TERM, now);
                let is_own = found.map(|found| state.record_check(found, OWN, TERM, now));
                (step, is_own)
            };
            assert_eq!(next(0, Some(current)), (Step::Check, Some(false)), "{current:?}");
            assert_eq!(next(1, None), (Step::Wait(seconds(9)), None));
            assert_eq!(next(10, Some(current)), (Step::Check, Some(false)));
            assert_eq!(next(20, Some(CurrentClaim::Of(OWN))), (Step::Check, Some(true)));
            assert_eq!(next(21, None), (Step::Reconcile, None));
        }
    }

    #[test]
    fn a_claim_that_was_written_is_read_again_in_the_next_term_also_where_it_was_dropped() {
        for (is_kept, current) in [(true, CurrentClaim::Of(OWN)), (false, CurrentClaim::Unclaimed)] {
            let (mut state, start) = (ClaimState::default(), Instant::now());
            state.record_claim(claimed_by(None), is_kept, TERM, start);
            assert_eq!(state.next(claimed_by(None), OWN, TERM, start), Step::Reconcile);
            assert_eq!(state.next(claimed_by(None), OWN, TERM + 1, start), Step::Check);
            assert!(!state.clone().record_check(CurrentClaim::Of(OTHER), OWN, TERM + 1, start));
            assert!(state.record_check(current, OWN, TERM + 1, start));
            assert_eq!(state.next(claimed_by(None), OWN, TERM + 1, start), Step::Reconcile);
        }
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
            assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, start + seconds(second)), Step::Look);
            state.record_lease(Some("1"), start + seconds(second));
        }
        let now = start + seconds(61);
        assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Claim);
        state.begin_claim(now);
        assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Look);
        state.record_lease(Some("1"), now);
        assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Claim);
        state.begin_claim(now);
        assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Look);
        state.record_lease(Some("2"), now);
        assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Wait(LOOK_INTERVAL));
    }

    #[test]
    fn a_lease_that_is_created_again_or_cannot_be_read_ends_no_claim() {
        let start = Instant::now();
        assert_eq!(takeover(start, |second| (second % 20 < 10).then(|| second.to_string())), None);
        let mut state = ClaimState::default();
        for minute in 0..10 {
            let now = start + seconds(60 * minute);
            assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Look);
            state.record_failure(now);
            assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Wait(LOOK_INTERVAL));
        }
    }

    #[test]
    fn a_claim_counts_for_as_long_as_the_watch_has_the_version_that_it_replaced() {
        let start = Instant::now();
        for claimed in [None, Some(OTHER)] {
            let mut state = ClaimState::default();
            state.record_claim(claimed_by(claimed), true, TERM, start);
            for second in [0, 31, 330, 599] {
                assert_eq!(state.next(claimed_by(claimed), OWN, TERM, start + seconds(second)), Step::Reconcile);
            }
            let newer = |claimed| StoredTier { version: Some("9"), claimed };
            let mut after_another_write = state.clone();
            let mut next = |claimed| after_another_write.next(newer(claimed), OWN, TERM, start);
            assert_eq!(next(None), Step::Claim, "somebody has taken it away");
            assert_eq!(next(Some("third")), Step::Look, "a third has it now");
            assert_ne!(state.next(claimed_by(claimed), OWN, TERM, start + MAX_LAG), Step::Reconcile);
        }
    }

    #[test]
    fn a_claim_that_the_api_server_drops_is_written_once_in_ten_minutes() {
        let start = Instant::now();
        let mut state = ClaimState::default();
        state.record_claim(claimed_by(None), false, TERM, start);
        for second in 0..600_u64 {
            let version = (7 + second).to_string();
            let stored = StoredTier { version: Some(&version), claimed: None };
            assert_eq!(state.next(stored, OWN, TERM, start + seconds(second)), Step::Reconcile);
        }
        assert_eq!(state.next(claimed_by(None), OWN, TERM, start + seconds(600)), Step::Claim);
    }

    #[test]
    fn people_are_told_once_of_each_release_that_has_claimed_a_tier() {
        let mut state = ClaimState::default();
        let now = Instant::now();
        assert!(!state.tell());
        for (claimed, is_told) in [(OTHER, true), (OTHER, false), ("third", true), ("third", false)] {
            state.next(claimed_by(Some(claimed)), OWN, TERM, now);
            assert_eq!(state.tell(), is_told, "{claimed}");
            state.record_notice();
            state.record_lease(Some("1"), now);
        }
    }

    #[test]
    fn a_notice_that_fails_is_tried_again_after_each_look() {
        let mut state = ClaimState::default();
        let start = Instant::now();
        for look in 0..5 {
            let now = start + LOOK_INTERVAL * look;
            assert_eq!(state.next(claimed_by(Some(OTHER)), OWN, TERM, now), Step::Look);
            if look % 2 == 0 {
                state.record_lease(Some(&look.to_string()), now);
            } else {
                state.record_failure(now);
            }
            assert_eq!([state.tell(), state.tell()], [true, false], "{look}");
        }
    }
}

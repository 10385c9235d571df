//! Contests: objects whose fields another manager sets back again and again. The operator leaves such an object alone
//! for a while, so that two writers do not overwrite each other for ever.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dnstier_crds::conditions::Reason;
use tokio::time::Instant;

use crate::controller::apply::field_managers::Parties;
use crate::controller::finding::Finding;
use crate::controller::text::join_some;

/// Number of times that an object is set back before it is contested.
const SET_BACKS: usize = 3;
/// Time within which they count.
const WINDOW: Duration = Duration::from_secs(600);
/// How long a contested object is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(600);

/// Objects that were set back, by tier, then by kind, namespace and name.
#[derive(Debug, Default)]
pub(super) struct Contests {
    tiers: Mutex<HashMap<String, BTreeMap<String, History>>>,
}

/// Decision about an object that is not up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The object is applied.
    Apply,
    /// The object was set back once more and is contested from now on: who did that is to be found out.
    Contest,
    /// The object is contested and left alone.
    LeaveAlone,
}

/// History of an object.
#[derive(Debug, Default)]
struct History {
    /// Hash of the desired object of the last apply of this process.
    applied: Option<String>,
    /// Times at which the object was found set back.
    set_backs: Vec<Instant>,
    /// Whether the last one is counted: an apply that fails leaves the object as it is.
    is_counted: bool,
    contest: Option<Contest>,
}

/// Contest of an object.
#[derive(Debug)]
struct Contest {
    /// Hash of the desired object that was not kept.
    hash: String,
    /// End of the time for which the object is left alone.
    until: Instant,
    /// Fields and manager, in words.
    parties: String,
}

impl History {
    /// Decides about an object that differs from the desired one with this hash. `is_applied` tells whether the object
    /// says that this very desired object was applied to it.
    fn decide(&mut self, hash: &str, is_applied: bool, now: Instant) -> Decision {
        if let Some(contest) = &self.contest {
            if now < contest.until {
                // Another desired object is applied once.
                return if contest.hash == hash { Decision::LeaveAlone } else { Decision::Apply };
            }
            *self = Self::default();
            return Decision::Apply;
        }
        let is_set_back = is_applied || self.applied.as_deref() == Some(hash);
        if !is_set_back || self.is_counted {
            return Decision::Apply;
        }
        self.is_counted = true;
        self.set_backs.retain(|time| now.saturating_duration_since(*time) < WINDOW);
        self.set_backs.push(now);
        if self.set_backs.len() < SET_BACKS {
            return Decision::Apply;
        }
        self.contest = Some(Contest { hash: hash.to_owned(), until: now + LEFT_ALONE, parties: String::new() });
        Decision::Contest
    }

    fn record_apply(&mut self, hash: &str) {
        self.applied = Some(hash.to_owned());
        self.is_counted = false;
        if let Some(contest) = &mut self.contest {
            hash.clone_into(&mut contest.hash);
        }
    }
}

impl Contests {
    /// Decides about an object of a tier that differs from the desired one with this hash.
    pub(super) fn decide(&self, tier: &str, object: &str, hash: &str, is_applied: bool, now: Instant) -> Decision {
        let mut tiers = self.lock();
        let objects = tiers.entry(tier.to_owned()).or_default();
        objects.entry(object.to_owned()).or_default().decide(hash, is_applied, now)
    }

    /// Begins the contest of an object between the operator and these parties; `None` when nobody sets it back.
    pub(super) fn begin(&self, tier: &str, object: &str, parties: Option<&Parties>) {
        let Some(Parties { fields, managers }) = parties else { return self.forget(tier, object) };
        tracing::warn!(tier, object, ?fields, ?managers, "an object is set back again and again and left alone");
        let by = match managers.as_slice() {
            [] => "another writer".to_owned(),
            managers => format!("the field manager {}", join_some(managers)),
        };
        let mut tiers = self.lock();
        let history = tiers.get_mut(tier).and_then(|objects| objects.get_mut(object));
        if let Some(contest) = history.and_then(|history| history.contest.as_mut()) {
            contest.parties = format!("{object}: {by} sets back {}", join_some(fields));
        }
    }

    /// Records that an object was applied.
    pub(super) fn record_apply(&self, tier: &str, object: &str, hash: &str) {
        if let Some(history) = self.lock().get_mut(tier).and_then(|objects| objects.get_mut(object)) {
            history.record_apply(hash);
        }
    }

    /// Ends the contest of an object that is as it should be.
    pub(super) fn settle(&self, tier: &str, object: &str) {
        if let Some(history) = self.lock().get_mut(tier).and_then(|objects| objects.get_mut(object)) {
            history.contest = None;
        }
    }

    /// Ends the contests of all objects of a tier but these, and forgets those that nobody has set back lately.
    pub(super) fn retain(&self, tier: &str, is_contested: impl Fn(&str) -> bool, now: Instant) {
        let mut tiers = self.lock();
        let Some(objects) = tiers.get_mut(tier) else { return };
        objects.retain(|object, history| {
            if !is_contested(object) {
                history.contest = None;
            }
            let is_recent = |time: &Instant| now.saturating_duration_since(*time) < WINDOW;
            history.contest.is_some() || history.set_backs.iter().any(is_recent)
        });
    }

    /// Forgets an object that was deleted.
    pub(super) fn forget(&self, tier: &str, object: &str) {
        if let Some(objects) = self.lock().get_mut(tier) {
            objects.remove(object);
        }
    }

    /// Returns the finding that names the contested objects of a tier; `None` without any.
    #[must_use]
    pub(super) fn finding(&self, tier: &str, now: Instant) -> Option<Finding> {
        let tiers = self.lock();
        let contests = tiers.get(tier)?.values().filter_map(|history| history.contest.as_ref());
        let contests: Vec<String> =
            contests.filter(|contest| now < contest.until).map(|contest| contest.parties.clone()).collect();
        let message = format!(
            "{}. The operator leaves it alone and tries again after {} min: let one writer decide.",
            join_some(&contests),
            LEFT_ALONE.as_secs() / 60
        );
        (!contests.is_empty()).then(|| Finding::new(Reason::FieldContested, message))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, History>>> {
        self.tiers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = "Deployment dnstier-system/a";

    /// Lets an object be found set back and, where it is applied, the apply succeed.
    fn set_back(contests: &Contests, hash: &str, now: Instant) -> Decision {
        let decision = contests.decide("default", OBJECT, hash, true, now);
        if decision == Decision::Apply {
            contests.record_apply("default", OBJECT, hash);
        }
        decision
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    #[test]
    fn an_object_that_is_set_back_three_times_in_ten_minutes_is_left_alone_for_ten() {
        let (contests, start) = (Contests::default(), Instant::now());
        let after = |count| set_back(&contests, "1a", start + minutes(count));
        assert_eq!([after(0), after(4), after(8)], [Decision::Apply, Decision::Apply, Decision::Contest]);
        assert_eq!([after(9), after(17)], [Decision::LeaveAlone, Decision::LeaveAlone]);
        assert_eq!(after(18), Decision::Apply, "it is tried again");
        assert_eq!([after(19), after(20), after(21)], [Decision::Apply, Decision::Apply, Decision::Contest]);
    }

    #[test]
    fn a_change_now_and_then_is_set_right_for_ever() {
        let (contests, start) = (Contests::default(), Instant::now());
        let decisions: Vec<Decision> = (0..10).map(|nth| set_back(&contests, "1a", start + minutes(5 * nth))).collect();
        assert_eq!(decisions, [Decision::Apply; 10]);
    }

    #[test]
    fn a_changed_spec_and_an_apply_that_fails_are_nobodys_setting_back() {
        let (contests, start) = (Contests::default(), Instant::now());
        for nth in 0..10 {
            let hash = nth.to_string();
            assert_eq!(contests.decide("default", OBJECT, &hash, false, start), Decision::Apply);
            contests.record_apply("default", OBJECT, &hash);
        }
        for _ in 0..10 {
            // The apply of the same set-back fails again and again.
            assert_eq!(contests.decide("default", OBJECT, "9", true, start), Decision::Apply);
        }
    }

    #[test]
    fn an_annotation_that_is_set_back_too_does_not_hide_the_contest() {
        let (contests, start) = (Contests::default(), Instant::now());
        let decide = || contests.decide("default", OBJECT, "1a", false, start);
        for _ in 0..3 {
            assert_eq!(decide(), Decision::Apply);
            contests.record_apply("default", OBJECT, "1a");
        }
        assert_eq!(decide(), Decision::Contest);
    }

    #[test]
    fn another_desired_object_is_applied_once_while_the_object_is_contested() {
        let (contests, start) = (Contests::default(), Instant::now());
        for _ in 0..3 {
            set_back(&contests, "1a", start);
        }
        assert_eq!(set_back(&contests, "2b", start + minutes(1)), Decision::Apply);
        assert_eq!(set_back(&contests, "2b", start + minutes(1)), Decision::LeaveAlone);
    }

    #[test]
    fn a_contest_is_told_with_object_fields_and_manager_until_it_ends() {
        let (contests, start) = (Contests::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(contests.finding("default", start), None);
            set_back(&contests, "1a", start);
        }
        let parties = Parties { fields: vec!["spec.replicas".to_owned()], managers: vec!["keda".to_owned()] };
        contests.begin("default", OBJECT, Some(&parties));
        let finding = contests.finding("default", start).unwrap();
        assert_eq!(finding.reason, Reason::FieldContested);
        let text = "Deployment dnstier-system/a: the field manager keda sets back spec.replicas. ";
        assert!(finding.message.starts_with(text), "{}", finding.message);
        assert_eq!(contests.finding("other", start), None);
        assert_eq!(contests.finding("default", start + LEFT_ALONE), None);
        contests.settle("default", OBJECT);
        assert_eq!(contests.finding("default", start), None);
    }

    #[test]
    fn an_object_that_is_as_desired_and_whose_watch_is_late_is_not_contested() {
        let (contests, start) = (Contests::default(), Instant::now());
        for _ in 0..3 {
            set_back(&contests, "1a", start);
        }
        contests.begin("default", OBJECT, None);
        assert_eq!(contests.finding("default", start), None);
        assert_eq!(set_back(&contests, "1a", start), Decision::Apply);
    }
}

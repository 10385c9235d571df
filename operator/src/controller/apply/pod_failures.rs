//! Pods that could not be annotated: each is tried again on its own, and named in a condition meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::controller::apply::annotate::PodAnnotations;
use crate::controller::backoff;
use crate::controller::finding::Finding;
use crate::controller::text::join_some;
use crate::error::Error;

/// Time between the first two attempts for one pod; it doubles with each further failure.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(2);
/// Longest time between two attempts for one pod.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);
/// Time for which a pod could not be told a revision, after which a roll-out goes on without it.
const OUT_OF_REACH_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// Time after the last failure for which a pod is remembered that is not to be annotated meanwhile.
const MEMORY: SignedDuration = SignedDuration::from_mins(5);

/// Pods that could not be annotated, by tier and UID.
#[derive(Debug, Default)]
pub(super) struct PodFailures {
    tiers: Mutex<HashMap<String, BTreeMap<String, PodFailure>>>,
}

/// Pod that could not be annotated.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodFailure {
    /// Namespace and name.
    pod: String,
    /// Last error.
    finding: Finding,
    /// Number of consecutive failures.
    failures: u32,
    /// Time of the first of them.
    first: Timestamp,
    /// Time of the last of them.
    last: Timestamp,
    /// Whether the pod was to be told a revision.
    is_telling: bool,
    /// Whether the pod is still to be annotated.
    is_planned: bool,
}

impl PodFailure {
    /// Returns the time until the next attempt; zero when it is due.
    fn wait(&self, now: Timestamp) -> Duration {
        let delay = retry_delay(self.failures);
        // A clock that was set back would otherwise hold the pod up.
        let since = Duration::try_from(now.duration_since(self.last)).unwrap_or(delay);
        delay.saturating_sub(since)
    }
}

impl PodFailures {
    /// Notes which pods of a tier are still to be annotated, and forgets the others after a while: a roll-out that goes
    /// on without a pod asks nothing of it, which does not mean that it could be told.
    pub(super) fn keep(&self, tier: &str, plan: &[PodAnnotations], now: Timestamp) {
        let mut tiers = self.lock();
        let Some(failures) = tiers.get_mut(tier) else { return };
        let planned: HashSet<&str> = plan.iter().map(|annotations| annotations.uid.as_str()).collect();
        failures.retain(|uid, failure| {
            failure.is_planned = planned.contains(uid.as_str());
            failure.is_planned || now.duration_since(failure.last).abs() < MEMORY
        });
        if failures.is_empty() {
            tiers.remove(tier);
        }
    }

    /// Returns the annotations that are due, in the order in which they are written: pods that are behind first, and
    /// those last that failed before, so that they take no turn of another pod.
    pub(super) fn due(&self, tier: &str, plan: Vec<PodAnnotations>, now: Timestamp) -> Vec<PodAnnotations> {
        let tiers = self.lock();
        let failure_of = |annotations: &PodAnnotations| tiers.get(tier)?.get(&annotations.uid);
        let mut due: Vec<PodAnnotations> = plan
            .into_iter()
            .filter(|annotations| failure_of(annotations).is_none_or(|failure| failure.wait(now).is_zero()))
            .collect();
        due.sort_by_key(|annotations| (failure_of(annotations).is_some(), annotations.revision.is_none()));
        due
    }

    /// Records a failure.
    pub(super) fn record_failure(&self, tier: &str, annotations: &PodAnnotations, error: &Error, now: Timestamp) {
        let mut tiers = self.lock();
        let pods = tiers.entry(tier.to_owned()).or_default();
        let before = pods.get(&annotations.uid);
        let failure = PodFailure {
            pod: format!("{}/{}", annotations.namespace, annotations.pod),
            finding: Finding::from(error),
            failures: before.map_or(0, |before| before.failures).saturating_add(1),
            first: before.map_or(now, |before| before.first),
            last: now,
            is_telling: annotations.revision.is_some(),
            is_planned: true,
        };
        pods.insert(annotations.uid.clone(), failure);
    }

    /// Records a success.
    pub(super) fn record_success(&self, tier: &str, annotations: &PodAnnotations) {
        if let Some(pods) = self.lock().get_mut(tier) {
            pods.remove(&annotations.uid);
        }
    }

    /// Returns the finding that names the pods of a tier that could not be annotated; `None` without any.
    #[must_use]
    pub(super) fn finding(&self, tier: &str) -> Option<Finding> {
        let tiers = self.lock();
        let planned = || tiers.get(tier).into_iter().flat_map(BTreeMap::values).filter(|failure| failure.is_planned);
        let first = planned().min_by(|one, other| one.pod.cmp(&other.pod))?;
        let mut pods: Vec<String> = planned().map(|failure| failure.pod.clone()).collect();
        pods.sort_unstable();
        let (noun, verb) = if pods.len() == 1 { ("Pod", "does not get its") } else { ("Pods", "do not get their") };
        let message = format!("{noun} {} {verb} annotations: {}", join_some(&pods), first.finding.message);
        Some(Finding::new(first.finding.reason, message))
    }

    /// Returns the time until the next attempt for a pod of a tier; `None` when no pod failed.
    #[must_use]
    pub(super) fn next_retry(&self, tier: &str, now: Timestamp) -> Option<Duration> {
        let tiers = self.lock();
        tiers.get(tier)?.values().filter(|failure| failure.is_planned).map(|failure| failure.wait(now)).min()
    }

    /// Returns the UIDs of the pods of a tier that could not be told a revision for half a minute.
    #[must_use]
    pub(super) fn out_of_reach(&self, tier: &str) -> HashSet<String> {
        let is_out_of_reach = |failure: &PodFailure| {
            failure.is_telling && failure.last.duration_since(failure.first) >= OUT_OF_REACH_AFTER
        };
        let tiers = self.lock();
        let failures = tiers.get(tier).into_iter().flatten();
        failures.filter(|(_, failure)| is_out_of_reach(failure)).map(|(uid, _)| uid.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, PodFailure>>> {
        self.tiers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the delay after consecutive failures: 2 s, 4 s, 8 s … 1 min.
fn retry_delay(failures: u32) -> Duration {
    backoff::double(FIRST_RETRY_DELAY, failures, MAX_RETRY_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dnstier_crds::conditions::Reason;

    fn annotations(pod: &str, is_behind: bool) -> PodAnnotations {
        PodAnnotations {
            namespace: "dnstier-node".to_owned(),
            pod: pod.to_owned(),
            uid: format!("uid-of-{pod}"),
            version: None,
            revision: is_behind.then(|| "1a2b".to_owned()),
            told: None,
            zone: None,
            resolvers_on_node: None,
        }
    }

    fn error(pod: &str) -> Error {
        Error::AnnotationsDropped { object: format!("Pod dnstier-node/{pod}") }
    }

    fn names(plan: Vec<PodAnnotations>) -> Vec<String> {
        plan.into_iter().map(|annotations| annotations.pod).collect()
    }

    #[test]
    fn pods_that_are_behind_come_first_and_those_that_failed_last() {
        let failures = PodFailures::default();
        let now = Timestamp::UNIX_EPOCH;
        let plan = ["a", "b", "c", "d"].map(|pod| annotations(pod, pod >= "c")).to_vec();
        assert_eq!(names(failures.due("default", plan.clone(), now)), ["c", "d", "a", "b"]);
        failures.record_failure("default", &plan[2], &error("c"), now);
        assert_eq!(names(failures.due("default", plan.clone(), now)), ["d", "a", "b"]);
        assert_eq!(names(failures.due("default", plan, now + SignedDuration::from_secs(2))), ["d", "a", "b", "c"]);
    }

    #[test]
    fn a_pod_is_tried_again_later_and_later_up_to_a_minute() {
        let delays: Vec<u64> = (1..=8).map(|failures| retry_delay(failures).as_secs()).collect();
        assert_eq!(delays, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn failed_pods_are_named_until_they_succeed_or_are_gone() {
        let failures = PodFailures::default();
        let now = Timestamp::UNIX_EPOCH;
        let plan = [annotations("a", true), annotations("b", true)];
        for annotations in &plan {
            failures.record_failure("default", annotations, &error(&annotations.pod), now);
        }
        let finding = failures.finding("default").unwrap();
        assert_eq!(finding.reason, Reason::ApplyFailed);
        let start = "Pods dnstier-node/a and dnstier-node/b do not get their annotations: Pod dnstier-node/a was ";
        assert!(finding.message.starts_with(start), "{}", finding.message);
        assert_eq!(failures.next_retry("default", now), Some(Duration::from_secs(2)));
        assert_eq!(failures.finding("other"), None);
        failures.record_success("default", &plan[0]);
        let message = failures.finding("default").unwrap().message;
        assert!(message.starts_with("Pod dnstier-node/b does not get its annotations: "), "{message}");
        failures.keep("default", &plan[..1], now);
        assert_eq!(failures.finding("default"), None);
        assert_eq!(failures.next_retry("default", now), None);
    }

    #[test]
    fn a_pod_that_could_not_be_told_for_half_a_minute_is_out_of_reach_until_it_is_told_or_forgotten() {
        let failures = PodFailures::default();
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let plan = [annotations("a", true), annotations("b", false)];
        for seconds in [0, 2, 6, 14] {
            plan.iter().for_each(|pod| failures.record_failure("default", pod, &error(&pod.pod), at(seconds)));
            assert_eq!(failures.out_of_reach("default"), HashSet::new(), "{seconds}");
        }
        plan.iter().for_each(|pod| failures.record_failure("default", pod, &error(&pod.pod), at(30)));
        let only_a = HashSet::from(["uid-of-a".to_owned()]);
        assert_eq!(failures.out_of_reach("default"), only_a, "the other one has its revision");
        failures.keep("default", &[], at(329));
        assert_eq!(failures.out_of_reach("default"), only_a, "a roll-out that goes on without it asks nothing of it");
        failures.keep("default", &[], at(330));
        assert_eq!(failures.out_of_reach("default"), HashSet::new());
        for seconds in [0, 30] {
            failures.record_failure("default", &plan[0], &error("a"), at(seconds));
        }
        failures.record_success("default", &plan[0]);
        assert_eq!(failures.out_of_reach("default"), HashSet::new());
    }
}

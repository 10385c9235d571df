//! Failure of the DaemonSet controller to create node pods, from its events: a DaemonSet has no condition for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Age above which an event no longer explains a missing pod: the controller tries again after 17 minutes at the most.
const MAX_EVENT_AGE: SignedDuration = SignedDuration::from_mins(20);

/// Last known failures by tier: while events cannot be listed, they hold on.
#[derive(Debug, Default)]
pub(crate) struct CreationFailures {
    failures: Mutex<HashMap<String, CreationFailure>>,
}

impl CreationFailures {
    /// Records what is known of a tier.
    pub(super) fn record(&self, tier: &str, failure: Option<&CreationFailure>) {
        let mut failures = self.lock();
        match failure {
            Some(failure) => drop(failures.insert(tier.to_owned(), failure.clone())),
            None => drop(failures.remove(tier)),
        }
    }

    /// Returns what was known last of a tier.
    #[must_use]
    pub(super) fn last(&self, tier: &str) -> Option<CreationFailure> {
        self.lock().get(tier).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, CreationFailure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Failure of the DaemonSet controller to create node pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreationFailure {
    /// Last message of the controller.
    pub(crate) message: String,
    /// Time since which it is known to have failed and to have made no pod.
    pub(crate) since: Timestamp,
}

impl CreationFailure {
    /// Returns the failure that the events of a DaemonSet tell; `None` without a recent one. `youngest` is the time at
    /// which the youngest node pod was made: a failure of before is over, and no pod may be missing for long.
    #[must_use]
    pub(super) fn of(events: Vec<Event>, youngest: Option<Timestamp>, now: Timestamp) -> Option<Self> {
        let is_recent = |event: &Event| last_time(event).is_some_and(|time| time + MAX_EVENT_AGE > now);
        let recent: Vec<Event> = events.into_iter().filter(is_recent).collect();
        let lasting = recent.iter().filter(|event| last_time(event) > youngest);
        let since = lasting.filter_map(first_time).min().max(youngest);
        let last = recent.iter().max_by_key(|event| last_time(event))?;
        let is_lasting = last_time(last) > youngest;
        let since = since.filter(|_| is_lasting).unwrap_or(now);
        Some(Self { message: last.message.clone()?, since })
    }
}

/// Returns the time at which an event was last seen.
fn last_time(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0))
}

/// Returns the time at which an event was first seen.
fn first_time(event: &Event) -> Option<Timestamp> {
    let first = event.first_timestamp.as_ref().map(|time| time.0);
    first.or_else(|| event.event_time.as_ref().map(|time| time.0)).or_else(|| last_time(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

    /// Returns a time, in minutes since the begin of the test.
    fn minute(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * minutes).unwrap()
    }

    /// Returns an event that was first and last seen at these minutes.
    fn event(message: &str, first: i64, last: i64) -> Event {
        Event {
            message: Some(message.to_owned()),
            first_timestamp: Some(Time(minute(first))),
            last_timestamp: Some(Time(minute(last))),
            ..Event::default()
        }
    }

    fn failure(events: &[Event], youngest: Option<i64>, now: i64) -> Option<(String, Timestamp)> {
        let failure = CreationFailure::of(events.to_vec(), youngest.map(minute), minute(now))?;
        Some((failure.message, failure.since))
    }

    #[test]
    fn the_last_message_counts_and_the_first_time_of_all_that_are_recent() {
        // The name of the pod differs in each message, so that each attempt may be an event of its own.
        let events = [event("of pod b", 4, 8), event("of pod c", 9, 10), event("of pod a", 2, 3)];
        assert_eq!(failure(&events, None, 10), Some(("of pod c".to_owned(), minute(2))));
        assert_eq!(failure(&events, None, 25), Some(("of pod c".to_owned(), minute(4))), "one is too old");
        assert_eq!(failure(&events, None, 30), None);
        assert_eq!(failure(&[], None, 30), None);
        let time = Some(MicroTime(minute(3)));
        let of_new_form = Event { event_time: time, message: Some("new".to_owned()), ..Event::default() };
        assert_eq!(failure(&[of_new_form], None, 10), Some(("new".to_owned(), minute(3))));
    }

    #[test]
    fn what_was_known_last_of_a_tier_holds_on_until_something_else_is_known() {
        let failures = CreationFailures::default();
        let failure = CreationFailure { message: "denied".to_owned(), since: minute(0) };
        failures.record("default", Some(&failure));
        assert_eq!((failures.last("default"), failures.last("other")), (Some(failure), None));
        failures.record("default", None);
        assert_eq!(failures.last("default"), None);
    }

    #[test]
    fn a_pod_that_was_made_since_ends_the_failures_of_before() {
        let events = [event("before", 1, 2), event("after", 3, 9)];
        assert_eq!(failure(&events, Some(0), 10), Some(("after".to_owned(), minute(1))));
        assert_eq!(failure(&events, Some(2), 10), Some(("after".to_owned(), minute(3))));
        assert_eq!(failure(&events, Some(5), 10), Some(("after".to_owned(), minute(5))), "it failed again since");
        assert_eq!(failure(&events, Some(9), 10), Some(("after".to_owned(), minute(10))), "nothing is known since");
    }
}

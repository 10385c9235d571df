//! Events of a tier: one for each reason for which conditions changed.

use std::time::Duration;

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::{ConditionType, Reason};
use dnstier_crds::v1alpha1::DnsTierStatus;
use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource, ResourceExt};
use tokio::time::{Instant, timeout_at};

use crate::controller::status::start::is_usual;

/// Maximum length of an event's note in bytes, below the limit of 1,024 that the API server sets.
const MAX_NOTE_BYTES: usize = 1_000;
/// Longest time that a pass waits for its events: it has pods to tell, and a process whose passes take too long is
/// restarted.
const MAX_PUBLISH_TIME: Duration = Duration::from_secs(2);
/// Conditions whose changes are published. `Reconciling` repeats `Progressing`.
const PUBLISHED: [ConditionType; 6] = [
    ConditionType::Ready,
    ConditionType::Progressing,
    ConditionType::RolledOut,
    ConditionType::Degraded,
    ConditionType::UpstreamThrottled,
    ConditionType::Stalled,
];

/// Publishes an event for each condition that has changed from `previous`, all within [`MAX_PUBLISH_TIME`]. A failure
/// is only logged: the status has the same messages.
pub(super) async fn publish_transitions(
    recorder: &Recorder,
    tier: &DnsTier,
    previous: Option<&DnsTierStatus>,
    status: &DnsTierStatus,
    is_starting: bool,
) {
    let previous = previous.map_or(&[][..], |status| &status.conditions);
    let (object, deadline) = (tier.object_ref(&()), Instant::now() + MAX_PUBLISH_TIME);
    let publish = async |event: Event| {
        let error = match timeout_at(deadline, recorder.publish(&event, &object)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took longer than {} s", MAX_PUBLISH_TIME.as_secs()),
        };
        tracing::warn!(tier = tier.name_any(), reason = event.reason, error, "an event cannot be published");
    };
    join_all(transitions(previous, &status.conditions, is_starting).into_iter().map(publish)).await;
}

/// Returns an event for each condition whose status or reason changed. What is usual while a tier is starting is no
/// warning.
pub(super) fn transitions(previous: &[Condition], current: &[Condition], starting: bool) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for condition in current {
        let Some(type_) = PUBLISHED.into_iter().find(|type_| type_.name() == condition.type_) else { continue };
        let changed = match previous.iter().find(|previous| previous.type_ == condition.type_) {
            Some(previous) => previous.status != condition.status || previous.reason != condition.reason,
            None => true,
        };
        if !changed {
            continue;
        }
        // Several conditions may have changed for one reason, which makes one event: a warning if it is one for any.
        let event = event(type_, condition, starting);
        match events.iter_mut().find(|other| other.reason == event.reason) {
            None => events.push(event),
            Some(other) if event.type_ == EventType::Warning && other.type_ == EventType::Normal => *other = event,
            Some(_) => {}
        }
    }
    events
}

fn event(type_: ConditionType, condition: &Condition, starting: bool) -> Event {
    let has = |reason: &Reason| reason.name() == condition.reason;
    let is_start = starting && Reason::ALL.iter().any(|reason| is_usual(*reason) && has(reason));
    let is_expected = is_start || [Reason::Starting, Reason::RollingOut].iter().any(has);
    let is_warning = match type_ {
        ConditionType::Ready => condition.status != "True" && !is_expected,
        ConditionType::Degraded | ConditionType::UpstreamThrottled | ConditionType::Stalled => {
            condition.status == "True" && !is_start
        }
        ConditionType::Progressing | ConditionType::RolledOut | ConditionType::Reconciling => false,
    };
    Event {
        type_: if is_warning { EventType::Warning } else { EventType::Normal },
        reason: condition.reason.clone(),
        note: Some(note_of(&condition.message)),
        action: format!("{}{}", condition.type_, condition.status),
        secondary: None,
    }
}

/// Returns a message, cut where the API server would refuse it.
pub(super) fn note_of(message: &str) -> String {
    let char_ends = message.char_indices().map(|(start, char)| start + char.len_utf8());
    let note_len = char_ends.take_while(|end| *end <= MAX_NOTE_BYTES).last().unwrap_or_default();
    message[..note_len].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn only_a_change_of_status_or_reason_is_an_event() {
        let previous =
            [condition("Ready", "True", "Serving", "3 nodes"), condition("Degraded", "False", "Healthy", "")];
        let current =
            [condition("Ready", "True", "Serving", "4 nodes"), condition("Degraded", "True", "AddressForeign", "x")];
        let events = transitions(&previous, &current, false);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].reason.as_str(), events[0].type_), ("AddressForeign", EventType::Warning));
    }

    #[test]
    fn one_reason_is_one_event_however_many_conditions_it_changes() {
        let current = [
            condition("Ready", "False", "ClusterDnsNotFound", "x"),
            condition("Progressing", "False", "ClusterDnsNotFound", "x"),
            condition("Degraded", "True", "ClusterDnsNotFound", "x"),
            condition("Stalled", "True", "ClusterDnsNotFound", "x"),
        ];
        let events = transitions(&[], &current, false);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].type_, EventType::Warning);
    }

    #[test]
    fn a_reason_that_is_a_warning_for_one_condition_is_a_warning() {
        let current = [
            condition("Ready", "True", "Serving", "x"),
            condition("Progressing", "False", "PodsNotRunning", "x"),
            condition("Degraded", "True", "PodsNotRunning", "x"),
        ];
        let events = transitions(&current[..1], &current, false);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].type_, EventType::Warning);
    }

    #[test]
    fn a_tier_that_starts_or_rolls_out_is_no_warning() {
        for reason in ["Starting", "RollingOut"] {
            let current = [
                condition("Ready", "False", reason, "0 of 3 nodes answer"),
                condition("Progressing", "True", reason, "0 of 3 nodes answer"),
                condition("Degraded", "False", "Healthy", "Nothing is wrong."),
            ];
            let events = transitions(&[], &current, false);
            assert!(events.iter().all(|event| event.type_ == EventType::Normal), "{reason}");
        }
        let failed = transitions(&[], &[condition("Ready", "False", "NodesNotReady", "")], false);
        assert_eq!(failed[0].type_, EventType::Warning);
    }

    #[test]
    fn parts_that_come_up_one_after_the_other_in_the_first_minutes_are_no_warning_and_a_wrong_spec_is() {
        for reason in ["NodesNotReady", "ResolversNotReady", "NoResolvers", "StatusUnknown", "UpstreamUnreachable"] {
            let current = [condition("Ready", "False", reason, "x"), condition("Degraded", "True", reason, "x")];
            let types = |starting| transitions(&[], &current, starting).into_iter().map(|event| event.type_);
            assert_eq!(Vec::from_iter(types(true)), [EventType::Normal], "{reason}");
            assert_eq!(Vec::from_iter(types(false)), [EventType::Warning], "{reason}");
        }
        for reason in ["ClusterDnsNotFound", "Forbidden", "PodsNotRunning", "NoNodes"] {
            let current = [condition("Ready", "False", reason, "x"), condition("Stalled", "True", reason, "x")];
            assert_eq!(transitions(&[], &current, true)[0].type_, EventType::Warning, "{reason}");
        }
    }

    #[test]
    fn a_limit_is_a_warning_once_when_it_begins_and_an_event_when_its_cause_changes_and_when_it_ends() {
        let tell = |throttled: (&str, &str), degraded: (&str, &str)| {
            [
                condition("Ready", "True", "Serving", "3 nodes"),
                condition("Degraded", degraded.0, degraded.1, "x"),
                condition("UpstreamThrottled", throttled.0, throttled.1, "x"),
            ]
        };
        let well = tell(("False", "WithinLimits"), ("False", "Healthy"));
        let limited = tell(("True", "LimitFound"), ("True", "LimitFound"));
        let lossy = tell(("True", "Lossy"), ("True", "AddressForeign"));
        let other = tell(("False", "WithinLimits"), ("True", "AddressForeign"));
        let events = |previous: &[Condition], current: &[Condition]| {
            let events = transitions(previous, current, false).into_iter();
            events.map(|event| (event.reason, event.type_ == EventType::Warning)).collect::<Vec<_>>()
        };
        assert_eq!(events(&well, &limited), [("LimitFound".to_owned(), true)]);
        assert_eq!(events(&limited, &limited), []);
        assert_eq!(events(&limited, &lossy), [("AddressForeign".to_owned(), true), ("Lossy".to_owned(), true)]);
        assert_eq!(events(&lossy, &other), [("WithinLimits".to_owned(), false)]);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "ü".repeat(2_000);
        let events = transitions(&[], &[condition("Ready", "False", "Starting", &message)], false);
        assert!(events[0].note.as_ref().is_some_and(|note| note.len() <= MAX_NOTE_BYTES));
    }
}

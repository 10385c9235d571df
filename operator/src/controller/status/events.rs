//! Events on the tier when one of its conditions changes.

use dnstier_crds::DnsTier;
use dnstier_crds::conditions::ConditionType;
use dnstier_crds::v1alpha1::DnsTierStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};

/// Most bytes of an event's text.
const MOST_BYTES: usize = 1_000;

/// Publishes what changed. An event that cannot be published is logged and no more: the status says the same.
pub async fn publish(recorder: &Recorder, tier: &DnsTier, status: &DnsTierStatus) {
    let before = tier.status.as_ref().map_or(&[][..], |status| &status.conditions);
    for event in transitions(before, &status.conditions) {
        if let Err(error) = recorder.publish(&event, &tier.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "an event cannot be published");
        }
    }
}

fn transitions(before: &[Condition], after: &[Condition]) -> Vec<Event> {
    let told = [ConditionType::Ready, ConditionType::Progressing, ConditionType::Degraded, ConditionType::Stalled];
    let mut events: Vec<Event> = Vec::new();
    let changed = after
        .iter()
        .filter_map(|condition| Some((told.into_iter().find(|type_| type_.name() == condition.type_)?, condition)))
        .filter(|(_, condition)| {
            let old = before.iter().find(|old| old.type_ == condition.type_);
            old.is_none_or(|old| old.status != condition.status || old.reason != condition.reason)
        })
        .map(|(type_, condition)| event(type_, condition));
    for event in changed {
        // Several conditions may have changed for one reason; it is told once.
        if events.iter().all(|told| told.reason != event.reason) {
            events.push(event);
        }
    }
    events
}

fn event(type_: ConditionType, condition: &Condition) -> Event {
    let bad = match type_ {
        ConditionType::Ready => condition.status != "True",
        ConditionType::Degraded | ConditionType::Stalled => condition.status == "True",
        ConditionType::Progressing | ConditionType::Reconciling => false,
    };
    let cut = condition.message.char_indices().map(|(at, letter)| at + letter.len_utf8());
    let end = cut.take_while(|end| *end <= MOST_BYTES).last().unwrap_or_default();
    let note = condition.message[..end].to_owned();
    Event {
        type_: if bad { EventType::Warning } else { EventType::Normal },
        reason: condition.reason.clone(),
        note: Some(note),
        action: format!("{}{}", condition.type_, condition.status),
        secondary: None,
    }
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
    fn only_a_change_of_status_or_reason_is_told() {
        let before = [condition("Ready", "True", "Serving", "3 nodes"), condition("Degraded", "False", "Healthy", "")];
        let after =
            [condition("Ready", "True", "Serving", "4 nodes"), condition("Degraded", "True", "AddressForeign", "x")];
        let events = transitions(&before, &after);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].reason.as_str(), events[0].type_), ("AddressForeign", EventType::Warning));
    }

    #[test]
    fn one_reason_is_told_once_however_many_conditions_it_changes() {
        let after = [
            condition("Ready", "False", "ClusterDnsNotFound", "x"),
            condition("Progressing", "False", "ClusterDnsNotFound", "x"),
            condition("Degraded", "True", "ClusterDnsNotFound", "x"),
            condition("Stalled", "True", "ClusterDnsNotFound", "x"),
        ];
        let events = transitions(&[], &after);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].type_, EventType::Warning);
    }

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        let long = "ü".repeat(2_000);
        let events = transitions(&[], &[condition("Ready", "False", "Starting", &long)]);
        assert!(events[0].note.as_ref().is_some_and(|note| note.len() <= MOST_BYTES));
    }
}

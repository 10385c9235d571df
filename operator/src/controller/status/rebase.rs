//! Statuses that were computed from an older status than the last one written, because the watch of tiers lags.

use dnstier_crds::v1alpha1::DnsTierStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::controller::status::start;

/// Changes a status that was computed from an older one as if it had been computed from `previous`: times and the
/// revision in force continue those of `previous`. Numbers with hysteresis stay: at worst, each change is a write.
pub(super) fn rebase(status: &mut DnsTierStatus, previous: &DnsTierStatus, now: Timestamp) {
    for condition in &mut status.conditions {
        let before = previous.conditions.iter().find(|before| before.type_ == condition.type_);
        let unchanged = before.filter(|before| before.status == condition.status);
        condition.last_transition_time = unchanged.map_or(Time(now), |before| before.last_transition_time.clone());
    }
    status.first_ready_time = start::first_ready_time(previous, &status.conditions);
    if let (Some(revision), Some(before)) = (&mut status.revision, &previous.revision)
        && revision.current != revision.target
    {
        revision.current.clone_from(&before.current);
    }
}

#[cfg(test)]
mod tests {
    use dnstier_crds::conditions::{ConditionStatus, ConditionType, Reason, Report, merge};
    use dnstier_crds::v1alpha1::RevisionStatus;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    /// Returns a status with this condition `Ready` that was computed at a second from the one before.
    fn status(before: &DnsTierStatus, ready: ConditionStatus, current: &str, second: i64) -> DnsTierStatus {
        let report = Report {
            type_: ConditionType::Ready,
            status: ready,
            reason: if ready == ConditionStatus::True { Reason::Serving } else { Reason::NodesNotReady },
            message: String::new(),
        };
        let conditions = merge(&before.conditions, &[report], Some(1), &at(second));
        let first_ready_time = start::first_ready_time(before, &conditions);
        let revision = Some(RevisionStatus { current: Some(current.to_owned()), target: Some("new".to_owned()) });
        DnsTierStatus { conditions, first_ready_time, revision, ..DnsTierStatus::default() }
    }

    #[test]
    fn a_status_that_was_computed_from_an_older_one_continues_the_last_one_written() {
        let (ready, unready) = (ConditionStatus::True, ConditionStatus::False);
        let stale = status(&DnsTierStatus::default(), unready, "old", 10);
        for (written, now) in [(ready, ready), (ready, unready), (unready, ready), (unready, unready)] {
            let written = status(&stale, written, "new", 20);
            let expected = status(&written, now, "new", 30);
            // Not all pods have the target in force any more.
            let mut computed = status(&stale, now, "old", 30);
            rebase(&mut computed, &written, at(30).0);
            assert_eq!(computed, expected);
        }
    }
}

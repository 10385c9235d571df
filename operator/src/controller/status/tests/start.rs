//! The first minutes of a tier: the statuses and events of a start.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kube::runtime::events::EventType;

use super::*;
use crate::controller::fixtures::{apply_to, deployment_of};
use crate::controller::status::events::transitions;

/// Returns a tier of this age and the objects that it has when its pods have just been made, and were not polled yet.
fn just_made(age_seconds: i64) -> Observed {
    let mut observed = serving("{}");
    let created = observed.now - SignedDuration::from_secs(age_seconds);
    Arc::make_mut(&mut observed.tier).metadata.creation_timestamp = Some(Time(created));
    for pod in &mut observed.pods {
        (pod.ready, pod.lifecycle.running, pod.lifecycle.created) = (false, false, Some(created));
    }
    for zone in ["zone-a", "zone-b", "zone-c"] {
        deployment_of(&mut observed, zone).status.as_mut().unwrap().ready_replicas = None;
    }
    observed.reports = Arc::default();
    observed
}

/// Writes the status of a cluster and returns the cluster, and the reasons of the warnings that this makes.
fn write_status(observed: Observed) -> (Observed, Vec<String>) {
    let previous = observed.tier.status.clone();
    let status = reconciled_status(&observed);
    let starting = is_starting(&observed);
    let conditions = previous.map(|status| status.conditions).unwrap_or_default();
    let events = transitions(&conditions, &status.conditions, starting).into_iter();
    let warnings = events.filter(|event| event.type_ == EventType::Warning).map(|event| event.reason).collect();
    (with_status(observed, status), warnings)
}

#[test]
fn a_normal_first_start_emits_no_warning() {
    let created = just_made(0).tier.metadata.creation_timestamp.clone();
    let mut empty = cluster("{}");
    Arc::make_mut(&mut empty.tier).metadata.creation_timestamp = created;
    let (mut empty, warnings) = write_status(empty);
    assert_eq!(warnings, Vec::<String>::new());
    let desired = build_desired(&empty);
    apply_to(&mut empty, desired);
    let (empty, warnings) = write_status(empty);
    assert_eq!(warnings, Vec::<String>::new());
    let mut status = empty.tier.status.clone().unwrap();
    let all = serving("{}");
    let mut observed = just_made(60);
    for step in 0..5 {
        match step {
            1 => observed.pods.iter_mut().filter(|pod| pod.resolver_zone.is_none()).for_each(|pod| pod.ready = true),
            2 => observed.reports = all.reports.clone(),
            3 => deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = Some(1),
            4 => observed = Observed { tier: observed.tier, ..serving("{}") },
            _ => {}
        }
        let (written, warnings) = write_status(with_status(observed, status));
        assert_eq!(warnings, Vec::<String>::new(), "step {step}");
        status = written.tier.status.clone().unwrap();
        observed = written;
    }
    assert_condition(&status, "Ready", "True", Reason::Serving, &[]);
}

#[test]
fn a_start_that_does_not_end_is_a_warning_after_five_minutes() {
    let (mut observed, warnings) = write_status(just_made(299));
    assert_eq!(warnings, Vec::<String>::new());
    observed.now += SignedDuration::from_secs(1);
    let (observed, warnings) = write_status(observed);
    assert_eq!(warnings, ["NodesNotReady", "PodsNotRunning"]);
    assert_eq!(write_status(observed).1, Vec::<String>::new());
}

#[test]
fn a_tier_that_was_there_before_its_operator_has_as_long_from_its_daemon_set_on() {
    let (empty, warnings) = write_status(cluster("{}"));
    assert_eq!(warnings, Vec::<String>::new(), "it is a day old, and has no objects");
    let with_daemon_set = |age_seconds: i64| {
        let mut observed = just_made(age_seconds);
        let made = observed.tier.metadata.creation_timestamp.clone();
        observed.owned.daemon_sets[0].metadata.creation_timestamp = made;
        deployment_of(&mut observed, "zone-b").status.as_mut().unwrap().ready_replicas = Some(1);
        Observed { tier: empty.tier.clone(), ..observed }
    };
    for (age_seconds, expected) in [(0, vec![]), (299, vec![]), (300, vec!["NodesNotReady", "PodsNotRunning"])] {
        let (_, warnings) = write_status(with_daemon_set(age_seconds));
        assert_eq!(warnings, expected, "{age_seconds} s");
    }
}

//! Tests of the whole operator in front of a fake cluster in which others write, and of one with an old definition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::fake_api::{FakeRequest, Reply};
use crate::tests::{DAEMON_SETS, DEPLOYMENTS, TIERS, condition, start, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_another_manager_sets_back_three_times_is_left_to_it_and_named() {
    let (cluster, _metrics) = start(|_| None).await;
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    let name = cluster.list(DEPLOYMENTS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let replicas = || {
        let deployments = cluster.list(DEPLOYMENTS);
        deployments.iter().find(|each| each["metadata"]["name"] == name.as_str()).unwrap()["spec"]["replicas"].clone()
    };
    let desired = replicas();
    let set_back = || {
        let managed = json!([{"manager": "keda-operator", "operation": "Update", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        cluster.merge(DEPLOYMENTS, &name, json!({"metadata": {"managedFields": managed}, "spec": {"replicas": 7}}));
    };
    for _ in 0..2 {
        set_back();
        wait_until("the change back", || replicas() == desired).await;
    }
    set_back();
    let is_told = || condition(&cluster, "Degraded").is_some_and(|degraded| degraded.2.contains("keda-operator"));
    wait_until("the word about it", is_told).await;
    let (status, reason, message) = condition(&cluster, "Degraded").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "FieldContested"), "{message}");
    let text = format!("Deployment dnstier-system/{name}: the field manager keda-operator sets back spec.replicas.");
    assert!(message.contains(&text), "{message}");
    assert_eq!(condition(&cluster, "Stalled"), None);
    // The other objects are still kept.
    let daemon_set = cluster.list(DAEMON_SETS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let applied = || cluster.list(DAEMON_SETS)[0]["metadata"]["annotations"]["dnstier.io/applied"].clone();
    cluster.merge(DAEMON_SETS, &daemon_set, json!({"metadata": {"annotations": {"dnstier.io/applied": "other"}}}));
    wait_until("the change back", || applied() != "other").await;
    assert_eq!(replicas(), json!(7), "the contested one is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_in_front_of_an_old_definition_says_so_and_works_until_it_is_upgraded() {
    let is_old = Arc::new(AtomicBool::new(true));
    let old = is_old.clone();
    let (cluster, _metrics) = start(move |request: &FakeRequest| {
        let has_field = request.path().starts_with(TIERS) && !request.body["status"]["rollout"].is_null();
        (has_field && old.load(Ordering::Relaxed)).then(|| {
            Reply::refusal(
                500,
                "failed to create typed patch object (/default; dnstier.io/v1alpha1, Kind=DnsTier): .status.rollout: \
                 field not declared in schema",
            )
        })
    })
    .await;
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    let is_told =
        || condition(&cluster, "Degraded").is_some_and(|degraded| degraded.2.contains("drops status.rollout"));
    wait_until("the word about it", is_told).await;
    let (status, reason, message) = condition(&cluster, "Degraded").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "CrdTooOld"), "{message}");
    assert_eq!(cluster.list(TIERS)[0]["status"]["rollout"], Value::Null);
    assert!(cluster.list(TIERS)[0]["status"]["nodes"].is_object(), "the rest of the status is written");
    is_old.store(false, Ordering::Relaxed);
    // A change of the spec is a reason for a write at once.
    cluster.merge(TIERS, "default", json!({"spec": {"nodeCache": {"cache": {"maxTtl": "600s"}}}}));
    wait_until("the end of the word", || !is_told()).await;
    assert!(cluster.list(TIERS)[0]["status"]["rollout"].is_object());
}

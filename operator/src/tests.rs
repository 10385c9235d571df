//! Tests of the whole operator in front of a fake cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use node_cache_config::names::ZONE_LABEL;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admin::Readiness;
use crate::client::Limits;
use crate::controller::fixtures::{kube_dns, linux, settings, tier};
use crate::fake_api::{FakeRequest, Reply};
use crate::fake_cluster::FakeCluster;
use crate::metrics::Metrics;
use crate::watch::reconcile_on_changes;

const NODES: &str = "/api/v1/nodes";
const TIERS: &str = "/apis/dnstier.io/v1alpha1/dnstiers";
const SERVICES: &str = "/api/v1/namespaces/kube-system/services";
const CONFIG_MAPS: &str = "/api/v1/namespaces/dnstier-node/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/dnstier-system/deployments";

/// Starts a cluster of three nodes in three zones with a tier, and the operator.
async fn start(refuse: impl Fn(&FakeRequest) -> Option<Reply> + Send + Sync + 'static) -> (FakeCluster, Arc<Metrics>) {
    let cluster = FakeCluster::start(refuse).await;
    let metrics = start_operator(&cluster);
    (cluster, metrics)
}

/// Creates nodes, the cluster DNS and a tier, and starts the operator.
fn start_operator(cluster: &FakeCluster) -> Arc<Metrics> {
    for letter in ["a", "b", "c"] {
        put_node(cluster, letter, 0);
    }
    cluster.merge(SERVICES, "kube-dns", serde_json::to_value(kube_dns()).unwrap());
    cluster.merge(TIERS, "default", serde_json::to_value(tier("default", "2026-01-01T00:00:00Z", "{}")).unwrap());
    let metrics = Arc::new(Metrics::default());
    let client = cluster.api.client(Limits::OPERATOR);
    let (readiness, _) = watch::channel(Readiness::NotReady(String::new()));
    let metrics_of_operator = metrics.clone();
    tokio::spawn(async move {
        let never = std::future::pending();
        let never = futures::FutureExt::shared(never);
        reconcile_on_changes(client, settings(), Arc::default(), metrics_of_operator, readiness, never).await;
    });
    metrics
}

/// Changes a label of a node that no tier depends on, which is a reason to look at all of them.
fn put_node(cluster: &FakeCluster, letter: &str, count: u32) {
    let labels = linux([(ZONE_LABEL, format!("zone-{letter}")), ("example.com/count", count.to_string())]);
    cluster.merge(NODES, &format!("node-{letter}"), json!({"metadata": {"labels": labels}}));
}

fn passes(metrics: &Metrics) -> u32 {
    let text = metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix("dnstier_operator_reconciles_total ")).unwrap();
    line.parse().unwrap()
}

/// Waits until a condition holds.
async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_200 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} does not come");
}

/// Lets the operator look at the tier again, and returns the requests of that pass.
async fn requests_of_a_pass(cluster: &FakeCluster, metrics: &Metrics, count: u32) -> Vec<FakeRequest> {
    let (passes_before, requests_before) = (passes(metrics), cluster.requests().len());
    put_node(cluster, "a", count);
    wait_until("a pass", || passes(metrics) > passes_before).await;
    cluster.requests().split_off(requests_before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_at_rest_makes_no_request() {
    let (cluster, metrics) = start(|_| None).await;
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    // The status settles within a few passes.
    let mut count = 0;
    while !requests_of_a_pass(&cluster, &metrics, count).await.is_empty() {
        count += 1;
        assert!(count < 30, "the tier does not come to rest: {:#?}", cluster.requests().split_off(10));
    }
    for pass in 1..=2 {
        let requests = requests_of_a_pass(&cluster, &metrics, count + pass).await;
        assert!(requests.is_empty(), "{requests:#?}");
    }
    // And it is not blind: what somebody changes is set back.
    let name = cluster.list(CONFIG_MAPS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.merge(CONFIG_MAPS, &name, json!({"metadata": {"annotations": {"dnstier.io/applied": "other"}}}));
    let is_set_back = || {
        let config_maps: Vec<Value> = cluster.list(CONFIG_MAPS);
        config_maps[0]["metadata"]["annotations"]["dnstier.io/applied"] != json!("other")
    };
    wait_until("the change back", is_set_back).await;
}

/// Returns a condition of the tier: its status, reason and message.
fn condition(cluster: &FakeCluster, type_: &str) -> Option<(String, String, String)> {
    let tiers = cluster.list(TIERS);
    let conditions = tiers.first()?["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == type_)?;
    let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_refused_is_told_with_the_command_that_helps_until_it_is_granted() {
    let is_granted = Arc::new(AtomicBool::new(false));
    let granted = is_granted.clone();
    let (cluster, _metrics) = start(move |request| {
        let is_refused = request.path() == CONFIG_MAPS && !granted.load(Ordering::Relaxed);
        is_refused.then(|| {
            Reply::refusal(
                403,
                "configmaps is forbidden: User \"system:serviceaccount:dnstier-system:dnstier-operator\" cannot list \
                 resource \"configmaps\" in API group \"\" in the namespace \"dnstier-node\"",
            )
        })
    })
    .await;
    wait_until("the refusal", || condition(&cluster, "Stalled").is_some_and(|stalled| stalled.0 == "True")).await;
    let (_, reason, message) = condition(&cluster, "Stalled").unwrap();
    assert_eq!(reason, "Forbidden");
    let command = "kubectl -n dnstier-node create role dnstier-extra --verb=list --resource=configmaps";
    assert!(message.contains(command), "{message}");
    assert!(cluster.list(DEPLOYMENTS).is_empty(), "nothing is decided on partial state");
    is_granted.store(true, Ordering::Relaxed);
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_tier_makes_few_requests_while_its_cluster_never_rests() {
    let is_write = |request: &FakeRequest| request.method == "PATCH" && request.path().starts_with(DEPLOYMENTS);
    let (cluster, metrics) = start(move |request| is_write(request).then(|| Reply::refusal(422, "no"))).await;
    wait_until("the failure", || condition(&cluster, "Degraded").is_some_and(|degraded| degraded.2.contains("no.")))
        .await;
    let (start, requests, passes_before) = (Instant::now(), cluster.requests().len(), passes(&metrics));
    let mut count = 0;
    while passes(&metrics) < passes_before + 2 {
        count += 1;
        put_node(&cluster, "a", count);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < Duration::from_mins(1), "the tier is not tried again");
    }
    let requests = cluster.requests().split_off(requests);
    let allowed = 5 * (start.elapsed().as_secs() + 1);
    assert!(requests.len() as u64 <= allowed, "{} of {allowed}: {requests:#?}", requests.len());
    assert!(requests.iter().filter(|request| is_write(request)).count() <= 3, "one refusal ends a retry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_knows_what_it_wrote_before_its_watches_say_so() {
    let cluster = FakeCluster::start(|_| None).await;
    cluster.hold_watches(true);
    let _metrics = start_operator(&cluster);
    // The Deployments need the addresses that the API server gave to the Services of the first pass.
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    cluster.hold_watches(false);
}

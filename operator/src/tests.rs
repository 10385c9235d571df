//! Tests of the whole operator in front of a fake cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use k8s_openapi::jiff::Timestamp;
use node_cache_config::names::ZONE_LABEL;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin::Readiness;
use crate::client::{self, Limits};
use crate::controller::fixtures::{kube_dns, linux, settings, tier};
use crate::controller::owned::labels;
use crate::fake_api::{FakeRequest, Reply};
use crate::fake_cluster::{FakeCluster, Held};
use crate::fake_pods::FakePods;
use crate::leader::fake_lease::{FakeLease, TIMING};
use crate::leader::{Elector, Fence, Leadership, new_identity};
use crate::metrics::Metrics;
use crate::request_counter::RequestCounter;
use crate::watch::reconcile_on_changes;

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/dnstier-node/pods";
const RESOLVER_PODS: &str = "/api/v1/namespaces/dnstier-system/pods";
pub(crate) const TIERS: &str = "/apis/dnstier.io/v1alpha1/dnstiers";
const SERVICES: &str = "/api/v1/namespaces/kube-system/services";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/dnstier-node/configmaps";
const RECORDS: &str = "/api/v1/namespaces/dnstier-system/configmaps";
const EVENTS: &str = "/api/v1/namespaces/dnstier-node/events";
pub(crate) const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/dnstier-node/daemonsets";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/dnstier-system/deployments";

/// Starts a cluster with a tier, and an operator that leads.
pub(crate) async fn start(
    refuse: impl Fn(&FakeRequest) -> Option<Reply> + Send + Sync + 'static,
) -> (FakeCluster, Arc<Metrics>) {
    let cluster = FakeCluster::start(refuse).await;
    let metrics = start_operator(&cluster, Leadership::permanent());
    (cluster, metrics)
}

/// Puts three nodes in three zones and a tier into a cluster, and starts an operator.
pub(crate) fn start_operator(cluster: &FakeCluster, leadership: Leadership) -> Arc<Metrics> {
    put_objects(cluster);
    let metrics = Arc::new(Metrics::new(leadership.clone()));
    let never = std::future::pending().boxed().shared();
    drop(spawn_operator(cluster, leadership, metrics.clone(), never));
    metrics
}

/// Creates nodes, the cluster DNS and a tier.
pub(crate) fn put_objects(cluster: &FakeCluster) {
    for letter in ["a", "b", "c"] {
        put_node(cluster, letter, 0);
    }
    cluster.merge(SERVICES, "kube-dns", serde_json::to_value(kube_dns()).unwrap());
    cluster.merge(TIERS, "default", serde_json::to_value(tier("default", "2026-01-01T00:00:00Z", "{}")).unwrap());
}

/// Starts an operator with a fenced client.
fn spawn_operator(
    cluster: &FakeCluster,
    leadership: Leadership,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) -> JoinHandle<()> {
    let client = client::build_fenced(
        cluster.api.config(),
        Limits::OPERATOR,
        &RequestCounter::default(),
        &Fence::new(leadership.clone()),
    )
    .unwrap();
    let (readiness, _) = watch::channel(Readiness::NotReady(String::new()));
    tokio::spawn(async move {
        reconcile_on_changes(client, settings(), Arc::default(), metrics, readiness, leadership, stop).await;
    })
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
pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
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
    // The status settles within a few passes; one that waits for its turn is written five seconds later.
    let (mut count, mut quiet) = (0, 0);
    while quiet < 8 {
        let is_quiet = requests_of_a_pass(&cluster, &metrics, count).await.is_empty();
        quiet = if is_quiet { quiet + 1 } else { 0 };
        count += 1;
        assert!(count < 60, "the tier does not come to rest: {:#?}", cluster.requests().split_off(10));
        tokio::time::sleep(Duration::from_secs(1)).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_waits_for_the_api_server_is_told_while_it_waits() {
    let is_silent = Arc::new(AtomicBool::new(true));
    let silent = is_silent.clone();
    let (cluster, metrics) = start(move |request| {
        let is_apply = request.method == "PATCH" && request.path().contains("/serviceaccounts/");
        (is_apply && silent.load(Ordering::Relaxed)).then_some(Reply::Silence)
    })
    .await;
    let wait = || metrics.queue().wait("default", Instant::now()).unwrap_or_default();
    wait_until("a pass that takes long", || wait() >= Duration::from_secs(2)).await;
    is_silent.store(false, Ordering::Relaxed);
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    wait_until("the end of the pass", || wait().is_zero()).await;
}

/// Returns a condition of the tier: its status, reason and message.
pub(crate) fn condition(cluster: &FakeCluster, type_: &str) -> Option<(String, String, String)> {
    let tiers = cluster.list(TIERS);
    let conditions = tiers.first()?["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == type_)?;
    let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_refused_is_told_with_the_command_that_helps_until_it_is_granted() {
    let in_namespace = "-n dnstier-node create role dnstier-extra --verb=list --resource=";
    for (path, command) in [
        (CONFIG_MAPS, format!("kubectl {in_namespace}configmaps")),
        (PODS, format!("kubectl {in_namespace}pods")),
        (NODES, "kubectl create clusterrole dnstier-extra --verb=list --resource=nodes".to_owned()),
    ] {
        let is_granted = Arc::new(AtomicBool::new(false));
        let granted = is_granted.clone();
        let (cluster, _metrics) = start(move |request| {
            let is_refused = request.path() == path && !granted.load(Ordering::Relaxed);
            is_refused.then(|| missing_grant("list", path))
        })
        .await;
        wait_until("the refusal", || condition(&cluster, "Stalled").is_some_and(|stalled| stalled.0 == "True")).await;
        let (_, reason, message) = condition(&cluster, "Stalled").unwrap();
        assert_eq!(reason, "Forbidden");
        assert!(message.contains(&command), "{message}");
        assert!(cluster.list(DEPLOYMENTS).is_empty(), "nothing is decided on partial state");
        is_granted.store(true, Ordering::Relaxed);
        wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    }
}

/// Returns the refusal of a request about a collection, as RBAC has it.
fn missing_grant(verb: &str, path: &str) -> Reply {
    let resource = path.rsplit('/').next().unwrap();
    let scope =
        if path.contains("/namespaces/") { "in the namespace \"dnstier-node\"" } else { "at the cluster scope" };
    Reply::refusal(
        403,
        &format!(
            "{resource} is forbidden: User \"system:serviceaccount:dnstier-system:dnstier-operator\" cannot {verb} \
             resource \"{resource}\" in API group \"\" {scope}"
        ),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_goes_on_while_a_watch_fails_and_decides_nothing_while_it_is_refused() {
    let check = async |path: &'static str| {
        let answer = Arc::new(AtomicUsize::new(200));
        let answered = answer.clone();
        let (cluster, _metrics) = start(move |request| {
            let end = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                String::new()
            };
            match (request.path() == path && request.is_watch(), answered.load(Ordering::Relaxed)) {
                (false, _) | (true, 0) => None,
                // No watch lasts, so that each answer is heard of soon.
                (true, 200) => Some(Reply::Stream(stream::once(end).boxed())),
                (true, 403) => Some(missing_grant("watch", path)),
                (true, _) => Some(Reply::refusal(500, "not now")),
            }
        })
        .await;
        let revisions = || {
            let config_maps = cluster.list(CONFIG_MAPS);
            config_maps.first().map(|object| object["metadata"]["annotations"]["dnstier.io/revisions"].clone())
        };
        let watches = || {
            let requests = cluster.api.requests();
            requests.iter().filter(|request| request.path() == path && request.is_watch()).count()
        };
        let answer_with = async |code: usize| {
            answer.store(code, Ordering::Relaxed);
            // Who asks once more has read the answer.
            let before = watches();
            wait_until("the watches", || watches() >= before + 2).await;
        };
        let change = |ttl: &str| {
            let before = revisions();
            cluster.merge(TIERS, "default", json!({"spec": {"nodeCache": {"cache": {"maxTtl": ttl}}}}));
            before
        };
        wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
        answer_with(500).await;
        let before = change("600s");
        wait_until("the change, without a watch", || revisions() != before).await;
        answer_with(403).await;
        let before = change("700s");
        let is_told = || {
            let tier = cluster.list(TIERS).remove(0);
            let is_of_change = tier["status"]["observedGeneration"] == tier["metadata"]["generation"];
            is_of_change && condition(&cluster, "Stalled").is_some_and(|stalled| stalled.1 == "Forbidden")
        };
        wait_until("the refusal", is_told).await;
        let (_, _, message) = condition(&cluster, "Stalled").unwrap();
        assert!(message.contains("cannot watch") && message.contains(" dnstier-extra --verb=watch"), "{message}");
        assert_eq!(revisions(), before, "nothing is decided on partial state");
        answer.store(0, Ordering::Relaxed);
        // A watch that is granted again tells it by its first event.
        let labels = labels::component_labels("default", labels::COMPONENT_NODE_CACHE);
        cluster.merge(path, "new", json!({"metadata": {"labels": labels}}));
        wait_until("the change", || revisions() != before).await;
    };
    futures::join!(check(PODS), check(NODES));
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
        assert!(start.elapsed() < Duration::from_secs(60), "the tier is not tried again");
    }
    let requests = cluster.requests().split_off(requests);
    let allowed = 5 * (start.elapsed().as_secs() + 1);
    assert!(requests.len() as u64 <= allowed, "{} of {allowed}: {requests:#?}", requests.len());
    assert!(requests.iter().filter(|request| is_write(request)).count() <= 3, "one refusal ends a retry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_knows_what_it_wrote_before_its_watches_say_so() {
    let cluster = FakeCluster::start(|_| None).await;
    cluster.hold(Held::Everything);
    let _metrics = start_operator(&cluster, Leadership::permanent());
    // The Deployments need the addresses that the API server gave to the Services of the first pass.
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    cluster.hold(Held::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_reads_everything_and_writes_nothing_until_it_leads() {
    let leadership = Leadership::default();
    let cluster = FakeCluster::start(|_| None).await;
    let metrics = start_operator(&cluster, leadership.clone());
    let is_watched =
        |path: &str| cluster.api.requests().iter().any(|request| request.is_watch() && request.path() == path);
    wait_until("the watches", || is_watched(TIERS) && is_watched(NODES) && is_watched(DEPLOYMENTS)).await;
    // Changes that would be a reason for a pass.
    for count in 0..20 {
        put_node(&cluster, "a", count);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let are_reads = |requests: &[FakeRequest]| requests.iter().all(|request| request.method == "GET");
    assert!(are_reads(&cluster.requests()), "{:#?}", cluster.requests());
    assert_eq!(passes(&metrics), 0);
    leadership.lead(Duration::from_secs(600));
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    leadership.lose();
    assert!(!metrics.encode().contains("tier="), "a standby does not know how tiers are");
    // What was running when the term ended is dropped at its next step.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (passes_before, requests_before) = (passes(&metrics), cluster.requests().len());
    for count in 0..40 {
        put_node(&cluster, "a", count);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(are_reads(&cluster.requests().split_off(requests_before)));
    assert_eq!(passes(&metrics), passes_before);
    // It leads again, and sets back what was changed meanwhile.
    let name = cluster.list(DEPLOYMENTS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.merge(DEPLOYMENTS, &name, json!({"metadata": {"annotations": {"dnstier.io/applied": "other"}}}));
    leadership.lead(Duration::from_secs(600));
    let is_set_back = || {
        let deployments = cluster.list(DEPLOYMENTS);
        deployments.iter().all(|deployment| deployment["metadata"]["annotations"]["dnstier.io/applied"] != "other")
    };
    wait_until("the change back", is_set_back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_of_another_release_is_not_written_to() {
    let cluster = FakeCluster::start(|_| None).await;
    cluster.merge("/apis/coordination.k8s.io/v1/namespaces/elsewhere/leases", "dnstier-operator", json!({}));
    cluster.merge(TIERS, "default", json!({"status": {"operator": {"namespace": "elsewhere"}}}));
    let metrics = start_operator(&cluster, Leadership::permanent());
    let is_told = || metrics.encode().contains("claimed_elsewhere{tier=\"default\"} 1");
    wait_until("the word about the other release", is_told).await;
    let passes_before = passes(&metrics);
    let mut count = 0;
    while passes(&metrics) < passes_before + 2 {
        count += 1;
        put_node(&cluster, "a", count);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(count < 1_200, "the tier is not looked at again");
    }
    let writes: Vec<FakeRequest> = cluster.requests().into_iter().filter(|request| request.method != "GET").collect();
    assert_eq!(writes.len(), 1, "{writes:#?}");
    assert_eq!(writes[0].body["reason"], "ClaimedByOtherRelease");
    cluster.merge(TIERS, "default", json!({"status": {"operator": {"namespace": "dnstier-system"}}}));
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    assert_eq!(cluster.list(TIERS)[0]["status"]["operator"]["namespace"], "dnstier-system");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_watch_is_late_writes_nothing_to_a_tier_that_another_release_has_taken_over() {
    let (cluster, leadership) = (FakeCluster::start(|_| None).await, Leadership::permanent());
    let metrics = start_operator(&cluster, leadership.clone());
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    leadership.lose();
    // What was running when the term ended is dropped at its next step.
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.hold(Held::Collection(TIERS));
    cluster.merge(TIERS, "default", json!({"status": {"operator": {"namespace": "elsewhere"}}}));
    // This one would set it back.
    let name = cluster.list(DEPLOYMENTS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.merge(DEPLOYMENTS, &name, json!({"metadata": {"annotations": {"dnstier.io/applied": "other"}}}));
    let before = cluster.requests().len();
    leadership.lead(Duration::from_secs(600));
    let is_found = || metrics.encode().contains("claimed_elsewhere{tier=\"default\"} 1");
    wait_until("the claim of the other release", is_found).await;
    let (passes_before, mut count) = (passes(&metrics), 0);
    while passes(&metrics) < passes_before + 2 {
        count += 1;
        put_node(&cluster, "a", count);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(count < 1_200, "the tier is not looked at again");
    }
    let requests = cluster.requests().split_off(before);
    assert!(requests.iter().all(|request| request.method == "GET"), "{requests:#?}");
    cluster.hold(Held::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_cannot_be_listed_hold_up_no_pass() {
    let check = async |reply: fn() -> Reply| {
        let (cluster, _metrics) = start(move |request| (request.path() == EVENTS).then(reply)).await;
        wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
        // No node pod can be created.
        let name = cluster.list(DAEMON_SETS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
        let status = json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 0, "numberMisscheduled": 0,
            "numberReady": 0});
        cluster.merge(DAEMON_SETS, &name, json!({"status": status}));
        let is_asked = || cluster.requests().iter().any(|request| request.path() == EVENTS);
        wait_until("a list of events", is_asked).await;
        let revisions = || cluster.list(CONFIG_MAPS)[0]["metadata"]["annotations"]["dnstier.io/revisions"].clone();
        let before = revisions();
        cluster.merge(TIERS, "default", json!({"spec": {"nodeCache": {"cache": {"maxTtl": "600s"}}}}));
        wait_until("the change", || revisions() != before).await;
    };
    let replies: [fn() -> Reply; 2] = [|| Reply::refusal(500, "not now"), || Reply::Silence];
    let [refusal, silence] = replies;
    futures::join!(check(refusal), check(silence));
}

/// Starts an operator and a tier, and waits until two nodes of a zone run its first revision. Other zones have no pods.
async fn start_with_two_nodes(leadership: Leadership) -> (Arc<FakeCluster>, FakePods, Arc<Metrics>) {
    let cluster = Arc::new(FakeCluster::start(|_| None).await);
    let pods = FakePods::new(cluster.clone(), Timestamp::now());
    let clock = pods.clone();
    tokio::spawn(async move {
        loop {
            clock.set_now(Timestamp::now());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let metrics = start_operator(&cluster, leadership);
    cluster.merge(TIERS, "default", json!({"spec": {"rollout": {"soak": "5s", "waveSize": 1}}}));
    cluster.merge(NODES, "node-a2", json!({"metadata": {"labels": linux([(ZONE_LABEL, "zone-a")])}}));
    for node in ["node-a", "node-a2"] {
        pods.add_node_pod("zone-a", node).await;
    }
    wait_until("the first revision", || is_rolled_out(&cluster)).await;
    (cluster, pods, metrics)
}

fn is_rolled_out(cluster: &FakeCluster) -> bool {
    condition(cluster, "RolledOut").is_some_and(|rolled_out| rolled_out.0 == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_gets_a_tier_back_rolls_out_anew_and_believes_no_record_of_before() {
    let leadership = Leadership::permanent();
    let (cluster, pods, _metrics) = start_with_two_nodes(leadership.clone()).await;
    let resolver = pods.add_resolver("zone-a", "node-a").await;
    wait_until("the resolver", || pods.asked(&resolver).is_some()).await;
    let own = cluster.list(TIERS)[0]["status"]["rollout"]["target"].as_str().unwrap().to_owned();
    leadership.lose();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Another release has taken the tier over, has proven a revision of its own, and is uninstalled.
    let of_nodes = cluster.list(CONFIG_MAPS).remove(0);
    let name = of_nodes["metadata"]["name"].as_str().unwrap();
    let stable = of_nodes["data"]["stable.json"].as_str().unwrap();
    let theirs = stable.replace("\"maxTtl\":3600", "\"maxTtl\":1234");
    assert_ne!(theirs, stable);
    let annotations = json!({"dnstier.io/revisions": format!("theirs,{own}")});
    let data = json!({"theirs.json": theirs, "stable.json": theirs});
    cluster.merge(CONFIG_MAPS, name, json!({"metadata": {"annotations": annotations}, "data": data}));
    let of_nodes = pods.node_pods().into_iter().map(|(pod, _)| (PODS, pod));
    for (collection, pod) in of_nodes.chain([(RESOLVER_PODS, resolver)]) {
        cluster.merge(collection, &pod, json!({"metadata": {"annotations": {"dnstier.io/revision": "theirs"}}}));
    }
    cluster.merge(TIERS, "default", json!({"status": {"operator": {"namespace": "elsewhere"}}}));
    let before = cluster.requests().len();
    leadership.lead(Duration::from_secs(600));

    let is_told = |request: &FakeRequest| request.body["metadata"]["annotations"]["dnstier.io/revision"] == json!(own);
    wait_until("the first pod", || cluster.requests().split_off(before).iter().any(is_told)).await;
    let requests = cluster.requests().split_off(before);
    let place = |is_it: &dyn Fn(&FakeRequest) -> bool| requests.iter().position(is_it);
    let is_announced = |request: &FakeRequest| {
        let conditions = request.body["status"]["conditions"].as_array();
        let is_false = |condition: &Value| condition["type"] == "RolledOut" && condition["status"] == "False";
        conditions.is_some_and(|conditions| conditions.iter().any(is_false))
    };
    let record = format!("{RECORDS}/dnstier-default-rollout");
    let places = [
        place(&|request| request.method == "DELETE" && request.path() == record),
        place(&|request| !request.body["status"]["operator"].is_null()),
        place(&|request| request.method == "POST" && request.path() == RECORDS),
        place(&is_announced),
        place(&is_told),
    ];
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {requests:#?}");
    assert_eq!(requests.iter().filter(|request| is_told(request)).count(), 1, "one resolver goes first");
    let of_resolvers = cluster.list(RECORDS).into_iter().find(|config_map| config_map["metadata"]["name"] == name);
    assert_eq!(of_resolvers.unwrap()["data"]["theirs.json"], json!(theirs), "resolvers may have to go back to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_spreads_by_the_clocks_and_the_polls_of_the_operator() {
    let (cluster, pods, metrics) = start_with_two_nodes(Leadership::permanent()).await;
    let is_rolled_out = || is_rolled_out(&cluster);
    cluster.merge(TIERS, "default", json!({"spec": {"nodeCache": {"cache": {"maxTtl": "600s"}}}}));
    wait_until("the word that it is not rolled out", || !is_rolled_out()).await;
    let target = || cluster.list(TIERS)[0]["status"]["rollout"]["target"].as_str().unwrap().to_owned();
    let seen = || pods.seen().into_iter().filter(|(_, seen)| seen.contains(&target())).count();
    wait_until("the first node", || seen() == 1).await;
    let step = || cluster.list(TIERS)[0]["status"]["rollout"]["step"].as_str().unwrap().to_owned();
    wait_until("the word about it", || step() == "Canary").await;
    assert_eq!(seen(), 1, "the first node is watched");
    wait_until("the wave", || seen() == 2).await;
    wait_until("the end", is_rolled_out).await;
    assert!(passes(&metrics) > 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_a_tier_that_was_deleted_are_not_created_again_while_its_watch_is_late() {
    let is_tier = |request: &FakeRequest| request.path() == TIERS && request.is_watch();
    let cluster = FakeCluster::start(move |request| is_tier(request).then_some(Reply::Silence)).await;
    put_objects(&cluster);
    let never = std::future::pending().boxed().shared();
    drop(spawn_operator(&cluster, Leadership::permanent(), Arc::default(), never));
    wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
    cluster.delete(TIERS, "default");
    let name = cluster.list(DEPLOYMENTS)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.delete(DEPLOYMENTS, &name);
    let requests_before = cluster.requests().len();
    let looks = || {
        let requests = cluster.requests().split_off(requests_before);
        requests.iter().filter(|request| request.path() == format!("{TIERS}/default")).count()
    };
    // For some seconds the operator believes that its own write has not reached the watch yet.
    for count in 0.. {
        put_node(&cluster, "a", count);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(cluster.list(DEPLOYMENTS).len(), 2);
        assert!(count < 600, "the operator does not look at the tier");
        if looks() > 1 {
            break;
        }
    }
}

/// Operator that takes part in an election.
struct Replica {
    leadership: Leadership,
    metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    elector: JoinHandle<()>,
    operator: JoinHandle<()>,
}

impl Replica {
    fn start(cluster: &FakeCluster, pod: &str) -> Self {
        let leadership = Leadership::default();
        let metrics = Arc::new(Metrics::new(leadership.clone()));
        let (leader, election_client) = (leadership.clone(), cluster.api.client(Limits::OPERATOR));
        let elector =
            Elector::new(election_client, "dnstier-system", &new_identity(pod), leader, Arc::default(), TIMING);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) }.boxed().shared();
        let elector = tokio::spawn(elector.run(stopped.clone()));
        let operator = spawn_operator(cluster, leadership.clone(), metrics.clone(), stopped);
        Self { leadership, metrics, stop: Some(stop), elector, operator }
    }

    fn is_leader(&self) -> bool {
        self.leadership.term(tokio::time::Instant::now()).is_some()
    }

    /// Ends the replica without a word.
    fn kill(&self) {
        self.elector.abort();
        self.operator.abort();
    }
}

/// Returns the objects that the operator keeps, without what the API server counts.
fn owned_objects(cluster: &FakeCluster) -> Vec<Value> {
    let collections = [SERVICES, CONFIG_MAPS, DEPLOYMENTS, DAEMON_SETS];
    collections.iter().flat_map(|collection| cluster.list(collection)).map(|object| object["spec"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_leaves_behind_is_finished_by_the_next_whether_it_is_killed_or_stops() {
    let clean = start(|_| None).await.0;
    wait_until("the last Deployment", || clean.list(DEPLOYMENTS).len() == 3).await;
    for is_killed in [true, false] {
        let lease = FakeLease::default();
        let (served, writes) = (lease.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = writes.clone();
        // The API server is silent from the eighth write on, until the leader is gone.
        let is_silent = Arc::new(AtomicBool::new(true));
        let silent = is_silent.clone();
        let cluster = FakeCluster::start(move |request| {
            if request.path().contains("/leases") {
                return Some(served.reply(request));
            }
            let is_write = request.method != "GET";
            let is_lost = is_write && counted.fetch_add(1, Ordering::Relaxed) >= 8 && silent.load(Ordering::Relaxed);
            is_lost.then_some(Reply::Silence)
        })
        .await;
        put_objects(&cluster);
        let mut one = Replica::start(&cluster, "pod-a");
        wait_until("the first leader", || one.is_leader()).await;
        let other = Replica::start(&cluster, "pod-b");
        wait_until("the eighth write", || writes.load(Ordering::Relaxed) > 8).await;
        assert!(!other.is_leader() && passes(&other.metrics) == 0);
        if is_killed {
            one.kill();
        } else {
            one.stop.take().unwrap().send(()).unwrap();
        }
        is_silent.store(false, Ordering::Relaxed);
        wait_until("the last Deployment", || cluster.list(DEPLOYMENTS).len() == 3).await;
        assert!(other.is_leader() && !one.is_leader());
        assert_eq!(owned_objects(&cluster).len(), owned_objects(&clean).len());
        assert_eq!(lease.get("leaseTransitions"), json!(1));
        let owner = "dnstier-system";
        assert_eq!(cluster.list(TIERS)[0]["status"]["operator"]["namespace"], owner);
    }
}

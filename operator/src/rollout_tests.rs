//! Roll-outs by the whole controller in front of a fake cluster, with the time as a parameter: one pass in each second.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use dnstier_crds::DnsTier;
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use node_cache_config::names::ZONE_LABEL;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::Limits;
use crate::controller::fixtures::{kube_dns, linux, settings, tier};
use crate::controller::observe::WatchedTier;
use crate::controller::observe::own_writes::OwnWrites;
use crate::controller::observe::poll::{Poller, ReportStore, RoleStore};
use crate::controller::{Applier, Backoff, Claims, Context, Observer, StatusWriter, Trials, reconcile_tier};
use crate::fake_api::{FakeRequest, Reply};
use crate::fake_cluster::FakeCluster;
use crate::fake_pods::{FakePods, Fault};
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::watch::{Stores, Waker, Watches};

const NODES: &str = "/api/v1/nodes";
const TIERS: &str = "/apis/dnstier.io/v1alpha1/dnstiers";
const SERVICES: &str = "/api/v1/namespaces/kube-system/services";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/dnstier-node/daemonsets";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/dnstier-system/deployments";
const CONFIG_MAPS: &str = "/api/v1/namespaces/dnstier-node/configmaps";
const RECORDS: &str = "/api/v1/namespaces/dnstier-system/configmaps";
const RECORD: &str = "dnstier-default-rollout";
/// Begin of the tests, in seconds of the Unix epoch.
const BEGIN: i64 = 1_770_000_000;

/// Process of the operator, whose passes the test starts.
struct Process {
    context: Arc<Context>,
    poller: Poller,
    stores: Stores,
    tiers: Store<WatchedTier>,
    _tasks: JoinSet<()>,
}

impl Process {
    async fn start(cluster: &FakeCluster, clock: &Arc<AtomicI64>) -> Self {
        let client = cluster.api.client(Limits::OPERATOR);
        let settings = Arc::new(settings());
        let (changed, _) = mpsc::channel(1);
        let waker = Waker { schedule: Arc::default(), changed };
        let mut tasks = JoinSet::new();
        let stores = Watches { client: &client, waker: &waker, tasks: &mut tasks }.add_all(&settings);
        let (tiers, writer) = reflector::store();
        let events = watcher(Api::<WatchedTier>::all(client.clone()), watcher::Config::default());
        let events = events.default_backoff().reflect(writer);
        tasks.spawn(async move { events.for_each(|_| std::future::ready(())).await });
        stores.owned.wait_for_lists().await;
        stores.nodes.wait_until_ready().await.unwrap();
        tiers.wait_until_ready().await.unwrap();
        for pods in &stores.pods {
            pods.wait_until_ready().await.unwrap();
        }
        let metrics = Arc::new(Metrics::new(Leadership::permanent()));
        let (reports, roles, own_writes) =
            (ReportStore::default(), RoleStore::default(), Arc::new(OwnWrites::default()));
        let (polled, _) = mpsc::channel(1);
        let (first_round, _) = watch::channel(true);
        let poller = Poller {
            pods: stores.pods.clone(),
            nodes: stores.nodes.clone(),
            interval: Duration::from_secs(5),
            reports: reports.clone(),
            changed: polled.clone(),
            roles: roles.clone(),
            wake: Arc::default(),
            first_round,
            metrics: metrics.clone(),
        };
        let clock = clock.clone();
        let context = Context {
            observer: Observer {
                client: client.clone(),
                settings: settings.clone(),
                tiers: tiers.clone(),
                nodes: stores.nodes.clone(),
                pods: stores.pods.clone(),
                owned: stores.owned.clone(),
                own_writes: own_writes.clone(),
                reports,
                clock: Arc::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap()),
            },
            applier: Applier::new(client.clone(), metrics.clone(), Arc::default(), own_writes),
            claims: Claims::new(client.clone(), settings.namespace.clone(), metrics.clone()),
            trials: Arc::new(Trials::new(roles, polled)),
            status_writer: StatusWriter::new(client, metrics.clone()).without_delay(),
            schedule: waker.schedule.clone(),
            backoff: Backoff::default(),
            settings,
            leadership: Leadership::permanent(),
            active_term: watch::channel(Some(1)).1,
            liveness: Arc::default(),
            metrics,
        };
        Self { context: Arc::new(context), poller, stores, tiers, _tasks: tasks }
    }

    /// Waits until the watches have delivered everything.
    async fn catch_up(&self, cluster: &FakeCluster) {
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let expected = |collections: &[&str]| -> BTreeSet<String> {
            collections.iter().flat_map(|collection| cluster.list(collection)).map(|object| version(&object)).collect()
        };
        for _ in 0..5_000 {
            let pods = self.stores.pods.iter().flat_map(Store::state).filter_map(|pod| pod.resource_version());
            let pod_collections = ["/api/v1/namespaces/dnstier-node/pods", "/api/v1/namespaces/dnstier-system/pods"];
            let tiers = self.tiers.state();
            let tiers = tiers.iter().filter_map(|tier| tier.0.as_ref().ok()?.resource_version());
            let nodes = self.stores.nodes.state().into_iter().filter_map(|node| node.resource_version());
            if pods.collect::<BTreeSet<_>>() == expected(&pod_collections)
                && tiers.collect::<BTreeSet<_>>() == expected(&[TIERS])
                && nodes.collect::<BTreeSet<_>>() == expected(&[NODES])
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the watches do not catch up");
    }

    fn tier(&self) -> Arc<DnsTier> {
        let tiers = self.tiers.state();
        Arc::new(tiers[0].0.as_ref().unwrap().clone())
    }
}

/// A cluster with a tier, its pods, and a process of the operator.
struct World {
    cluster: Arc<FakeCluster>,
    pods: FakePods,
    process: Process,
    clock: Arc<AtomicI64>,
    /// Whether writes of the record conflict.
    is_fenced: Arc<AtomicBool>,
    first: String,
}

impl World {
    /// Starts a tier with this many nodes in each zone and two resolvers for each, whose first revision is in force.
    async fn start(zones: &[usize], rollout: Value) -> Self {
        let is_fenced = Arc::new(AtomicBool::new(false));
        let fenced = is_fenced.clone();
        let is_record = |request: &FakeRequest| request.method != "GET" && request.body["metadata"]["name"] == RECORD;
        let cluster = FakeCluster::start(move |request| {
            let is_refused = is_record(request) && fenced.load(Ordering::Relaxed);
            is_refused.then(|| Reply::refusal(409, "the object has been modified"))
        })
        .await;
        let cluster = Arc::new(cluster);
        let clock = Arc::new(AtomicI64::new(BEGIN));
        let pods = FakePods::new(cluster.clone(), Timestamp::from_second(BEGIN).unwrap());
        cluster.merge(SERVICES, "kube-dns", serde_json::to_value(kube_dns()).unwrap());
        cluster.merge(TIERS, "default", serde_json::to_value(tier("default", "2026-01-01T00:00:00Z", "{}")).unwrap());
        cluster.merge(TIERS, "default", json!({"spec": {"rollout": rollout}}));
        for (number, size) in zones.iter().enumerate() {
            let zone = ["a", "b", "c"][number];
            for node in 0..*size {
                let name = format!("{zone}{node}");
                let labels = linux([(ZONE_LABEL, zone.to_owned())]);
                let conditions = json!([{"type": "Ready", "status": "True"}]);
                cluster.merge(
                    NODES,
                    &name,
                    json!({"metadata": {"labels": labels}, "status": {"conditions": conditions}}),
                );
                pods.add_node_pod(zone, &name).await;
            }
            for _ in 0..2 {
                pods.add_resolver(zone, &format!("{zone}0")).await;
            }
        }
        let process = Process::start(&cluster, &clock).await;
        let mut world = Self { cluster, pods, process, clock, is_fenced, first: String::new() };
        world.run_until("the last Deployment", |world| world.cluster.list(DEPLOYMENTS).len() == zones.len()).await;
        let nodes: usize = zones.iter().sum();
        let status = json!({"observedGeneration": 1_000, "desiredNumberScheduled": nodes, "numberReady": nodes,
            "currentNumberScheduled": nodes, "updatedNumberScheduled": nodes, "numberMisscheduled": 0});
        world.set_status(DAEMON_SETS, status);
        let status = json!({"observedGeneration": 1_000, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2});
        world.set_status(DEPLOYMENTS, status);
        world.run_until("the first revision is in force", |world| world.rolled_out().1 == "RolledOut").await;
        world.first = world.target();
        world
    }

    /// Lets a second pass, and the operator look at the tier.
    async fn pass(&mut self) {
        let now = Timestamp::from_second(self.clock.fetch_add(1, Ordering::Relaxed) + 1).unwrap();
        self.pods.set_now(now);
        self.process.catch_up(&self.cluster).await;
        self.process.poller.poll_all(u32::try_from((now.as_second() - BEGIN) * 1_000).unwrap()).await;
        let result = reconcile_tier(self.process.tier(), false, &self.process.context).await;
        if let Err(error) = result {
            assert!(error.is_conflict(), "{error}");
        }
        while self.process.context.trials.is_probing("default") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn run(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.pass().await;
        }
    }

    async fn run_until(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if is_true(self) {
                return;
            }
            self.pass().await;
        }
        panic!("never: {what}; {:#} {:#}", self.record(), self.status());
    }

    /// Replaces the process of the operator by another one.
    async fn replace_process(&mut self) {
        self.process = Process::start(&self.cluster, &self.clock).await;
    }

    fn change(&self, spec: Value) {
        self.cluster.merge(TIERS, "default", json!({"spec": spec}));
    }

    /// Sets the status of all workloads of a collection, as their controllers do.
    fn set_status(&self, collection: &str, status: Value) {
        for object in self.cluster.list(collection) {
            let name = object["metadata"]["name"].as_str().unwrap();
            self.cluster.merge(collection, name, json!({"status": status}));
        }
    }

    fn annotate(&self, key: &str, value: &str) {
        self.cluster.merge(TIERS, "default", json!({"metadata": {"annotations": {key: value}}}));
    }

    fn status(&self) -> Value {
        self.cluster.list(TIERS)[0]["status"].clone()
    }

    /// Returns a condition of the tier: its status, reason and message.
    fn condition(&self, type_: &str) -> (String, String, String) {
        let status = self.status();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let condition = conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default();
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    fn rolled_out(&self) -> (String, String, String) {
        self.condition("RolledOut")
    }

    fn record(&self) -> Value {
        let record = self.cluster.list(RECORDS).into_iter().find(|record| record["metadata"]["name"] == RECORD);
        let text = record.map(|record| record["data"]["record.json"].as_str().unwrap().to_owned());
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }

    fn step(&self) -> String {
        self.record()["step"].as_str().unwrap_or_default().to_owned()
    }

    fn target(&self) -> String {
        self.record()["target"]["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the configuration with which pods start that are not told any.
    fn stable(&self) -> Value {
        let config_map = &self.cluster.list(CONFIG_MAPS)[0];
        serde_json::from_str(config_map["data"]["stable.json"].as_str().unwrap()).unwrap()
    }

    /// Returns the keys of the pods that were ever asked to run a revision.
    fn seen(&self, revision: &str) -> Vec<String> {
        let seen = self.pods.seen().into_iter().filter(|(_, seen)| seen.contains(revision));
        seen.map(|(key, _)| key).collect()
    }

    /// Changes the configuration of the nodes, and returns the revision once it is known.
    async fn change_nodes(&mut self, seconds: u32) -> String {
        let before = self.target();
        self.change(json!({"nodeCache": {"cache": {"maxTtl": format!("{seconds}s")}}}));
        self.run_until("there is another target", |world| world.target() != before).await;
        self.target()
    }
}

fn settings_of(soak: &str) -> Value {
    json!({"soak": soak, "waveSize": 1})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_change_goes_to_resolvers_then_to_the_first_nodes_then_in_waves_and_is_rolled_out() {
    let mut world = World::start(&[2, 1], settings_of("5s")).await;
    world.change(json!({"resolvers": {"upstreams": [{"addresses": ["192.0.2.53"]}]}}));
    let mut steps: Vec<(String, String)> = Vec::new();
    world.run(2).await;
    let target = world.target();
    assert_ne!(target, world.first);
    assert_eq!(world.rolled_out().0, "False");
    assert_eq!(world.seen(&target), Vec::<String>::new(), "the status is written before the first pod is told");
    for _ in 0..300 {
        let record = world.record();
        let zone = record["zone"].as_str().unwrap_or_default().to_owned();
        let step = (world.step(), zone);
        if steps.last() != Some(&step) {
            steps.push(step);
        }
        if world.rolled_out().0 == "True" {
            break;
        }
        let is_stable = world.stable()["resolver"] != json!(null) && world.record()["proven"]["id"] == target;
        let has_upstream = world.stable()["resolver"].to_string().contains("192.0.2.53");
        assert_eq!(has_upstream, is_stable, "stable is the target with the last step and not before");
        world.pass().await;
    }
    let expected = [
        ("Resolver", "a"),
        ("ResolverZone", "a"),
        ("Resolver", "b"),
        ("ResolverZone", "b"),
        ("Canary", ""),
        ("Wave", "a"),
        ("Done", ""),
    ];
    let steps: Vec<(&str, &str)> = steps.iter().map(|(step, zone)| (step.as_str(), zone.as_str())).collect();
    assert_eq!(
        steps.iter().filter(|(step, _)| !["Start", "Finish"].contains(step)).copied().collect::<Vec<_>>(),
        expected
    );
    assert_eq!(world.rolled_out().1, "RolledOut");
    assert_eq!(world.status()["rollout"]["step"], "Done");
    assert_eq!(world.status()["revision"], json!({"current": target, "target": target}));
    world.run(2).await;
    for (type_, status) in [("Ready", "True"), ("Progressing", "False"), ("Degraded", "False"), ("Stalled", "")] {
        assert_eq!(world.condition(type_).0, status, "{type_}: {:?}", world.condition(type_));
    }
    assert_eq!(world.seen(&target).len(), 7);
    let tier = &world.cluster.list(TIERS)[0];
    let generation = &tier["metadata"]["generation"];
    let conditions = tier["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|condition| condition["observedGeneration"] == *generation));
}

/// Rolls out a change of the nodes that has a fault, and returns the reason and the sentence for which it was stopped.
async fn stop(world: &mut World, fault: Fault) -> (String, String) {
    let target = world.change_nodes(600).await;
    world.pods.set_fault(&target, "", Some(fault));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    world.run(2).await;
    let (status, reason, sentence) = world.rolled_out();
    assert_eq!(status, "False", "{sentence}");
    let seen = world.seen(&target);
    assert!(seen.iter().all(|key| ["a0", "b0"].contains(&key.as_str())), "{fault:?}: one node of each zone: {seen:?}");
    for (name, _) in world.pods.names() {
        assert_eq!(world.pods.asked(&name).as_ref(), Some(&world.first), "{name} is back");
    }
    for type_ in ["Degraded", "Stalled"] {
        let condition = world.condition(type_);
        assert_eq!((condition.0.as_str(), condition.1.as_str()), ("True", reason.as_str()));
        assert!(condition.2.contains(&sentence), "{condition:?}");
    }
    assert_eq!(world.condition("Reconciling").0, "");
    assert_eq!(world.record()["proven"]["id"], json!(world.first));
    assert_ne!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
    (reason, sentence)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_a_node_refuses_goes_no_further_than_one_node_of_a_zone_and_is_taken_back() {
    let mut world = World::start(&[3, 2], settings_of("5s")).await;
    let (reason, sentence) = stop(&mut world, Fault::Refused).await;
    assert_eq!(reason, "RevisionRefused");
    assert!(sentence.contains("zones: it is bad"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_whose_pods_do_worse_is_taken_back_with_the_figures() {
    let mut world = World::start(&[3, 2], settings_of("30s")).await;
    let (reason, sentence) = stop(&mut world, Fault::Servfail).await;
    assert_eq!(reason, "JudgedWorse");
    assert!(sentence.contains("SERVFAIL") && sentence.contains('%'), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_whose_probes_get_other_answers_or_none_is_taken_back() {
    for (fault, expected) in [(Fault::WrongAnswers, "WrongAnswers"), (Fault::DeadRoute, "JudgedWorse")] {
        let probes = json!([{"name": "www.example", "type": "A", "compare": "Answers"}]);
        let mut world = World::start(&[3, 2], json!({"soak": "5s", "waveSize": 1, "probes": probes})).await;
        assert_eq!(world.stable()["nodeCache"]["probes"], json!([{"name": "www.example", "type": "A"}]));
        let (reason, sentence) = stop(&mut world, fault).await;
        assert_eq!(reason, expected);
        let name = if fault == Fault::DeadRoute { "probes of " } else { "www.example A" };
        assert!(sentence.contains(name), "{sentence}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_with_which_processes_end_is_taken_back() {
    let mut world = World::start(&[3, 2], settings_of("5s")).await;
    assert_eq!(stop(&mut world, Fault::Crash).await.0, "PodCrashed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_pods_do_not_take_over_is_taken_back_after_three_further_tellings() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.pods.set_fault(&target, "", Some(Fault::Deaf));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    world.run(2).await;
    assert_eq!(world.rolled_out().1, "NotInForce");
    assert_eq!(world.seen(&target), ["a0", "a1"], "another node takes the place of the first one once");
    let told = |request: &FakeRequest| {
        let annotations = &request.body["metadata"]["annotations"];
        (annotations["dnstier.io/revision"] == *target)
            .then(|| annotations["dnstier.io/told"].as_str().unwrap().split(' ').next().unwrap().to_owned())
    };
    let requests = world.cluster.requests();
    let of_first = requests.iter().filter(|request| request.path().contains("/cache-a0-"));
    assert_eq!(of_first.filter_map(told).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_was_taken_back_is_tried_again_when_the_annotation_says_so() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.pods.set_fault(&target, "", Some(Fault::Refused));
    world.run_until("it is stopped", |world| world.step() == "Stopped").await;
    world.pods.set_fault(&target, "", None);
    world.run(20).await;
    assert_eq!(world.step(), "Stopped");
    world.annotate("dnstier.io/retry-rollout", "1");
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), target);
    assert_eq!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
    assert_eq!(world.condition("Stalled").0, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_the_pods_where_they_are_and_is_told() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.change(json!({"rollout": {"paused": true}}));
    let new = world.pods.add_node_pod("a", "a9").await;
    world.run(40).await;
    assert_eq!((world.step().as_str(), world.seen(&target)), ("Canary", vec!["a0".to_owned()]));
    assert_eq!(world.pods.asked(&new), Some(world.first.clone()), "new pods get the proven state");
    assert_eq!(world.rolled_out().1, "Paused");
    assert_eq!(world.condition("Reconciling").1, "Paused");
    world.change(json!({"rollout": {"paused": false}}));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.pods.asked(&new), Some(target));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_spec_supersedes_and_untouched_pods_never_see_the_old_target() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let old = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&old) == ["a0"]).await;
    let new = world.change_nodes(700).await;
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), new);
    assert_eq!(world.seen(&old), ["a0"]);
    assert_eq!(world.seen(&new), ["a0", "a1", "a2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_lost_is_made_again_and_the_roll_out_goes_on() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.cluster.delete(RECORDS, RECORD);
    // The watch tells that it is gone once the own write is forgotten.
    world.replace_process().await;
    world.pass().await;
    assert_eq!(world.record()["proven"]["id"], json!(world.first));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.target(), target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_not_the_leader_any_more_tells_nobody() {
    let mut world = World::start(&[3], settings_of("5s")).await;
    world.is_fenced.store(true, Ordering::Relaxed);
    world.change(json!({"nodeCache": {"cache": {"maxTtl": "600s"}}}));
    let requests = world.cluster.requests().len();
    world.run(20).await;
    let told = world.cluster.requests().split_off(requests);
    assert!(told.iter().any(|request| request.body["metadata"]["name"] == RECORD), "it has tried");
    assert!(told.iter().all(|request| !request.path().contains("/pods/")), "{told:#?}");
    assert_eq!(world.target(), world.first);
    world.is_fenced.store(false, Ordering::Relaxed);
    world.run_until("there is another target", |world| world.target() != world.first).await;
    let target = world.target();
    // Somebody else leads from the first step on: its record is newer than the one that was read.
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.is_fenced.store(true, Ordering::Relaxed);
    world.run(30).await;
    assert_eq!((world.step().as_str(), world.seen(&target)), ("Canary", vec!["a0".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_replaced_in_every_step_leaves_a_roll_out_that_ends_the_same() {
    for fault in [None, Some(Fault::Refused)] {
        let mut world = World::start(&[2, 1], settings_of("5s")).await;
        let target = world.change_nodes(600).await;
        world.pods.set_fault(&target, "b0", None);
        let mut steps = 0;
        let mut step = String::new();
        for _ in 0..300 {
            if world.step() != step {
                step = world.step();
                steps += 1;
                world.replace_process().await;
            }
            if step == "Wave" && fault.is_some() {
                world.pods.set_fault(&target, "", fault);
            }
            if ["Done", "Stopped"].contains(&step.as_str()) && world.target() == target {
                break;
            }
            world.pass().await;
        }
        world.run(3).await;
        assert!(steps >= 3, "{steps}");
        let (asked, reason) = match fault {
            None => (&target, "RolledOut"),
            Some(_) => (&world.first, "RevisionRefused"),
        };
        assert_eq!(world.rolled_out().1, reason);
        let nodes = world.pods.names().into_iter().filter(|(name, _)| name.starts_with("cache"));
        for (name, _) in nodes {
            assert_eq!(world.pods.asked(&name).as_ref(), Some(asked), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_whose_pod_is_made_again_stays_one() {
    let mut world = World::start(&[3], settings_of("20s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.run(5).await;
    let (old, _) = world.pods.names().into_iter().find(|(_, node)| node == "a0").unwrap();
    world.pods.delete(&old);
    let new = world.pods.add_node_pod("a", "a0").await;
    world.run(3).await;
    assert_eq!(world.pods.asked(&new), Some(target.clone()));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_spec_is_not_rolled_out_and_what_was_on_its_way_goes_on() {
    let mut world = World::start(&[2], settings_of("5s")).await;
    let target = world.change_nodes(600).await;
    world.run_until("the first node has it", |world| world.seen(&target) == ["a0"]).await;
    world.change(json!({"clusterDns": {"name": "nothing"}}));
    world.run_until("every node has it", |world| world.seen(&target) == ["a0", "a1"]).await;
    world.run(10).await;
    let (status, reason, _) = world.rolled_out();
    assert_eq!((status.as_str(), reason.as_str(), world.step().as_str()), ("False", "ClusterDnsNotFound", "Done"));
    world.change(json!({"clusterDns": {"name": "kube-dns"}}));
    world.run_until("it is rolled out", |world| world.rolled_out().0 == "True").await;
    assert_eq!(world.stable()["nodeCache"]["cache"]["maxTtl"], 600);
}

//! World of the tests of roll-outs: the whole controller in front of a fake cluster, with the time as a parameter and
//! one pass in each second.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
use crate::controller::observe::object_store::ObjectStore;
use crate::controller::observe::own_writes::OwnWrites;
use crate::controller::observe::poll::{AddressUses, Poller, ReportStore, RoleStore};
use crate::controller::schedule::Waker;
use crate::controller::{
    Applier, Backoff, Claims, Context, Observer, StatusWriter, Trials, UnreadableReporter, reconcile_tier,
};
use crate::fake_api::{FakeRequest, Reply};
use crate::fake_cluster::{FakeCluster, Held};
use crate::fake_pods::FakePods;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::watch::Watches;

pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const TIERS: &str = "/apis/dnstier.io/v1alpha1/dnstiers";
const SERVICES: &str = "/api/v1/namespaces/kube-system/services";
pub(crate) const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/dnstier-node/daemonsets";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/dnstier-system/deployments";
const CONFIG_MAPS: &str = "/api/v1/namespaces/dnstier-node/configmaps";
pub(crate) const RECORDS: &str = "/api/v1/namespaces/dnstier-system/configmaps";
pub(crate) const RECORD: &str = "dnstier-default-rollout";
/// Begin of the tests, in seconds of the Unix epoch.
const BEGIN: i64 = 1_770_000_000;

/// Process of the operator, whose passes the test starts.
struct Process {
    context: Arc<Context>,
    poller: Poller,
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
        assert!(stores.wait_for_lists().await);
        tiers.wait_until_ready().await.unwrap();
        let metrics = Arc::new(Metrics::new(Leadership::permanent()));
        let (reports, roles, own_writes) =
            (ReportStore::default(), RoleStore::default(), Arc::new(OwnWrites::default()));
        let (probed, _) = mpsc::channel(1);
        let address_uses = AddressUses::default();
        let (first_round, _) = watch::channel(true);
        let poller = Poller {
            pods: stores.pods.iter().map(ObjectStore::last_known).cloned().collect(),
            nodes: stores.nodes.last_known().clone(),
            interval: Duration::from_secs(5),
            reports: reports.clone(),
            waker: waker.clone(),
            roles: roles.clone(),
            address_uses: address_uses.clone(),
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
                creation_failures: Default::default(),
                clock: Arc::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap()),
                // All watches have delivered everything.
                lists_complete: Arc::new(Instant::now().checked_sub(Duration::from_secs(60)).unwrap().into()),
            },
            applier: Applier::new(client.clone(), metrics.clone(), Arc::default(), own_writes),
            claims: Claims::new(client.clone(), settings.namespace.clone(), metrics.clone()),
            address_uses,
            trials: Arc::new(Trials::new(roles, probed)),
            unreadable_reporter: UnreadableReporter::new(client.clone(), settings.namespace.clone()),
            status_writer: StatusWriter::new(client, metrics.clone()).without_delay(),
            schedule: waker.schedule.clone(),
            backoff: Backoff::default(),
            settings,
            leadership: Leadership::permanent(),
            active_term: watch::channel(Some(1)).1,
            liveness: Arc::default(),
            metrics,
        };
        Self { context: Arc::new(context), poller, tiers, _tasks: tasks }
    }

    /// Waits until the watches have delivered everything; that of tiers may be silent.
    async fn catch_up(&self, cluster: &FakeCluster, is_silent: bool) {
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let expected = |collections: &[&str]| -> BTreeSet<String> {
            collections.iter().flat_map(|collection| cluster.list(collection)).map(|object| version(&object)).collect()
        };
        for _ in 0..5_000 {
            let pods = self.poller.pods.iter().flat_map(Store::state).filter_map(|pod| pod.resource_version());
            let pod_collections = ["/api/v1/namespaces/dnstier-node/pods", "/api/v1/namespaces/dnstier-system/pods"];
            let tiers = self.tiers.state();
            let tiers = tiers.iter().filter_map(|tier| tier.0.as_ref().ok()?.resource_version());
            let nodes = self.poller.nodes.state().into_iter().filter_map(|node| node.resource_version());
            if pods.collect::<BTreeSet<_>>() == expected(&pod_collections)
                && (is_silent || tiers.collect::<BTreeSet<_>>() == expected(&[TIERS]))
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

/// Returns settings of roll-outs with this soak, in which a node goes after the other.
pub(crate) fn settings_of(soak: &str) -> Value {
    json!({"soak": soak, "waveSize": 1})
}

/// A cluster with a tier, its pods, and a process of the operator.
pub(crate) struct World {
    pub(crate) cluster: Arc<FakeCluster>,
    pub(crate) pods: FakePods,
    process: Process,
    clock: Arc<AtomicI64>,
    /// Whether writes of the record conflict.
    pub(crate) is_fenced: Arc<AtomicBool>,
    /// Whether the definition of `DnsTier` is older than `status.rollout`.
    pub(crate) is_old: Arc<AtomicBool>,
    /// Whether the API server refuses the ConfigMaps of the revisions.
    pub(crate) is_refusing_revisions: Arc<AtomicBool>,
    /// Pods that cannot be annotated, by the begin of their names.
    refusing: Arc<Mutex<BTreeSet<String>>>,
    /// Whether each pod is polled before a pass.
    pub(crate) is_polling: bool,
    /// Whether the watch of tiers delivers nothing.
    is_silent: bool,
    pub(crate) first: String,
}

impl World {
    /// Starts a tier with this many nodes in each zone and two resolvers for each, whose first revision is in force.
    pub(crate) async fn start(zones: &[usize], rollout: Value) -> Self {
        let (is_fenced, is_old) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let refusing: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let is_refusing_revisions = Arc::new(AtomicBool::new(false));
        let (fenced, old, refused) = (is_fenced.clone(), is_old.clone(), refusing.clone());
        let refuses_revisions = is_refusing_revisions.clone();
        let is_of_revisions = |request: &FakeRequest| request.path().ends_with("/configmaps/dnstier-default-revisions");
        let is_record = |request: &FakeRequest| request.method != "GET" && request.body["metadata"]["name"] == RECORD;
        let cluster = FakeCluster::start(move |request| {
            let is_of = |pod: &String| request.path().contains(&format!("/pods/{pod}"));
            if is_record(request) && fenced.load(Ordering::Relaxed) {
                Some(Reply::refusal(409, "the object has been modified"))
            } else if request.method == "PATCH" && refused.lock().unwrap().iter().any(is_of) {
                Some(Reply::refusal(500, "failed calling webhook \"pods.example\""))
            } else if refuses_revisions.load(Ordering::Relaxed) && is_of_revisions(request) {
                Some(Reply::refusal(422, "denied by policy.example"))
            } else if old.load(Ordering::Relaxed) && !request.body["status"]["rollout"].is_null() {
                let error = "failed to create typed patch object: .status.rollout: field not declared in schema";
                Some(Reply::refusal(500, error))
            } else {
                None
            }
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
                let metadata = json!({
                    "labels": labels, "creationTimestamp": Timestamp::from_second(BEGIN).unwrap().to_string(),
                });
                let conditions = json!([{"type": "Ready", "status": "True"}]);
                cluster.merge(NODES, &name, json!({"metadata": metadata, "status": {"conditions": conditions}}));
                pods.add_node_pod(zone, &name).await;
            }
            for _ in 0..2 {
                pods.add_resolver(zone, &format!("{zone}0")).await;
            }
        }
        let process = Process::start(&cluster, &clock).await;
        let (is_polling, is_silent, first) = (true, false, String::new());
        let mut world = Self {
            cluster,
            pods,
            process,
            clock,
            is_fenced,
            is_old,
            is_refusing_revisions,
            refusing,
            is_polling,
            is_silent,
            first,
        };
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
    pub(crate) async fn pass(&mut self) {
        self.pass_after(|_| ()).await;
    }

    /// Lets a pass happen as [`Self::pass`] does, while a change of the cluster is not known to the operator yet.
    pub(crate) async fn pass_behind(&mut self, change: impl FnOnce(&FakeCluster)) {
        self.pass_after(|cluster| {
            cluster.hold(Held::Everything);
            change(cluster);
        })
        .await;
        self.cluster.hold(Held::Nothing);
    }

    /// Lets a pass happen right after the operator has seen everything and this was done.
    async fn pass_after(&mut self, change: impl FnOnce(&FakeCluster)) {
        let now = Timestamp::from_second(self.clock.fetch_add(1, Ordering::Relaxed) + 1).unwrap();
        self.pods.set_now(now);
        self.process.catch_up(&self.cluster, self.is_silent).await;
        change(&self.cluster);
        if self.is_polling {
            self.process.poller.poll_all(u32::try_from((now.as_second() - BEGIN) * 1_000).unwrap()).await;
        }
        let result = reconcile_tier(self.process.tier(), false, &self.process.context).await;
        if let Err(error) = result {
            assert!(error.is_conflict() || self.is_refusing_revisions.load(Ordering::Relaxed), "{error}");
        }
        while self.process.context.trials.is_probing("default") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn run(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.pass().await;
        }
    }

    pub(crate) async fn run_until(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if is_true(self) {
                return;
            }
            self.pass().await;
        }
        panic!("never: {what}; {:#} {:#}", self.record(), self.status());
    }

    /// Sets whose annotations the API server refuses: pods by the begin of their names.
    pub(crate) fn refuse(&self, pods: &[&str]) {
        *self.refusing.lock().unwrap() = pods.iter().map(|pod| (*pod).to_owned()).collect();
    }

    /// Sets whether the watch of tiers delivers nothing.
    pub(crate) fn silence_tiers(&mut self, is_silent: bool) {
        self.is_silent = is_silent;
        self.cluster.hold(if is_silent { Held::Collection(TIERS) } else { Held::Nothing });
    }

    /// Replaces the process of the operator by another one.
    pub(crate) async fn replace_process(&mut self) {
        self.process = Process::start(&self.cluster, &self.clock).await;
    }

    pub(crate) fn change(&self, spec: Value) {
        self.cluster.merge(TIERS, "default", json!({"spec": spec}));
    }

    /// Sets the status of all workloads of a collection, as their controllers do.
    fn set_status(&self, collection: &str, status: Value) {
        for object in self.cluster.list(collection) {
            let name = object["metadata"]["name"].as_str().unwrap();
            self.cluster.merge(collection, name, json!({"status": status}));
        }
    }

    /// Sets whether Kubernetes reports a node as ready.
    pub(crate) fn set_ready(&self, node: &str, is_ready: bool) {
        let status = if is_ready { "True" } else { "Unknown" };
        let conditions = json!([{"type": "Ready", "status": status}]);
        self.cluster.merge(NODES, node, json!({"status": {"conditions": conditions}}));
    }

    pub(crate) fn annotate(&self, key: &str, value: &str) {
        self.cluster.merge(TIERS, "default", json!({"metadata": {"annotations": {key: value}}}));
    }

    pub(crate) fn status(&self) -> Value {
        self.cluster.list(TIERS)[0]["status"].clone()
    }

    /// Returns a condition of the tier: its status, reason and message.
    pub(crate) fn condition(&self, type_: &str) -> (String, String, String) {
        let status = self.status();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let condition = conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default();
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    pub(crate) fn rolled_out(&self) -> (String, String, String) {
        self.condition("RolledOut")
    }

    pub(crate) fn record(&self) -> Value {
        let record = self.cluster.list(RECORDS).into_iter().find(|record| record["metadata"]["name"] == RECORD);
        let text = record.map(|record| record["data"]["record.json"].as_str().unwrap().to_owned());
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }

    pub(crate) fn step(&self) -> String {
        self.record()["step"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn target(&self) -> String {
        self.record()["target"]["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the configuration with which pods start that are not told any.
    pub(crate) fn stable(&self) -> Value {
        let config_map = &self.cluster.list(CONFIG_MAPS)[0];
        serde_json::from_str(config_map["data"]["stable.json"].as_str().unwrap()).unwrap()
    }

    /// Returns the keys of the pods that were ever asked to run a revision.
    pub(crate) fn seen(&self, revision: &str) -> Vec<String> {
        let seen = self.pods.seen().into_iter().filter(|(_, seen)| seen.contains(revision));
        seen.map(|(key, _)| key).collect()
    }

    /// Changes the configuration of the nodes, and returns the revision once it is known.
    pub(crate) async fn change_nodes(&mut self, seconds: u32) -> String {
        let before = self.target();
        self.change(json!({"nodeCache": {"cache": {"maxTtl": format!("{seconds}s")}}}));
        self.run_until("there is another target", |world| world.target() != before).await;
        self.target()
    }
}

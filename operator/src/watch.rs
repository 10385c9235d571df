//! Watches of tiers, Nodes, pods and owned objects, whose changes trigger reconciliations.

use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dnstier_crds::DnsTier;
use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::Readiness;
use crate::controller::observe::nodes;
use crate::controller::observe::object_store::ObjectStore;
use crate::controller::observe::own_writes::OwnWrites;
use crate::controller::observe::owned_stores::OwnedStores;
use crate::controller::observe::pod_changes::pod_changes;
use crate::controller::observe::pods;
use crate::controller::observe::poll::{AddressUses, Poller, ReportStore, RoleStore, takes_no_longer};
use crate::controller::observe::{self, WatchedTier};
use crate::controller::owned::labels;
use crate::controller::schedule::{Concern, Schedule, Waker};
use crate::controller::{
    Applier, Backoff, Claims, Context, Observer, StatusWriter, Trials, UnreadableReporter, error_policy, reconcile,
};
use crate::error::Error;
use crate::leader::{Leadership, Term};
use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Time after a change in which further changes join the same reconciliation.
const DEBOUNCE_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two checks whether the CustomResourceDefinition is installed.
const CRD_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the first reconciliation of a term waits for the first status poll of all pods, if they are so few that it
/// may end in this time.
const FIRST_ROUND_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks for tiers that were deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of tiers that are reconciled at a time.
const MAX_CONCURRENT_RECONCILES: u16 = 4;

/// Reconciles tiers on every change until `stop` resolves, while this process is the leader. As a standby it keeps its
/// watches, so that it may lead at any time.
pub(crate) async fn reconcile_on_changes(
    client: Client,
    settings: Settings,
    liveness: Arc<Liveness>,
    metrics: Arc<Metrics>,
    readiness: watch::Sender<Readiness>,
    leadership: Leadership,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    tokio::select! {
        () = wait_for_crd(&client, &readiness) => {}
        () = stop.clone() => return,
    }
    readiness.send_replace(Readiness::NotReady("the lists of tiers, Nodes and pods are not complete yet".to_owned()));
    let settings = Arc::new(settings);
    let (changed, changes) = mpsc::channel(1);
    let waker = Waker { schedule: Arc::new(Schedule::new(metrics.queue().clone())), changed };
    let mut tasks = JoinSet::new();
    let stores = Watches { client: &client, waker: &waker, tasks: &mut tasks }.add_all(&settings);
    let own_writes = Arc::new(OwnWrites::default());

    let wake_poller = Arc::new(Notify::new());
    let (probed, probe_rounds) = mpsc::channel(1);
    let (reports, roles) = (ReportStore::default(), RoleStore::default());
    let address_uses = AddressUses::default();
    let trials = Arc::new(Trials::new(roles.clone(), probed));
    let (first_round, _) = watch::channel(false);
    let poller = Poller {
        pods: stores.pods.iter().map(ObjectStore::last_known).cloned().collect(),
        nodes: stores.nodes.last_known().clone(),
        interval: settings.poll_interval,
        reports: reports.clone(),
        roles,
        address_uses: address_uses.clone(),
        waker: waker.clone(),
        wake: wake_poller.clone(),
        first_round,
        metrics: metrics.clone(),
    };
    let controller = Controller::new(Api::<WatchedTier>::all(client.clone()), watcher::Config::default())
        .with_config(controller::Config::default().concurrency(MAX_CONCURRENT_RECONCILES));
    let schedule = waker.schedule.clone();
    tasks.spawn(forget_deleted_tiers(controller.store(), metrics.clone(), schedule.clone()));
    let (active, active_term) = watch::channel(None);
    let lists_complete = Arc::new(OnceLock::new());
    let terms = Terms {
        leadership: leadership.clone(),
        poller,
        stores: stores.clone(),
        lists_complete: lists_complete.clone(),
        waker: waker.clone(),
        trials: trials.clone(),
        active,
        metrics: metrics.clone(),
    };
    tasks.spawn(waker.wake_on(items(probe_rounds).map(|()| Concern::All)));
    let context = Arc::new(Context {
        observer: Observer {
            client: client.clone(),
            settings: settings.clone(),
            tiers: controller.store(),
            nodes: stores.nodes.clone(),
            pods: stores.pods.clone(),
            owned: stores.owned.clone(),
            own_writes: own_writes.clone(),
            reports,
            creation_failures: Default::default(),
            clock: Arc::new(observe::now),
            lists_complete: lists_complete.clone(),
        },
        applier: Applier::new(client.clone(), metrics.clone(), wake_poller, own_writes),
        claims: Claims::new(client.clone(), settings.namespace.clone(), metrics.clone()),
        address_uses,
        trials,
        unreadable_reporter: UnreadableReporter::new(client.clone(), settings.namespace.clone()),
        status_writer: StatusWriter::new(client, metrics.clone()),
        schedule,
        backoff: Backoff::default(),
        settings,
        leadership: leadership.clone(),
        active_term,
        liveness,
        metrics,
    });
    tokio::select! {
        are_watched = stores.wait_for_lists() => if !are_watched { return },
        () = stop.clone() => return,
    }
    if stores.are_listed() {
        lists_complete.get_or_init(Instant::now);
    }
    tasks.spawn(terms.run());
    readiness.send_replace(Readiness::Ready);
    leadership.stand();
    controller
        .reconcile_all_on(debounce(changes))
        .graceful_shutdown_on(stop)
        .run(reconcile, error_policy, context)
        .for_each(|result| async move {
            if let Err(error @ controller::Error::QueueError(_)) = result {
                tracing::warn!(kind = "DnsTier", %error, "a watch failed and is retried");
            }
        })
        .await;
}

/// Terms of this process as the leader.
struct Terms {
    leadership: Leadership,
    poller: Poller,
    stores: Stores,
    /// Time at which the lists were complete, which lets tiers be reconciled.
    lists_complete: Arc<OnceLock<Instant>>,
    waker: Waker,
    trials: Arc<Trials>,
    /// Receives the term in which tiers are reconciled.
    active: watch::Sender<Option<Term>>,
    metrics: Arc<Metrics>,
}

impl Terms {
    /// Polls the pods during each term, and reconciles all tiers at its begin.
    async fn run(self) {
        loop {
            let term = self.leadership.gained().await;
            // What is known from an earlier term is out of date.
            self.metrics.keep_tiers(&[]);
            self.waker.schedule.keep_tiers(&[]);
            self.poller.reports.clear();
            self.poller.address_uses.clear();
            self.trials.clear();
            self.poller.first_round.send_replace(false);
            let mut is_first_round_over = self.poller.first_round.subscribe();
            let begin = async {
                // Until the end of the first round the status of a tier stays as it is. While a list is refused there
                // is no round, and the status tells the refusal.
                let pods = self.poller.pods.iter().map(Store::len).sum();
                if self.stores.are_listed() && takes_no_longer(pods, FIRST_ROUND_TIMEOUT) {
                    let first_round = is_first_round_over.wait_for(|is_over| *is_over);
                    let _ = tokio::time::timeout(FIRST_ROUND_TIMEOUT, first_round).await;
                }
                self.active.send_replace(Some(term));
                self.waker.wake(&Concern::All);
            };
            self.leadership.run_in(term, future::join(self.poll(), begin)).await;
            self.active.send_replace(None);
            self.metrics.clear_figure_ages();
        }
    }

    /// Polls the pods without end, once they are listed.
    async fn poll(&self) {
        if !self.stores.wait_for_complete_lists().await {
            // The term goes on: passes tell that nothing is listed.
            future::pending::<()>().await;
        }
        // The first look of the poller comes first: it finds the pods that are older than this process.
        let record = async {
            self.lists_complete.get_or_init(Instant::now);
        };
        future::join(self.poller.clone().run(), record).await;
    }
}

/// Waits until the API server serves the DnsTiers.
async fn wait_for_crd(client: &Client, readiness: &watch::Sender<Readiness>) {
    let tiers: Api<PartialObjectMeta<DnsTier>> = Api::all(client.clone());
    loop {
        let reason = match tiers.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                "the CustomResourceDefinition dnstiers.dnstier.io is not installed".to_owned()
            }
            Err(source) => Error::request("list", "DnsTiers", source).to_string(),
        };
        tracing::warn!(reason, "DnsTiers cannot be listed yet");
        readiness.send_replace(Readiness::NotReady(reason));
        tokio::time::sleep(CRD_CHECK_INTERVAL).await;
    }
}

/// Removes the metrics and the schedules of tiers that do not exist any more.
async fn forget_deleted_tiers(tiers: Store<WatchedTier>, metrics: Arc<Metrics>, schedule: Arc<Schedule>) {
    if tiers.wait_until_ready().await.is_err() {
        return;
    }
    loop {
        tokio::time::sleep(FORGET_INTERVAL).await;
        let names: Vec<String> = tiers.state().iter().filter_map(|tier| tier.meta().name.clone()).collect();
        metrics.keep_tiers(&names);
        schedule.keep_tiers(&names);
    }
}

/// Starts watches, each in a task of its own.
pub(crate) struct Watches<'a> {
    /// Client of the API server.
    pub(crate) client: &'a Client,
    /// Wakes tiers on changes.
    pub(crate) waker: &'a Waker,
    /// Tasks of the watches.
    pub(crate) tasks: &'a mut JoinSet<()>,
}

/// Stores of the watches.
#[derive(Clone)]
pub(crate) struct Stores {
    /// All Nodes.
    pub(crate) nodes: ObjectStore<Node>,
    /// Pods of all tiers, one store for each namespace.
    pub(crate) pods: Vec<ObjectStore<Pod>>,
    /// Objects that tiers own.
    pub(crate) owned: OwnedStores,
}

impl Stores {
    /// Waits until every list is complete, because no decision is based on partial state. A list that is refused is not
    /// waited for, nor one of owned objects that fails: the status of a tier tells that. Returns `false` when a watch
    /// has ended.
    pub(crate) async fn wait_for_lists(&self) -> bool {
        self.owned.wait_for_lists().await;
        let mut are_watched = self.nodes.wait_for_list_or_refusal().await;
        for store in &self.pods {
            are_watched &= store.wait_for_list_or_refusal().await;
        }
        are_watched
    }

    /// Waits until the lists of Nodes and pods are complete. Returns `false` when a watch has ended.
    async fn wait_for_complete_lists(&self) -> bool {
        let mut are_watched = self.nodes.wait_for_complete_list().await;
        for store in &self.pods {
            are_watched &= store.wait_for_complete_list().await;
        }
        are_watched
    }

    /// Returns whether the lists of Nodes and pods are complete.
    fn are_listed(&self) -> bool {
        self.nodes.is_listed() && self.pods.iter().all(ObjectStore::is_listed)
    }
}

impl Watches<'_> {
    /// Starts all watches but that of the tiers.
    pub(crate) fn add_all(&mut self, settings: &Settings) -> Stores {
        Stores {
            nodes: self.add_nodes(),
            pods: settings.pod_namespaces().into_iter().map(|namespace| self.add_pods(namespace)).collect(),
            owned: self.add_owned_objects(settings),
        }
    }

    /// Watches all Nodes.
    fn add_nodes(&mut self) -> ObjectStore<Node> {
        let (store, writer) = reflector::store();
        let api: Api<Node> = Api::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff().modify(nodes::trim_node);
        let (store, events) = ObjectStore::new("", store, log_errors::<Node, _>(events.reflect(writer)));
        let changes = nodes::placement_changes(events);
        self.tasks.spawn(self.waker.clone().wake_on(changes.map(|()| Concern::All)));
        store
    }

    /// Watches the pods of all tiers in one namespace.
    fn add_pods(&mut self, namespace: &str) -> ObjectStore<Pod> {
        let (store, writer) = reflector::store();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default().labels(&labels::query_pods());
        let events = watcher(api, config).default_backoff().modify(pods::trim_pod).reflect(writer);
        let (store, events) = ObjectStore::new(namespace, store, log_errors::<Pod, _>(events));
        self.tasks.spawn(self.waker.clone().wake_on(pod_changes(events)));
        store
    }

    /// Watches the objects that tiers own, and all Services in the namespaces of shadow Services, since a cluster DNS
    /// Service is one of them.
    fn add_owned_objects(&mut self, settings: &Settings) -> OwnedStores {
        let managed = watcher::Config::default().labels(&labels::query_managed());
        let mut stores = OwnedStores::default();
        for namespace in settings.pod_namespaces() {
            stores.service_accounts.push(self.add(namespace, &managed));
            stores.config_maps.push(self.add(namespace, &managed));
        }
        stores.daemon_sets.push(self.add(&settings.node_namespace, &managed));
        stores.deployments.push(self.add(&settings.namespace, &managed));
        stores.disruption_budgets.push(self.add(&settings.namespace, &managed));
        stores.network_policies.push(self.add(&settings.namespace, &managed));
        let shadow_service_namespaces = settings.shadow_service_namespaces();
        for namespace in settings.service_namespaces() {
            if shadow_service_namespaces.contains(&namespace) {
                let store = self.add(namespace, &watcher::Config::default());
                stores.cluster_dns_services.push(store.clone());
                stores.services.push(store);
            } else {
                stores.services.push(self.add(namespace, &managed));
            }
        }
        stores
    }

    /// Watches one kind in a namespace. Each watch has its own backoff: a watch that is refused delays no other.
    fn add<K>(&mut self, namespace: &str, config: &watcher::Config) -> ObjectStore<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = reflector::store();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let trim = |object: &mut K| object.meta_mut().managed_fields = None;
        let events = watcher(api, config.clone()).default_backoff().modify(trim).reflect(writer);
        let (store, events) = ObjectStore::new(namespace, store, log_errors::<K, _>(events));
        let changes = events.filter_map(|event| async move { concern_of(&event.ok()?) });
        self.tasks.spawn(self.waker.clone().wake_on(changes));
        store
    }
}

/// Logs the errors of a watch, which retries by itself.
fn log_errors<K: Resource<DynamicType = ()>, T>(
    events: impl Stream<Item = Result<T, watcher::Error>>,
) -> impl Stream<Item = Result<T, watcher::Error>> {
    events.inspect(|event| {
        if let Err(error) = event {
            tracing::warn!(kind = %K::kind(&()), %error, "a watch failed and is retried");
        }
    })
}

/// Returns the tiers that an event of an owned object concerns: the one that its label names. A Service without it may
/// be a cluster DNS Service, and a new list may lack what was deleted in between.
fn concern_of<K: Resource>(event: &watcher::Event<K>) -> Option<Concern> {
    match event {
        watcher::Event::Apply(object) | watcher::Event::Delete(object) => {
            let tier = labels::tier_of(object.labels());
            Some(tier.map_or(Concern::All, |tier| Concern::Tier(tier.to_owned())))
        }
        watcher::Event::InitDone => Some(Concern::All),
        watcher::Event::Init | watcher::Event::InitApply(_) => None,
    }
}

/// Returns the items of a channel.
fn items<T>(channel: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(channel, |mut channel| async { channel.recv().await.map(|item| (item, channel)) })
}

/// Debounces changes: waits after a change for others, by a constant time, so that continuous changes delay no
/// reconciliation.
fn debounce(changes: mpsc::Receiver<()>) -> impl Stream<Item = ()> {
    stream::unfold(changes, |mut changes| async move {
        changes.recv().await?;
        tokio::time::sleep(DEBOUNCE_INTERVAL).await;
        while changes.try_recv().is_ok() {}
        Some(((), changes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::schedule::TierVersion;
    use kube::core::Status;
    use serde_json::json;

    type Events<K> = mpsc::UnboundedSender<Result<watcher::Event<K>, watcher::Error>>;

    /// Returns a store and the sender of the events of its watch.
    fn store<K>() -> (ObjectStore<K>, Events<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    {
        let (sender, mut channel) = mpsc::unbounded_channel();
        let (store, writer) = reflector::store();
        let events = stream::poll_fn(move |context| channel.poll_recv(context)).reflect(writer);
        let (store, events) = ObjectStore::new("", store, events);
        tokio::spawn(events.for_each(|_| future::ready(())));
        (store, sender)
    }

    /// Sends the events of a complete list.
    fn list<K>(events: &Events<K>, objects: Vec<K>) {
        let objects = objects.into_iter().map(watcher::Event::InitApply);
        for event in [watcher::Event::Init].into_iter().chain(objects).chain([watcher::Event::InitDone]) {
            events.send(Ok(event)).ok().unwrap();
        }
    }

    fn refusal() -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Status { code: 403, ..Status::default() }.boxed()))
    }

    fn pod(uid: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": uid, "namespace": "dnstier-node", "uid": uid,
                "labels": {labels::INSTANCE: "default", labels::COMPONENT: labels::COMPONENT_NODE_CACHE},
            },
            "status": {"podIP": "127.0.0.1"},
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_fail_are_waited_for_and_one_that_is_refused_is_not() {
        let ((nodes, node_events), (pods, pod_events)) = (store::<Node>(), store::<Pod>());
        let stores = Stores { nodes, pods: vec![pods], owned: OwnedStores::default() };
        let wait = || tokio::time::timeout(Duration::from_secs(60), stores.wait_for_lists());
        list(&node_events, Vec::new());
        assert!(wait().await.is_err());
        let failure = Status { code: 500, ..Status::default() };
        pod_events.send(Err(watcher::Error::InitialListFailed(kube::Error::Api(failure.boxed())))).ok().unwrap();
        assert!(wait().await.is_err(), "the API server may be starting");
        pod_events.send(Err(refusal())).ok().unwrap();
        assert_eq!((wait().await, stores.are_listed()), (Ok(true), false));
        list(&pod_events, Vec::new());
        assert!(stores.wait_for_complete_lists().await && stores.are_listed());
    }

    #[tokio::test]
    async fn a_term_begins_without_a_list_that_is_refused_and_its_pods_count_as_older_once_they_are_listed() {
        let ((nodes, node_events), (pods, pod_events)) = (store::<Node>(), store::<Pod>());
        let stores = Stores { nodes, pods: vec![pods], owned: OwnedStores::default() };
        list(&node_events, Vec::new());
        pod_events.send(Err(refusal())).ok().unwrap();
        assert!(stores.wait_for_lists().await);
        let ((changed, _changes), (probed, _)) = (mpsc::channel(1), mpsc::channel(1));
        let waker = Waker { schedule: Arc::default(), changed };
        let (reports, roles, metrics) = (ReportStore::default(), RoleStore::default(), Arc::<Metrics>::default());
        let poller = Poller {
            pods: stores.pods.iter().map(ObjectStore::last_known).cloned().collect(),
            nodes: stores.nodes.last_known().clone(),
            interval: Duration::from_secs(1),
            reports: reports.clone(),
            roles: roles.clone(),
            address_uses: AddressUses::default(),
            waker: waker.clone(),
            wake: Arc::default(),
            first_round: watch::channel(false).0,
            metrics: metrics.clone(),
        };
        let (active, mut active_term) = watch::channel(None);
        let lists_complete = Arc::new(OnceLock::new());
        let trials = Arc::new(Trials::new(roles, probed));
        let (leadership, complete) = (Leadership::permanent(), lists_complete.clone());
        tokio::spawn(Terms { leadership, poller, stores, lists_complete, waker, trials, active, metrics }.run());
        active_term.wait_for(Option::is_some).await.unwrap();
        assert_eq!(complete.get(), None, "no pass reads anything");
        list(&pod_events, vec![pod("uid-1")]);
        while complete.get().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(reports.of(["uid-1"].into_iter())["uid-1"].is_unknown());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tier_that_is_deleted_is_forgotten_within_seconds() {
        let (tiers, mut writer) = reflector::store();
        let tier = |name: &str| {
            let tier = json!({"metadata": {"name": name}, "spec": {"clusterDns": {"name": "kube-dns"}}});
            serde_json::from_value::<WatchedTier>(tier).unwrap()
        };
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitApply(tier("stays")));
        writer.apply_watcher_event(&watcher::Event::InitApply(tier("goes")));
        writer.apply_watcher_event(&watcher::Event::InitDone);
        let metrics = Arc::new(Metrics::new(Leadership::permanent()));
        let schedule = Arc::new(Schedule::new(metrics.queue().clone()));
        for name in ["stays", "goes"] {
            schedule.start(name, TierVersion::default(), Instant::now());
        }
        tokio::spawn(forget_deleted_tiers(tiers, metrics.clone(), schedule));
        tokio::time::sleep(Duration::from_secs(10)).await;
        let has = |name: &str| metrics.encode().contains(&format!("tier=\"{name}\""));
        assert!(has("stays") && has("goes"));
        writer.apply_watcher_event(&watcher::Event::Delete(tier("goes")));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(has("stays") && !has("goes"), "{}", metrics.encode());
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_make_one_reconciliation_and_none_is_lost() {
        let (changed, changes) = mpsc::channel(1);
        let mut debounced = Box::pin(debounce(changes));
        for _ in 0..10 {
            let _ = changed.try_send(());
        }
        assert_eq!(debounced.next().await, Some(()));
        assert!(tokio::time::timeout(Duration::from_secs(5), debounced.next()).await.is_err());
        let _ = changed.try_send(());
        assert_eq!(debounced.next().await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_never_rests_delays_no_reconciliation() {
        let (changed, changes) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let _ = changed.try_send(());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut debounced = Box::pin(debounce(changes));
        let start = tokio::time::Instant::now();
        for _ in 0..5 {
            debounced.next().await;
        }
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

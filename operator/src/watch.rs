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
use crate::controller::schedule::{Concern, Schedule};
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
    let Stores { nodes, pods, owned } =
        Watches { client: &client, waker: &waker, tasks: &mut tasks }.add_all(&settings);
    let own_writes = Arc::new(OwnWrites::default());

    let wake_poller = Arc::new(Notify::new());
    let (polled, mut polls) = mpsc::channel(1);
    let (reports, roles) = (ReportStore::default(), RoleStore::default());
    let address_uses = AddressUses::default();
    let trials = Arc::new(Trials::new(roles.clone(), polled.clone()));
    let (first_round, _) = watch::channel(false);
    let poller = Poller {
        pods: pods.clone(),
        nodes: nodes.clone(),
        interval: settings.poll_interval,
        reports: reports.clone(),
        roles,
        address_uses: address_uses.clone(),
        changed: polled,
        wake: wake_poller.clone(),
        first_round,
        metrics: metrics.clone(),
    };
    let controller = Controller::new(Api::<WatchedTier>::all(client.clone()), watcher::Config::default())
        .with_config(controller::Config::default().concurrency(MAX_CONCURRENT_RECONCILES));
    let schedule = waker.schedule.clone();
    tasks.spawn(forget_deleted_tiers(controller.store(), metrics.clone(), schedule.clone(), settings.poll_interval));
    let (active, active_term) = watch::channel(None);
    let terms = Terms {
        leadership: leadership.clone(),
        poller,
        schedule: schedule.clone(),
        waker: waker.clone(),
        trials: trials.clone(),
        active,
        metrics: metrics.clone(),
    };
    tasks.spawn(async move {
        while polls.recv().await.is_some() {
            waker.wake(&Concern::All);
        }
    });
    let lists_complete = Arc::new(OnceLock::new());
    let context = Arc::new(Context {
        observer: Observer {
            client: client.clone(),
            settings: settings.clone(),
            tiers: controller.store(),
            nodes: nodes.clone(),
            pods: pods.clone(),
            owned: owned.clone(),
            own_writes: own_writes.clone(),
            reports,
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
        complete = lists_are_complete(&nodes, &pods, &owned) => if !complete { return },
        () = stop.clone() => return,
    }
    lists_complete.get_or_init(Instant::now);
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
    schedule: Arc<Schedule>,
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
            self.schedule.keep_tiers(&[]);
            self.poller.reports.clear();
            self.poller.address_uses.clear();
            self.trials.clear();
            self.poller.first_round.send_replace(false);
            let mut is_first_round_over = self.poller.first_round.subscribe();
            let begin = async {
                // Until the end of the first round the status of a tier stays as it is.
                let pods = self.poller.pods.iter().map(Store::len).sum();
                if takes_no_longer(pods, FIRST_ROUND_TIMEOUT) {
                    let first_round = is_first_round_over.wait_for(|is_over| *is_over);
                    let _ = tokio::time::timeout(FIRST_ROUND_TIMEOUT, first_round).await;
                }
                self.active.send_replace(Some(term));
                self.waker.wake(&Concern::All);
            };
            self.leadership.run(future::join(self.poller.clone().run(), begin)).await;
            self.active.send_replace(None);
            self.metrics.clear_figure_ages();
        }
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
async fn forget_deleted_tiers(
    tiers: Store<WatchedTier>,
    metrics: Arc<Metrics>,
    schedule: Arc<Schedule>,
    interval: Duration,
) {
    if tiers.wait_until_ready().await.is_err() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        let names: Vec<String> = tiers.state().iter().filter_map(|tier| tier.meta().name.clone()).collect();
        metrics.keep_tiers(&names);
        schedule.keep_tiers(&names);
    }
}

/// Waits until every list is complete, because no decision is based on partial state. Lists of owned objects may fail
/// instead, which the status of a tier tells. Returns `false` when a watch has ended.
async fn lists_are_complete(nodes: &Store<Node>, pods: &[Store<Pod>], owned: &OwnedStores) -> bool {
    owned.wait_for_lists().await;
    let mut complete = nodes.wait_until_ready().await.is_ok();
    for store in pods {
        complete &= store.wait_until_ready().await.is_ok();
    }
    complete
}

/// Wakes tiers.
#[derive(Clone)]
pub(crate) struct Waker {
    /// Start of the next reconciliation of each tier.
    pub(crate) schedule: Arc<Schedule>,
    /// Receives an item for each change.
    pub(crate) changed: mpsc::Sender<()>,
}

impl Waker {
    /// Wakes the tiers that a change concerns.
    fn wake(&self, concern: &Concern) {
        self.schedule.wake(concern);
        // A full channel holds a notification already.
        let _ = self.changed.try_send(());
    }

    /// Wakes tiers for each change.
    async fn wake_on(self, changes: impl Stream<Item = Concern>) {
        changes.for_each(async |concern| self.wake(&concern)).await;
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
pub(crate) struct Stores {
    /// All Nodes.
    pub(crate) nodes: Store<Node>,
    /// Pods of all tiers, one store for each namespace.
    pub(crate) pods: Vec<Store<Pod>>,
    /// Objects that tiers own.
    pub(crate) owned: OwnedStores,
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
    fn add_nodes(&mut self) -> Store<Node> {
        let (store, writer) = reflector::store();
        let api: Api<Node> = Api::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff().modify(nodes::trim_node);
        let changes = nodes::placement_changes(log_errors::<Node, _>(events.reflect(writer)));
        self.tasks.spawn(self.waker.clone().wake_on(changes.map(|()| Concern::All)));
        store
    }

    /// Watches the pods of all tiers in one namespace.
    fn add_pods(&mut self, namespace: &str) -> Store<Pod> {
        let (store, writer) = reflector::store();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default().labels(&labels::query_pods());
        let events = watcher(api, config).default_backoff().modify(pods::trim_pod).reflect(writer);
        self.tasks.spawn(self.waker.clone().wake_on(pod_changes(log_errors::<Pod, _>(events))));
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

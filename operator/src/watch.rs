//! Watches of tiers, Nodes, pods and owned objects, whose changes trigger reconciliations.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dnstier_crds::{DnsTier, FIELD_MANAGER};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::Readiness;
use crate::controller::observe::WatchedTier;
use crate::controller::observe::nodes;
use crate::controller::observe::pods;
use crate::controller::observe::poll::{Poller, ReportStore};
use crate::controller::owned::labels;
use crate::controller::{Applier, Backoff, Context, Observer, StatusWriter, error_policy, reconcile};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Time after a change in which further changes join the same reconciliation.
const DEBOUNCE_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two checks whether the CustomResourceDefinition is installed.
const CRD_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the first reconciliation waits for the first status poll of all pods.
const FIRST_ROUND_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of tiers that are reconciled at a time.
const MAX_CONCURRENT_RECONCILES: u16 = 4;

/// Reconciles tiers on every change until `stop` resolves. Reconciliations that have begun are finished.
pub(crate) async fn reconcile_on_changes(
    client: Client,
    settings: Settings,
    metrics: Arc<Metrics>,
    readiness: watch::Sender<Readiness>,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    tokio::select! {
        () = wait_for_crd(&client, &readiness) => {}
        () = stop.clone() => return,
    }
    readiness.send_replace(Readiness::NotReady("the lists of tiers, Nodes and pods are not complete yet".to_owned()));
    let settings = Arc::new(settings);
    let (changed, changes) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let mut watches = Watches { client: &client, changed: &changed, tasks: &mut tasks };
    let nodes = watches.add_nodes();
    let pods: Vec<Store<Pod>> =
        settings.pod_namespaces().into_iter().map(|namespace| watches.add_pods(namespace)).collect();
    watches.add_owned_objects(&settings);

    let wake_poller = Arc::new(Notify::new());
    let reports = ReportStore::default();
    let (first_round, mut is_first_round_over) = watch::channel(false);
    let poller = Poller {
        pods: pods.clone(),
        nodes: nodes.clone(),
        interval: settings.poll_interval,
        reports: reports.clone(),
        changed,
        wake: wake_poller.clone(),
        first_round,
        metrics: metrics.clone(),
    };
    let controller = Controller::new(Api::<WatchedTier>::all(client.clone()), watcher::Config::default())
        .with_config(controller::Config::default().concurrency(MAX_CONCURRENT_RECONCILES));
    tasks.spawn(forget_deleted_tiers(controller.store(), metrics.clone(), settings.poll_interval));
    let context = Arc::new(Context {
        observer: Observer {
            client: client.clone(),
            settings: settings.clone(),
            tiers: controller.store(),
            nodes: nodes.clone(),
            pods: pods.clone(),
            reports,
        },
        applier: Applier { client: client.clone(), settings: settings.clone(), metrics: metrics.clone(), wake_poller },
        status_writer: StatusWriter {
            recorder: Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER)),
            client,
            metrics: metrics.clone(),
        },
        backoff: Backoff::default(),
        settings,
        metrics,
    });
    tokio::select! {
        complete = lists_are_complete(&nodes, &pods) => if !complete { return },
        () = stop.clone() => return,
    }
    tasks.spawn(poller.run());
    // With many pods the first round takes longer; a tier's status stays as it is until its end.
    let _ = tokio::time::timeout(FIRST_ROUND_TIMEOUT, is_first_round_over.wait_for(|is_over| *is_over)).await;
    readiness.send_replace(Readiness::Ready);
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

/// Removes the metrics of tiers that do not exist any more.
async fn forget_deleted_tiers(tiers: Store<WatchedTier>, metrics: Arc<Metrics>, interval: Duration) {
    if tiers.wait_until_ready().await.is_err() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        let names: Vec<String> = tiers.state().iter().filter_map(|tier| tier.meta().name.clone()).collect();
        metrics.keep_tiers(&names);
    }
}

/// Waits until every list is complete, because no decision is based on partial state. Returns `false` when a watch has
/// ended.
async fn lists_are_complete(nodes: &Store<Node>, pods: &[Store<Pod>]) -> bool {
    let mut complete = nodes.wait_until_ready().await.is_ok();
    for store in pods {
        complete &= store.wait_until_ready().await.is_ok();
    }
    complete
}

/// Starts watches, each in a task of its own.
struct Watches<'a> {
    client: &'a Client,
    /// Receives an item for each change.
    changed: &'a mpsc::Sender<()>,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    /// Watches all Nodes.
    fn add_nodes(&mut self) -> Store<Node> {
        let (store, writer) = reflector::store();
        let api: Api<Node> = Api::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff().modify(nodes::trim_node);
        let changes = nodes::placement_changes(log_errors::<Node, _>(events.reflect(writer)));
        self.tasks.spawn(notify(changes, self.changed.clone()));
        store
    }

    /// Watches the pods of all tiers in one namespace.
    fn add_pods(&mut self, namespace: &str) -> Store<Pod> {
        let (store, writer) = reflector::store();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default().labels(&labels::query_pods());
        let events = watcher(api, config).default_backoff().modify(pods::trim_pod).reflect(writer).touched_objects();
        let changes = log_errors::<Pod, _>(events).filter_map(|event| async move { event.ok().map(|_| ()) });
        self.tasks.spawn(notify(changes, self.changed.clone()));
        store
    }

    /// Watches the objects that tiers own, and all Services in the namespaces of shadow Services, since a cluster DNS
    /// Service is one of them.
    fn add_owned_objects(&mut self, settings: &Settings) {
        let managed = watcher::Config::default().labels(&labels::query_managed());
        for namespace in settings.pod_namespaces() {
            self.add::<ServiceAccount>(namespace, &managed);
            self.add::<ConfigMap>(namespace, &managed);
        }
        self.add::<DaemonSet>(&settings.node_namespace, &managed);
        self.add::<Deployment>(&settings.namespace, &managed);
        for namespace in settings.pod_namespaces() {
            self.add::<Service>(namespace, &managed);
        }
        self.add::<PodDisruptionBudget>(&settings.namespace, &managed);
        self.add::<NetworkPolicy>(&settings.namespace, &managed);
        for namespace in settings.shadow_service_namespaces() {
            self.add::<Service>(namespace, &watcher::Config::default());
        }
    }

    /// Watches the metadata of one kind. Each watch has its own backoff: a watch that is refused delays no other.
    fn add<K>(&mut self, namespace: &str, config: &watcher::Config)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(self.client.clone(), namespace);
        let events = watcher(api, config.clone()).default_backoff().touched_objects();
        let changes = log_errors::<K, _>(events).filter_map(|event| async move { event.ok().map(|_| ()) });
        self.tasks.spawn(notify(changes, self.changed.clone()));
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

/// Sends an item to `changed` for each change.
async fn notify(changes: impl Stream<Item = ()>, changed: mpsc::Sender<()>) {
    changes
        .for_each(async |()| {
            // A full channel holds a notification already.
            let _ = changed.try_send(());
        })
        .await;
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

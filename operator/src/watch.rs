//! Watches and the loop over them.

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
use crate::controller::backoff::Backoff;
use crate::controller::observe::pods;
use crate::controller::observe::poll::{Poller, Reports};
use crate::controller::owned::labels;
use crate::controller::validate::zones::{self, NodeMeta};
use crate::controller::{Context, WatchedTier, error_policy, reconcile};
use crate::error;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Changes that come together make one pass.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often it is looked whether the CustomResourceDefinition is there.
const CRD_PERIOD: Duration = Duration::from_secs(2);
/// How long the first pass waits for the first round of asking all pods how they are.
const FIRST_ROUND: Duration = Duration::from_secs(5);
/// Tiers that are worked on at a time.
const CONCURRENCY: u16 = 4;

/// Works until `stop`. Passes that have begun are finished.
pub async fn run(
    client: Client,
    settings: Settings,
    metrics: Arc<Metrics>,
    readiness: watch::Sender<Readiness>,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    tokio::select! {
        () = crd_is_served(&client, &readiness) => {}
        () = stop.clone() => return,
    }
    readiness.send_replace(Readiness::Waiting("the lists of tiers, Nodes and pods are not complete yet".to_owned()));
    let (changed, changes) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let nodes = watch_nodes(&client, &changed, &mut tasks);
    let namespaces = distinct([&settings.namespace, &settings.node_namespace]);
    let pods: Vec<Store<Pod>> =
        namespaces.iter().map(|namespace| watch_pods(&client, namespace, &changed, &mut tasks)).collect();
    watch_children(&client, &settings, &changed, &mut tasks);

    let wake_poller = Arc::new(Notify::new());
    let (reports, seen_reports) = watch::channel(Arc::new(Reports::new()));
    let mut first_round = seen_reports.clone();
    let poller = Poller {
        pods: pods.clone(),
        interval: settings.poll_interval,
        reports,
        changed,
        wake: wake_poller.clone(),
        metrics: metrics.clone(),
    };
    let controller = Controller::new(Api::<WatchedTier>::all(client.clone()), watcher::Config::default())
        .with_config(controller::Config::default().concurrency(CONCURRENCY));
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER)),
        tiers: controller.store(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        reports: seen_reports,
        wake_poller,
        metrics,
        backoff: Backoff::default(),
        settings,
        client,
    });
    tokio::select! {
        complete = are_complete(&nodes, &pods) => if !complete { return },
        () = stop.clone() => return,
    }
    tasks.spawn(poller.run());
    // Before the first round every pod would look as if it were behind.
    let _ = tokio::time::timeout(FIRST_ROUND, first_round.changed()).await;
    readiness.send_replace(Readiness::Ready);
    controller
        .reconcile_all_on(together(changes))
        .graceful_shutdown_on(stop)
        .run(reconcile, error_policy, context)
        .for_each(|result| async move {
            if let Err(error @ controller::Error::QueueError(_)) = result {
                tracing::warn!(%error, "the watch of DnsTiers failed and is tried again");
            }
        })
        .await;
}

/// Waits until the API server knows what a DnsTier is.
async fn crd_is_served(client: &Client, readiness: &watch::Sender<Readiness>) {
    let tiers: Api<PartialObjectMeta<DnsTier>> = Api::all(client.clone());
    loop {
        let reason = match tiers.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                "the CustomResourceDefinition dnstiers.dnstier.io is not installed".to_owned()
            }
            Err(source) => error::Error::refused("list", "DnsTiers", source).to_string(),
        };
        tracing::warn!(reason, "waiting");
        readiness.send_replace(Readiness::Waiting(reason));
        tokio::time::sleep(CRD_PERIOD).await;
    }
}

/// Waits until every list is complete: nothing is decided on half of the truth. False when a watch has ended.
async fn are_complete(nodes: &Store<NodeMeta>, pods: &[Store<Pod>]) -> bool {
    let mut complete = nodes.wait_until_ready().await.is_ok();
    for store in pods {
        complete &= store.wait_until_ready().await.is_ok();
    }
    complete
}

fn watch_nodes(client: &Client, changed: &mpsc::Sender<()>, tasks: &mut JoinSet<()>) -> Store<NodeMeta> {
    let (store, writer) = reflector::store();
    let api: Api<NodeMeta> = Api::all(client.clone());
    let events = watcher(api, watcher::Config::default()).default_backoff().modify(zones::trim).reflect(writer);
    tasks.spawn(announce(zones::label_changes(logged::<Node, _>(events)), changed.clone()));
    store
}

fn watch_pods(client: &Client, namespace: &str, changed: &mpsc::Sender<()>, tasks: &mut JoinSet<()>) -> Store<Pod> {
    let (store, writer) = reflector::store();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().labels(&labels::pods());
    let events = watcher(api, config).default_backoff().modify(pods::trim).reflect(writer).touched_objects();
    let changes = logged::<Pod, _>(events).filter_map(|event| async move { event.ok().map(|_| ()) });
    tasks.spawn(announce(changes, changed.clone()));
    store
}

/// Watches what tiers own, and the Services next to the cluster DNS, of which one is the cluster DNS.
fn watch_children(client: &Client, settings: &Settings, changed: &mpsc::Sender<()>, tasks: &mut JoinSet<()>) {
    let managed = watcher::Config::default().labels(&labels::managed());
    let own = &settings.namespace;
    let both = distinct([own, &settings.node_namespace]);
    let mut watches = Watches { client, changed, tasks };
    for namespace in &both {
        watches.add::<ServiceAccount>(namespace, &managed);
        watches.add::<ConfigMap>(namespace, &managed);
    }
    watches.add::<DaemonSet>(&settings.node_namespace, &managed);
    watches.add::<Deployment>(own, &managed);
    watches.add::<Service>(own, &managed);
    watches.add::<PodDisruptionBudget>(own, &managed);
    watches.add::<NetworkPolicy>(own, &managed);
    for namespace in distinct(&settings.cluster_dns_namespaces) {
        watches.add::<Service>(namespace, &watcher::Config::default());
    }
}

struct Watches<'a> {
    client: &'a Client,
    changed: &'a mpsc::Sender<()>,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    /// Watches the metadata of one kind. Each watch backs off by itself: one that is refused does not slow the others.
    fn add<K>(&mut self, namespace: &str, config: &watcher::Config)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(self.client.clone(), namespace);
        let events = watcher(api, config.clone()).default_backoff().touched_objects();
        let changes = logged::<K, _>(events).filter_map(|event| async move { event.ok().map(|_| ()) });
        self.tasks.spawn(announce(changes, self.changed.clone()));
    }
}

/// Logs what a watch cannot do; it tries again by itself.
fn logged<K: Resource<DynamicType = ()>, T>(
    events: impl Stream<Item = Result<T, watcher::Error>>,
) -> impl Stream<Item = Result<T, watcher::Error>> {
    events.inspect(|event| {
        if let Err(error) = event {
            tracing::warn!(kind = %K::kind(&()), %error, "a watch failed and is tried again");
        }
    })
}

async fn announce(changes: impl Stream<Item = ()>, changed: mpsc::Sender<()>) {
    changes
        .for_each(async |()| {
            // A full channel holds an announcement that nobody has heeded yet.
            let _ = changed.try_send(());
        })
        .await;
}

/// Waits a moment after each change for others, and no longer however many come: a busy cluster delays no pass.
fn together(changes: mpsc::Receiver<()>) -> impl Stream<Item = ()> {
    stream::unfold(changes, |mut changes| async move {
        changes.recv().await?;
        tokio::time::sleep(TOGETHER).await;
        while changes.try_recv().is_ok() {}
        Some(((), changes))
    })
}

fn distinct<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    let mut distinct: Vec<&str> = names.into_iter().map(String::as_str).collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_make_one_pass_and_none_is_lost() {
        let (changed, changes) = mpsc::channel(1);
        let mut passes = Box::pin(together(changes));
        for _ in 0..10 {
            let _ = changed.try_send(());
        }
        assert_eq!(passes.next().await, Some(()));
        assert!(tokio::time::timeout(Duration::from_secs(5), passes.next()).await.is_err());
        let _ = changed.try_send(());
        assert_eq!(passes.next().await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_never_rests_delays_no_pass() {
        let (changed, changes) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let _ = changed.try_send(());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut passes = Box::pin(together(changes));
        let start = tokio::time::Instant::now();
        for _ in 0..5 {
            passes.next().await;
        }
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

//! Status of a node: what the agent reports on its control socket and, over HTTP, on the addresses of the pod.
//!
//! All of it reads the state that the reconciler published last and asks the caches by itself. The reconciler waits for
//! none of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use node_cache_config::distinct_names::this_minute;
use node_cache_config::figures::{CAPABILITIES, Figures};
use node_cache_config::metrics_page::END;
use node_cache_config::probes::ProbeName;
use node_cache_config::status::NodeStatus;
use tokio::sync::{Mutex, watch};

use super::instances::{ANSWER_TTL, Instances};
use super::metrics::Metrics;
use super::readiness::AgentState;
use crate::admin::probe_budget::ProbeClient;
use crate::admin::shared_probes::{ProbeOutcome, ProbeRefusal, SharedProbes};
use crate::admin::{Command, CommandHandler, OK};
use crate::identity::{Identity, process_start};
use crate::revision::ActiveRevision;

/// Pages that are in memory at one time, at most. Each is read for ten seconds at the most.
const MAX_PAGES: usize = 8;

/// Reporter of a node's status.
#[derive(Debug)]
pub(crate) struct NodeStatusReporter {
    pub(crate) identity: Identity,
    pub(crate) state: watch::Receiver<AgentState>,
    pub(crate) active: watch::Receiver<Arc<ActiveRevision>>,
    pub(crate) instances: Arc<Instances>,
    pub(crate) metrics: Arc<Metrics>,
    /// Probes by name and by the hash of the revisions that the caches have in force.
    probes: SharedProbes<(ProbeName, u64)>,
    /// Last page and its time, after older ones that some client is still reading.
    pages: Mutex<Vec<(Instant, Bytes)>>,
}

impl NodeStatusReporter {
    /// Returns the reporter of these caches, of the state that the reconciler publishes, and of the active revision.
    #[must_use]
    pub(crate) fn new(
        identity: Identity,
        state: watch::Receiver<AgentState>,
        active: watch::Receiver<Arc<ActiveRevision>>,
        instances: Arc<Instances>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let probes = SharedProbes::new(instances.count());
        Self { identity, state, active, instances, metrics, probes, pages: Mutex::default() }
    }

    /// Returns the status as JSON. All who ask within a moment share one text, whatever it costs to write it, and so do
    /// all who ask while clients read as many older texts as there is memory for.
    pub(crate) async fn status_page(&self) -> Bytes {
        let mut pages = self.pages.lock().await;
        let last = pages.pop();
        pages.retain(|(_, page)| !page.is_unique());
        if let Some((at, page)) = last {
            let is_shared = at.elapsed() < ANSWER_TTL || pages.len() + 1 >= MAX_PAGES;
            pages.push((at, page.clone()));
            if is_shared {
                return page;
            }
        }
        let page = serde_json::to_vec(&self.node_status().await).unwrap_or_default();
        let page = Bytes::from(page.into_boxed_slice());
        pages.push((Instant::now(), page.clone()));
        page
    }

    /// Returns the status of the node and of its caches, which are asked now.
    async fn node_status(&self) -> NodeStatus {
        let mut instances = self.instances.status().await;
        let mut figures = Figures::default();
        for instance in &mut instances {
            let Some(mut of_instance) = instance.figures.take() else { continue };
            of_instance.forget_future(this_minute());
            figures.add(&of_instance);
        }
        let state = self.state.borrow().clone();
        NodeStatus {
            pod_uid: self.identity.pod_uid.clone(),
            node: self.identity.node.clone(),
            zone: state.zone,
            revision: state.revision,
            captured: state.captured,
            instances,
            started: process_start(),
            figures,
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        }
    }

    /// Returns the metrics of the agent and of all its caches, merged into one text in OpenMetrics.
    pub(crate) async fn metrics_text(&self) -> String {
        let caches = self.instances.metrics().await;
        self.metrics.text() + &caches + END
    }

    /// Has a cache ask the upstreams of a name of the configuration for a client, past its cache.
    ///
    /// # Errors
    ///
    /// [`ProbeRefusal`] when the name is not one of the configuration, there is no room, or no cache asks for it.
    pub(crate) async fn probe(&self, name: &str, rtype: Option<&str>, client: ProbeClient) -> ProbeOutcome {
        let config = self.active.borrow().config.clone();
        let probe = config.as_deref().and_then(|config| config.find_probe(name, rtype)).ok_or_else(|| {
            let names = config.iter().flat_map(|config| config.probes()).map(|probe| probe.name);
            ProbeRefusal::Unknown(names.collect::<Vec<_>>().join(", "))
        })?;
        let alive = self.instances.status().await.into_iter().filter(|instance| instance.alive);
        let (caches, revisions): (Vec<_>, Vec<_>) =
            alive.map(|instance| (instance.name, instance.revision.in_force)).unzip();
        if caches.is_empty() {
            return Err(ProbeRefusal::Failed("no cache of this node answers".to_owned()));
        }
        // A cache that was taken over may report a long revision.
        let (instances, key) = (self.instances.clone(), (probe.clone(), hash_of(&revisions)));
        self.probes.ask(key, client, || async move { instances.probe(&probe, &caches).await }).await
    }
}

fn hash_of(revisions: &[Option<String>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    revisions.hash(&mut hasher);
    hasher.finish()
}

impl CommandHandler for NodeStatusReporter {
    async fn handle(&self, command: Command) -> String {
        let or_ok = |reason: Option<String>| reason.unwrap_or_else(|| OK.to_owned());
        match command {
            Command::Live => or_ok(self.state.borrow().not_live(Instant::now())),
            Command::Ready => or_ok(self.state.borrow().not_ready(Instant::now())),
            Command::Status => serde_json::to_string(&self.node_status().await).unwrap_or_default(),
            Command::Metrics => self.metrics_text().await,
            Command::Probe(_) | Command::Inspect(_) => "an agent keeps no answers; ask a cache of this node".to_owned(),
        }
    }
}

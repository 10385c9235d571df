//! Status of a node: what the agent reports on its control socket and, over HTTP, on the addresses of the pod.
//!
//! All of it reads the state that the reconciler published last and asks the caches by itself. The reconciler waits for
//! none of it.

use std::sync::Arc;
use std::time::Instant;

use node_cache_config::distinct_names::this_minute;
use node_cache_config::figures::{CAPABILITIES, Figures};
use node_cache_config::metrics_page::END;
use node_cache_config::probes::ProbeResult;
use node_cache_config::status::NodeStatus;
use tokio::sync::watch;

use super::instances::Instances;
use super::metrics::Metrics;
use super::readiness::AgentState;
use crate::admin::{Command, CommandHandler, OK};
use crate::identity::{Identity, process_start};
use crate::revision::ActiveRevision;

/// Reporter of a node's status.
#[derive(Debug)]
pub(crate) struct NodeStatusReporter {
    pub(crate) identity: Identity,
    pub(crate) state: watch::Receiver<AgentState>,
    pub(crate) active: watch::Receiver<Arc<ActiveRevision>>,
    pub(crate) instances: Instances,
    pub(crate) metrics: Arc<Metrics>,
}

/// Failure of a probe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The name is not one of the configuration.
    #[error("only names of the configuration can be asked for: {0}")]
    Unknown(String),
    /// No cache could be asked, or each one refused.
    #[error("{0}")]
    Failed(String),
}

impl NodeStatusReporter {
    /// Returns the status of the node and of its caches, which are asked now.
    pub(crate) async fn node_status(&self) -> NodeStatus {
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

    /// Has a cache ask the upstreams of a name of the configuration, past its cache.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] when the name is not one of the configuration, or no cache asks for it.
    pub(crate) async fn probe(&self, name: &str, rtype: Option<&str>) -> Result<ProbeResult, ProbeError> {
        let config = self.active.borrow().config.clone();
        let probe = config.as_deref().and_then(|config| config.find_probe(name, rtype)).ok_or_else(|| {
            let names = config.iter().flat_map(|config| config.probes()).map(|probe| probe.name);
            ProbeError::Unknown(names.collect::<Vec<_>>().join(", "))
        })?;
        self.instances.probe(&probe).await.map_err(ProbeError::Failed)
    }
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

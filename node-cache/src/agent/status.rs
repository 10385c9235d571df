//! Status of a node: what the agent reports on its control socket and, over HTTP, on the addresses of the pod.
//!
//! All of it reads the state that the reconciler published last and asks the caches by itself. The reconciler waits for
//! none of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache_config::Config;
use node_cache_config::metrics_page::END;
use node_cache_config::status::{CaptureState, NodeStatus};
use serde::Serialize;
use tokio::sync::watch;

use super::instances::Instances;
use super::metrics::Metrics;
use super::readiness::AgentState;
use super::self_query::query_rcode;
use super::ways_out::{ROOT, cluster_name};
use crate::admin::{Command, CommandHandler, OK};
use crate::dns::codes::rtype;
use crate::identity::Identity;
use crate::revision::ActiveRevision;

/// Time that the tier has to resolve a name for `/probe`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Reporter of a node's status.
#[derive(Debug)]
pub(crate) struct NodeStatusReporter {
    pub(crate) identity: Identity,
    pub(crate) state: watch::Receiver<AgentState>,
    pub(crate) active: watch::Receiver<Arc<ActiveRevision>>,
    pub(crate) instances: Instances,
    pub(crate) metrics: Arc<Metrics>,
}

/// Result of a probe: how the tier answered a name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProbeResult {
    /// Queried name.
    pub(crate) name: String,
    /// Captured address that was queried.
    pub(crate) address: IpAddr,
    /// Response code, a number (RFC 1035 §4.1.1).
    pub(crate) rcode: u16,
    /// Time from the query to the response.
    pub(crate) microseconds: u64,
}

/// Failure of a probe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The name is not one of the configuration.
    #[error("only names of the configuration can be asked for: {0}")]
    Unknown(String),
    /// No address is captured, or no response came.
    #[error("{0}")]
    Failed(String),
}

impl NodeStatusReporter {
    /// Returns the status of the node and of its caches, which are asked now.
    pub(crate) async fn node_status(&self) -> NodeStatus {
        let instances = self.instances.status().await;
        let state = self.state.borrow().clone();
        NodeStatus {
            pod_uid: self.identity.pod_uid.clone(),
            node: self.identity.node.clone(),
            zone: state.zone,
            revision: state.revision,
            captured: state.captured,
            instances,
        }
    }

    /// Returns the metrics of the agent and of all its caches, merged into one text in OpenMetrics.
    pub(crate) async fn metrics_text(&self) -> String {
        let caches = self.instances.metrics().await;
        self.metrics.text() + &caches + END
    }

    /// Resolves a name of the configuration through the tier, as a pod would.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] when the name is not one of the configuration, no address is captured, or no response comes.
    pub(crate) async fn probe(&self, name: &str) -> Result<ProbeResult, ProbeError> {
        let config = self.active.borrow().config.clone();
        let names = config.as_deref().map(probe_names).unwrap_or_default();
        if !names.iter().any(|known| known == name) {
            return Err(ProbeError::Unknown(names.join(", ")));
        }
        let address = self.first_captured().ok_or_else(|| ProbeError::Failed("no address is captured".into()))?;
        let rtype = if name == ROOT { rtype::NS } else { rtype::A };
        let start = Instant::now();
        let rcode = query_rcode(address, name, rtype, PROBE_TIMEOUT)
            .await
            .map_err(|error| ProbeError::Failed(format!("{name} through {address}: {error}")))?;
        let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(ProbeResult { name: name.to_owned(), address, rcode, microseconds })
    }

    fn first_captured(&self) -> Option<IpAddr> {
        let state = self.state.borrow();
        let captured = state.captured.iter().find(|address| address.state == CaptureState::Captured);
        captured.map(|captured| captured.address)
    }
}

/// Returns the names that may be probed. A fixed list, so that the status port resolves no names of a caller's choice.
fn probe_names(config: &Config) -> Vec<String> {
    let always = [ROOT.to_owned(), cluster_name(&config.cluster_domain)];
    always.into_iter().chain(config.routes.iter().map(|route| route.suffix.clone())).collect()
}

impl CommandHandler for NodeStatusReporter {
    async fn handle(&self, command: Command) -> String {
        let or_ok = |reason: Option<String>| reason.unwrap_or_else(|| OK.to_owned());
        match command {
            Command::Live => or_ok(self.state.borrow().not_live(Instant::now())),
            Command::Ready => or_ok(self.state.borrow().not_ready(Instant::now())),
            Command::Status => serde_json::to_string(&self.node_status().await).unwrap_or_default(),
            Command::Metrics => self.metrics_text().await,
            Command::Inspect(_) => "an agent keeps no answers; ask a cache of this node".to_owned(),
        }
    }
}

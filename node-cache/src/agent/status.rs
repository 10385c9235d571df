//! What the agent says to those who ask: on its control socket and, over HTTP, on the addresses of the pod.
//!
//! All of it reads what the loop told last and asks the caches by itself. The loop waits for none of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache_config::Config;
use node_cache_config::status::{CaptureState, NodeStatus};
use serde::Serialize;
use tokio::sync::watch;

use super::instances::Instances;
use super::metrics::Metrics;
use super::readiness::AgentState;
use super::self_query::ask_name;
use super::startup_names::{ROOT, cluster_name};
use crate::admin::merge::merge;
use crate::admin::{Command, CommandHandler, OK};
use crate::dns::codes::rtype;
use crate::identity::Identity;
use crate::revision::ActiveRevision;

/// How long the tier has to answer a name that somebody wants to see answered.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// Everything that can be said.
#[derive(Debug)]
pub struct NodeStatusReporter {
    pub(super) identity: Identity,
    pub(super) told: watch::Receiver<AgentState>,
    pub(super) in_force: watch::Receiver<Arc<ActiveRevision>>,
    pub(super) instances: Instances,
    pub(super) metrics: Arc<Metrics>,
}

/// How a name was answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probed {
    /// The name.
    pub name: String,
    /// The captured address that was asked.
    pub address: IpAddr,
    /// The response code, a number (RFC 1035 §4.1.1).
    pub rcode: u16,
    /// From the question to the answer.
    pub microseconds: u64,
}

/// Why a name was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The name is not one that the configuration knows.
    #[error("only names of the configuration can be asked for: {0}")]
    Unknown(String),
    /// Nobody to ask, or no answer.
    #[error("{0}")]
    SelfQueryError(String),
}

impl NodeStatusReporter {
    /// How the node is, its caches asked just now.
    pub async fn status(&self) -> NodeStatus {
        let instances = self.instances.status().await;
        let told = self.told.borrow().clone();
        NodeStatus {
            pod_uid: self.identity.pod_uid.clone(),
            node: self.identity.node.clone(),
            zone: told.zone,
            revision: told.revision,
            captured: told.captured,
            instances,
        }
    }

    /// The counters of the agent and of all its caches, as one Prometheus text.
    pub async fn metrics(&self) -> String {
        let own = self.metrics.text();
        let caches = self.instances.metrics().await;
        merge(std::iter::once(own.as_str()).chain(caches.iter().map(String::as_str)))
    }

    /// Asks the tier for a name of the configuration as a pod would.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] says what is wrong with the name, or that nothing was captured or answered.
    pub async fn probe(&self, name: &str) -> Result<Probed, ProbeError> {
        let config = self.in_force.borrow().config.clone();
        let names = config.as_deref().map(names_of).unwrap_or_default();
        if !names.iter().any(|known| known == name) {
            return Err(ProbeError::Unknown(names.join(", ")));
        }
        let address =
            self.first_captured().ok_or_else(|| ProbeError::SelfQueryError("no address is captured".into()))?;
        let rtype = if name == ROOT { rtype::NS } else { rtype::A };
        let start = Instant::now();
        let response = ask_name(address, name, rtype, PROBE_PATIENCE)
            .await
            .map_err(|error| ProbeError::SelfQueryError(format!("{name} through {address}: {error}")))?;
        let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(Probed { name: name.to_owned(), address, rcode: response.rcode(), microseconds })
    }

    fn first_captured(&self) -> Option<IpAddr> {
        let told = self.told.borrow();
        let captured = told.captured.iter().find(|address| address.state == CaptureState::Captured);
        captured.map(|captured| captured.address)
    }
}

/// The names that may be asked for: nobody is to use the status port for names of their own choice.
fn names_of(config: &Config) -> Vec<String> {
    let own = [ROOT.to_owned(), cluster_name(&config.cluster_domain)];
    own.into_iter().chain(config.routes.iter().map(|route| route.suffix.clone())).collect()
}

impl CommandHandler for NodeStatusReporter {
    async fn handle(&self, command: Command) -> String {
        let or_ok = |reason: Option<String>| reason.unwrap_or_else(|| OK.to_owned());
        match command {
            Command::Live => or_ok(self.told.borrow().dead(Instant::now())),
            Command::Ready => or_ok(self.told.borrow().unready(Instant::now())),
            Command::Status => serde_json::to_string(&self.status().await).unwrap_or_default(),
            Command::Metrics => self.metrics().await,
            Command::Inspect(_) => "an agent keeps no answers; ask a cache of this node".to_owned(),
        }
    }
}

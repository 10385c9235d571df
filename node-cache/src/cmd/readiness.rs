//! Readiness of the two resolving programs, each as a sentence that says what is missing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::dns::codes::{rcode, rtype};
use crate::dns::query::Query;
use crate::dns::{Edns, Name};
use crate::handover::HeldSocket;
use crate::resolver::Resolver;
use crate::revision::ActiveRevision;
use crate::stub_client::StubClient;

/// Pause between two tries to resolve a first name.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Time that the process has to answer `id.server` at one of its own addresses.
const SELF_QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Readiness of a process.
pub(super) trait Readiness: Send + Sync + 'static {
    /// Returns what is missing, in one sentence; `None` when the process is ready.
    fn missing(&self) -> impl Future<Output = Option<String>> + Send;
}

/// Readiness of a cache of a node: it has a configuration and sockets to answer on.
#[derive(Debug)]
pub(super) struct NodeReadiness {
    pub(super) revision: watch::Receiver<Arc<ActiveRevision>>,
    pub(super) sockets: watch::Receiver<Vec<HeldSocket>>,
}

impl Readiness for NodeReadiness {
    async fn missing(&self) -> Option<String> {
        if self.revision.borrow().config.is_none() {
            return Some("there is no configuration yet".to_owned());
        }
        self.sockets.borrow().is_empty().then(|| "the agent has handed over no socket yet".to_owned())
    }
}

/// Stage in the life of a zone resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was resolved yet.
    Starting,
    /// A first name was resolved. Upstreams that fail from now on do not change the stage.
    Serving,
    /// Shutdown was requested; queries are still answered.
    Draining,
}

/// Readiness of a zone resolver: a first name was resolved, `id.server` is answered at each address, and no shutdown was
/// requested.
#[derive(Debug)]
pub(super) struct ZoneReadiness {
    pub(super) resolver: Arc<Resolver>,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Readiness for ZoneReadiness {
    async fn missing(&self) -> Option<String> {
        let stage = *self.stage.borrow();
        match stage {
            Stage::Draining => return Some("told to stop; questions are still answered".to_owned()),
            Stage::Starting if self.resolver.snapshot().is_none() => {
                return Some("there is no configuration yet".to_owned());
            }
            Stage::Starting => return Some("no name was resolved yet".to_owned()),
            Stage::Serving => {}
        }
        for address in &self.addresses {
            let identity = StubClient::new(*address).query_identity(SELF_QUERY_TIMEOUT).await;
            if identity.unwrap_or_default().is_empty() {
                return Some(format!("id.server is not answered at {address}"));
            }
        }
        None
    }
}

/// Queries `. NS` until the response is not SERVFAIL. Any other response of an upstream counts.
pub(super) async fn resolve_first_name(resolver: &Resolver) {
    let Ok(root) = Name::from_text(".") else { return };
    let query = Query { edns: Some(Edns::default()), ..Query::plain(root, rtype::NS) };
    while resolver.resolve(&query).await.response.rcode() == rcode::SERVFAIL {
        sleep(RETRY_INTERVAL).await;
    }
}

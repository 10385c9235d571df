//! Readiness of the two resolving programs, each as a sentence that says what is missing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::dns::codes::rtype;
use crate::dns::query::Query;
use crate::dns::{Edns, Name};
use crate::handover::HeldSocket;
use crate::resolver::Resolver;
use crate::revision::ActiveRevision;
use crate::snapshot::Snapshot;
use crate::stub_client::StubClient;

/// Pause between two queries to upstreams that have not responded.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Interval at which a zone resolver looks whether an upstream has responded.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Time for which all upstreams of a zone resolver may be silent before it serves nevertheless.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
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
    /// No upstream has responded yet.
    Starting,
    /// An upstream has responded, or all were silent for long. Upstreams that fail from now on do not change the stage.
    Serving,
    /// Shutdown was requested; queries are still answered.
    Draining,
}

/// Readiness of a zone resolver: an upstream has responded or all were silent for long, `id.server` is answered at each
/// address, and no shutdown was requested.
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
            Stage::Starting => {
                return Some(match self.resolver.snapshot() {
                    None => "there is no configuration yet".to_owned(),
                    Some(snapshot) if snapshot.servers().is_empty() => {
                        snapshot.upstream_problem.clone().unwrap_or_else(|| "there is no upstream".to_owned())
                    }
                    Some(_) => "no upstream has responded yet".to_owned(),
                });
            }
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

/// Queries upstreams that have not responded, again and again: for the root, and in the zone of a cluster for the name
/// of the Service that every cluster has. Any response ends the queries of a scope, whatever its rcode.
pub(super) async fn query_silent_upstreams(resolver: &Resolver) {
    loop {
        let names = resolver.snapshot().map(|snapshot| silent_names(&snapshot)).unwrap_or_default();
        let queries = names.into_iter().map(|(name, rtype)| async move {
            resolver.resolve(&Query { edns: Some(Edns::default()), ..Query::plain(name, rtype) }).await
        });
        join_all(queries).await;
        sleep(RETRY_INTERVAL).await;
    }
}

/// Returns a name and type for each scope that answers outside names or those of the cluster, and of which no upstream
/// has responded yet.
fn silent_names(snapshot: &Snapshot) -> Vec<(Name, u16)> {
    let zones = snapshot.scopes().iter().filter_map(|scope| scope.zone.as_ref());
    let of_zone = |zone: &Name| Some((Name::from_text(&format!("kubernetes.default.svc.{zone}")).ok()?, rtype::A));
    let names = std::iter::once((Name::root(), rtype::NS)).chain(zones.filter_map(of_zone));
    names.filter(|(name, _)| !snapshot.routes.find(name).pool.has_responded()).collect()
}

/// Waits until a zone resolver shall serve: an upstream has responded, or all were silent for [`SILENCE_TIMEOUT`].
pub(super) async fn wait_for_upstream(resolver: &Resolver) {
    let mut known_since = None;
    loop {
        let servers = resolver.snapshot().map(|snapshot| snapshot.servers()).unwrap_or_default();
        if !servers.is_empty() {
            let silent_for = known_since.get_or_insert_with(Instant::now).elapsed();
            let has_responded = servers.iter().any(|(_, server)| server.has_responded());
            if shall_serve(has_responded, silent_for) {
                tracing::info!(has_responded, "an upstream has responded, or all have been silent for long");
                return;
            }
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Returns whether a zone resolver serves whose upstreams have been known for this long. One whose upstreams are all
/// silent is no better when it waits: it answers SERVFAIL, as the cluster DNS would, and whatever an upstream answers
/// later.
fn shall_serve(has_responded: bool, known_for: Duration) -> bool {
    has_responded || known_for >= SILENCE_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_response_makes_a_resolver_serve_and_silence_lasts_for_thirty_seconds() {
        assert!(shall_serve(true, Duration::ZERO));
        assert!(!shall_serve(false, Duration::from_secs(29)) && shall_serve(false, Duration::from_secs(30)));
    }
}

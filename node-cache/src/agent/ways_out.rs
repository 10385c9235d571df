//! Ways out: upstreams of the caches of this pod that have responded, which an address waits for before it is captured
//! for the first time.
//!
//! One is the cluster DNS, one a resolver of a zone. Any response counts, whatever its rcode and whatever the name: the
//! caches send the queries, and tell in their status which servers have responded. Where nothing responds for long, the
//! Service behind the address is asked itself: what it cannot answer either is no reason to wait. Later it does not
//! matter to the agent whether upstreams respond.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use node_cache_config::status::Instance;

use super::instances::Instances;
use super::self_query::query_service;
use crate::dns::codes::{rcode, rtype};

/// Time for which the upstreams of the caches may be silent before the Service is asked what they are missing.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that the Service has to respond.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(4);

/// The root zone, whose NS records stand for outside names.
pub(super) const ROOT: &str = ".";

/// Ways out that were found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaysOut {
    /// To the cluster DNS.
    pub(crate) cluster: bool,
    /// To a resolver of a zone.
    pub(crate) outside: bool,
}

/// Returns the name of the Service that every cluster has.
#[must_use]
pub(crate) fn cluster_name(cluster_domain: &str) -> String {
    format!("kubernetes.default.svc.{cluster_domain}")
}

impl WaysOut {
    /// Returns the ways out by which servers have responded to these caches.
    fn of(instances: &[Instance]) -> Self {
        let upstreams = || instances.iter().flat_map(|instance| &instance.upstreams);
        Self {
            cluster: upstreams().any(|upstream| upstream.responded && upstream.scope == "cluster"),
            outside: upstreams().any(|upstream| upstream.responded && upstream.scope.starts_with("zone/")),
        }
    }

    /// Returns the ways out that either has.
    fn or(self, other: Self) -> Self {
        Self { cluster: self.cluster || other.cluster, outside: self.outside || other.outside }
    }

    /// Searches for the missing ways out, after the address of a Service has waited for them for this long. One for
    /// which the Service has no answer either counts as found after [`SILENCE_TIMEOUT`].
    pub(crate) async fn search(
        self,
        instances: Arc<Instances>,
        service: IpAddr,
        cluster_domain: String,
        waited: Duration,
    ) -> Self {
        let found = self.or(Self::of(&instances.status().await));
        if found.is_complete() || waited < SILENCE_TIMEOUT {
            return found;
        }
        let name = cluster_name(&cluster_domain);
        let (cluster, outside) = tokio::join!(
            is_no_better(found.cluster, service, &name, rtype::A),
            is_no_better(found.outside, service, ROOT, rtype::NS)
        );
        let found_now = Self { cluster, outside };
        if found_now != found {
            tracing::warn!(%service, "the Service has no answer either to what the caches have none to");
        }
        found_now
    }

    /// Returns whether no way out is missing.
    #[must_use]
    pub(crate) const fn is_complete(self) -> bool {
        self.cluster && self.outside
    }

    /// Returns which ways out are missing, in one sentence; `None` if none is.
    #[must_use]
    pub(crate) const fn missing(self) -> Option<&'static str> {
        match (self.cluster, self.outside) {
            (true, true) => None,
            (false, true) => Some("the cluster DNS has not answered the caches yet"),
            (true, false) => Some("no resolver of a zone has answered the caches yet"),
            (false, false) => Some("neither the cluster DNS nor any resolver of a zone has answered the caches yet"),
        }
    }
}

/// Returns whether a way out is known, or the Service has no good response to a name that takes it.
async fn is_no_better(is_known: bool, service: IpAddr, name: &str, rtype: u16) -> bool {
    if is_known {
        return true;
    }
    let response = query_service(service, name, rtype, SERVICE_TIMEOUT).await;
    response.map_or(true, |code| !matches!(code, rcode::NOERROR | rcode::NXDOMAIN))
}

#[cfg(test)]
mod tests {
    use node_cache_config::status::{UpstreamState, UpstreamStatus};

    use super::*;

    fn instance(upstreams: &[(&str, bool)]) -> Instance {
        let upstream = |(scope, responded): &(&str, bool)| UpstreamStatus {
            scope: (*scope).to_owned(),
            address: "192.0.2.1:53".parse().unwrap(),
            healthy: false,
            state: UpstreamState::default(),
            responded: *responded,
            sent: 7,
            timeouts: 7,
            in_flight: 0,
            near_misses: 0,
            detection: None,
        };
        Instance { upstreams: upstreams.iter().map(upstream).collect(), ..Instance::default() }
    }

    #[test]
    fn a_server_that_has_responded_to_any_cache_is_a_way_out() {
        let silent = instance(&[("cluster", false), ("zone/a", false), ("route/corp.example", true)]);
        assert_eq!(WaysOut::of(std::slice::from_ref(&silent)), WaysOut::default(), "a route is none");
        let cluster = instance(&[("cluster", true), ("zone/a", false)]);
        assert_eq!(WaysOut::of(&[silent.clone(), cluster.clone()]), WaysOut { cluster: true, outside: false });
        let zone = instance(&[("zone/a", false), ("zone/", true)]);
        assert!(WaysOut::of(&[silent, cluster, zone]).is_complete());
    }

    #[test]
    fn what_is_missing_is_one_sentence() {
        let missing = |cluster, outside| WaysOut { cluster, outside }.missing().unwrap_or_default();
        assert_eq!(missing(true, true), "");
        assert_eq!(missing(true, false), "no resolver of a zone has answered the caches yet");
        assert!(missing(false, true).contains("cluster DNS") && missing(false, false).contains("neither"));
    }
}

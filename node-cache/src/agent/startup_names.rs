//! Startup names: names that the caches must have resolved before an address is captured for the first time.
//!
//! One is a name of the cluster, one is outside. They show that both kinds of upstream can be reached from this pod.
//! Later it does not matter to the agent whether upstreams respond.

use std::net::IpAddr;
use std::time::Duration;

use super::self_query::query_rcode;
use crate::dns::codes::{rcode, rtype};

/// Time that the caches have to resolve one of the names.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The root zone, whose NS records stand for outside names.
pub(super) const ROOT: &str = ".";

/// Startup names that were resolved so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartupNames {
    /// `kubernetes.default.svc.<cluster domain>`.
    pub(crate) cluster: bool,
    /// The name servers of the root.
    pub(crate) outside: bool,
}

/// Returns the name of the Service that every cluster has.
#[must_use]
pub(crate) fn cluster_name(cluster_domain: &str) -> String {
    format!("kubernetes.default.svc.{cluster_domain}")
}

impl StartupNames {
    /// Queries the names that are missing, through this address. NXDOMAIN counts as resolved.
    pub(crate) async fn resolve_missing(self, address: IpAddr, cluster_domain: String) -> Self {
        let name = cluster_name(&cluster_domain);
        let (cluster, outside) = tokio::join!(
            is_resolved(self.cluster, address, &name, rtype::A),
            is_resolved(self.outside, address, ROOT, rtype::NS)
        );
        Self { cluster, outside }
    }

    /// Returns whether no name is missing.
    #[must_use]
    pub(crate) fn all_resolved(self) -> bool {
        self.cluster && self.outside
    }

    /// Returns which names are missing, in one sentence; `None` if none is.
    #[must_use]
    pub(crate) fn missing(self, cluster_domain: &str) -> Option<String> {
        let cluster = cluster_name(cluster_domain);
        match (self.cluster, self.outside) {
            (true, true) => None,
            (false, true) => Some(format!("the caches have not resolved {cluster} yet")),
            (true, false) => Some("the caches have not resolved any outside name yet".to_owned()),
            (false, false) => Some(format!("the caches have resolved neither {cluster} nor any outside name yet")),
        }
    }
}

async fn is_resolved(already: bool, address: IpAddr, name: &str, rtype: u16) -> bool {
    if already {
        return true;
    }
    let result = query_rcode(address, name, rtype, RESOLVE_TIMEOUT).await;
    result.is_ok_and(|code| matches!(code, rcode::NOERROR | rcode::NXDOMAIN))
}

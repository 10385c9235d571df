//! Names that the caches have to have resolved before an address is captured for the first time: one of the cluster's
//! own and one from outside. It shows that both ways out of this pod lead somewhere; later it is no matter of the
//! agent whether upstreams answer.

use std::net::IpAddr;
use std::time::Duration;

use super::self_query::ask_name;
use crate::dns::codes::rtype;

/// How long the caches have for one of them.
const PATIENCE: Duration = Duration::from_secs(2);

/// The root of all names.
pub(super) const ROOT: &str = ".";

/// Which of them were resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartupNames {
    /// The cluster's own, `kubernetes.default.svc.<cluster domain>`.
    pub cluster: bool,
    /// The one from outside: the name servers of the root.
    pub outside: bool,
}

/// The name that every cluster has.
#[must_use]
pub fn cluster_name(cluster_domain: &str) -> String {
    format!("kubernetes.default.svc.{cluster_domain}")
}

impl StartupNames {
    /// Asks for those that are missing, through this address. That there is no such name is an answer too.
    pub async fn ask(self, address: IpAddr, cluster_domain: String) -> Self {
        let name = cluster_name(&cluster_domain);
        let (cluster, outside) = tokio::join!(
            is_known(self.cluster, address, &name, rtype::A),
            is_known(self.outside, address, ROOT, rtype::NS)
        );
        Self { cluster, outside }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn resolved(self) -> bool {
        self.cluster && self.outside
    }

    /// What is missing, in one sentence.
    #[must_use]
    pub fn missing(self, cluster_domain: &str) -> Option<String> {
        let cluster = cluster_name(cluster_domain);
        match (self.cluster, self.outside) {
            (true, true) => None,
            (false, true) => Some(format!("the caches have not resolved {cluster} yet")),
            (true, false) => Some("the caches have not resolved any outside name yet".to_owned()),
            (false, false) => Some(format!("the caches have resolved neither {cluster} nor any outside name yet")),
        }
    }
}

async fn is_known(already: bool, address: IpAddr, name: &str, rtype: u16) -> bool {
    if already {
        return true;
    }
    let response = ask_name(address, name, rtype, PATIENCE).await;
    response.is_ok_and(|response| !response.is_failure())
}

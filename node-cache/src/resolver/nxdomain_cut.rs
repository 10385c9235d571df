//! NXDOMAIN cut (RFC 8020): when a name does not exist, no name below it does.
//!
//! A pod with a search path queries `www.example.com.shop.svc.cluster.local` and two names like it before the name that
//! it means. In the cluster's own zone the NXDOMAIN of `com.shop.svc.cluster.local` answers for every name below it.
//!
//! On a miss, ancestors are queried before the name itself, the shortest first, until it is known whether they exist.
//! The existence of an ancestor is believed for as long as the cache holds an entry for it, also a stale one: that
//! saves a query and decides nothing. An NXDOMAIN counts only while it is fresh.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::miss::FlightOutcome;
use super::single_flight::Join;
use super::{CacheLookup, Resolver};
use crate::cache::{Key, Lookup};
use crate::dns::answer::Answer;
use crate::dns::codes::rtype;
use crate::dns::question::Question;
use crate::dns::{Name, Response};
use crate::snapshot::{Scope, Snapshot};

/// Ancestors that are queried before the name itself, at most: three upstream queries with it.
const MAX_PROBES: usize = 2;
/// Time for which each probe may delay the client's response.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the ancestors of `name` in `zone` whose NXDOMAIN covers `name`, the shortest first.
pub(super) fn covering_ancestors(name: &Name, zone: &Name) -> impl Iterator<Item = Name> {
    let zone_length = zone.as_bytes().len();
    name.ancestors_within(zone).into_iter().filter(move |ancestor| {
        let labels = ancestor.as_bytes();
        // `svc` and `pod` exist in every cluster (Kubernetes DNS specification §2.3), whatever a server responds.
        let always_exists = labels.len() == zone_length + 4 && matches!(&labels[..4], b"\x03svc" | b"\x03pod");
        // CoreDNS responds NXDOMAIN for `_tcp.web.shop.svc` although `_http._tcp.web.shop.svc` exists.
        let is_underscored = labels.get(1) == Some(&b'_');
        !always_exists && !is_underscored
    })
}

/// Returns the question that probes an ancestor: type A, because CoreDNS responds NXDOMAIN to TXT for every namespace.
pub(super) fn probe_question(ancestor: Name, question: &Question) -> Question {
    Question { name: ancestor, rtype: rtype::A, ..question.clone() }
}

impl Resolver {
    /// Returns the NXDOMAIN answer that follows from a fresh cached NXDOMAIN of an ancestor.
    pub(super) fn cached_cut(&self, snapshot: &Snapshot, scope: &Scope, question: &Question) -> Option<Answer> {
        let zone = scope.zone.as_ref()?;
        let now = Instant::now().into_std();
        covering_ancestors(&question.name, zone).find_map(|ancestor| {
            let key = Key::new(scope.id, &probe_question(ancestor, question));
            match self.cache.get(&key, now, &snapshot.policy) {
                Lookup::Fresh(answer) | Lookup::RefreshDue(answer) => cut_below(answer, question),
                Lookup::Stale(_) | Lookup::Miss => None,
            }
        })
    }

    /// Queries ancestors that the cache does not know to exist, [`MAX_PROBES`] at most, for `client`. Returns the
    /// NXDOMAIN answer that follows from the first ancestor that does not exist.
    pub(super) async fn probe_ancestors(&self, lookup: &CacheLookup, client: Option<IpAddr>) -> Option<Answer> {
        let CacheLookup { snapshot, scope, question, .. } = lookup;
        let zone = scope.zone.as_ref()?;
        let mut probes = 0;
        for ancestor in covering_ancestors(&question.name, zone) {
            let probe = probe_question(ancestor, question);
            let key = Key::new(scope.id, &probe);
            let generation = self.in_flight.generation();
            if self.cache.name_known_to_exist(&key) {
                continue;
            }
            if probes == MAX_PROBES || self.failure_of(scope, &key, Instant::now()).is_some() {
                return None;
            }
            probes += 1;
            let answer = match self.join_query(snapshot, scope, &key, generation, Arc::new(probe), client) {
                Join::Leader(leader) => {
                    let deadline = Instant::now() + PROBE_TIMEOUT;
                    snapshot.policy.new_answer(leader.wait_until(deadline).await.ok()?)
                }
                Join::Follower(follower) => {
                    snapshot.policy.new_answer(timeout(PROBE_TIMEOUT, follower.wait()).await.ok()?.ok()?)
                }
                Join::AlreadyCached(FlightOutcome::Answer(answer) | FlightOutcome::RefreshDue(answer)) => answer,
                Join::AlreadyCached(FlightOutcome::Failure(_)) | Join::AtCapacity(_) => return None,
            };
            if !answer.response.is_conclusive() {
                return None;
            }
            if let Some(cut) = cut_below(answer, question) {
                return Some(cut);
            }
        }
        None
    }
}

/// Returns the NXDOMAIN answer to `question` that follows from an ancestor's; `None` unless the ancestor's is NXDOMAIN.
fn cut_below(ancestor: Answer, question: &Question) -> Option<Answer> {
    let response: Response = ancestor.response.nxdomain_for(question)?;
    Some(Answer { response: Arc::new(response), ..ancestor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_that_must_exist_and_labels_with_an_underscore_are_not_probed() {
        let zone = Name::from_text("cluster.local").unwrap();
        let ancestors = |name: &str| {
            let name = Name::from_text(name).unwrap();
            covering_ancestors(&name, &zone).map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            ancestors("www.example.com.shop.svc.cluster.local"),
            ["shop.svc.cluster.local.", "com.shop.svc.cluster.local.", "example.com.shop.svc.cluster.local."]
        );
        assert_eq!(ancestors("web.shop.svc.cluster.local"), ["shop.svc.cluster.local."]);
        assert_eq!(ancestors("10-0-0-1.shop.pod.cluster.local"), ["shop.pod.cluster.local."]);
        assert_eq!(
            ancestors("_http._tcp.web.shop.svc.cluster.local"),
            ["shop.svc.cluster.local.", "web.shop.svc.cluster.local."]
        );
        assert_eq!(ancestors("www.com.cluster.local"), ["com.cluster.local."]);
        assert_eq!(ancestors("www.example.com"), [""; 0]);
    }
}

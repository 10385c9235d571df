//! NXDOMAIN cut (RFC 8020): when a name does not exist, no name below it does. It is used only where it has proved
//! itself.
//!
//! A pod with a search path queries `www.example.com.shop.svc.cluster.local` and two names like it before the name that
//! it means. In the cluster's own zone the NXDOMAIN of `com.shop.svc.cluster.local` can answer for every name below it.
//!
//! On a miss the name itself is queried, and never an ancestor before it. An ancestor below which names were denied one
//! by one ([`super::cut_evidence`]) is probed in the background. While its own NXDOMAIN is fresh it answers for names
//! below it, for no longer than negative caching of its own name. One in [`SAMPLE_INTERVAL`] of these names is queried
//! nevertheless, and so is every name that the cache knows to have existed.

use std::sync::Arc;

use tokio::time::Instant;

use super::single_flight::Join;
use super::{CacheLookup, Resolver};
use crate::cache::{Key, Lookup};
use crate::dns::answer::Answer;
use crate::dns::codes::{rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, Response};
use crate::snapshot::{Scope, Snapshot};

/// Names below a cut of which one is queried itself, on average.
const SAMPLE_INTERVAL: u8 = 16;

/// Returns the ancestors of `name` in `zone` whose NXDOMAIN may cover `name`, in wire format, the longest first.
pub(super) fn covering_ancestors<'a>(name: &'a Name, zone: &Name) -> impl Iterator<Item = &'a [u8]> {
    let zone_length = zone.as_bytes().len();
    let is_within = name.is_within(zone);
    let ancestors = name.suffixes().skip(1).take_while(move |ancestor| is_within && ancestor.len() > zone_length);
    ancestors.filter(move |ancestor| {
        // It exists in every cluster, whatever a server responds.
        let always_exists = is_kubernetes_subtree(ancestor, zone_length);
        // CoreDNS responds NXDOMAIN for `_tcp.web.shop.svc` although `_http._tcp.web.shop.svc` exists.
        let is_underscored = ancestor.get(1) == Some(&b'_');
        !always_exists && !is_underscored
    })
}

/// Returns whether a name is `svc` or `pod` of a zone, below which Kubernetes has its names (Kubernetes DNS
/// specification §2.3).
pub(super) fn is_kubernetes_subtree(name: &[u8], zone_length: usize) -> bool {
    name.len() == zone_length + 4 && (name.starts_with(b"\x03svc") || name.starts_with(b"\x03pod"))
}

/// Returns the question that probes an ancestor: type A, because CoreDNS responds NXDOMAIN to TXT for every namespace.
fn probe_question(ancestor: &[u8], question: &Question) -> Option<Question> {
    let (name, _) = Name::read_uncompressed(ancestor, 0).ok()?;
    Some(Question { name, rtype: rtype::A, ..question.clone() })
}

impl Resolver {
    /// Returns the NXDOMAIN answer that follows from the fresh cached NXDOMAIN of an ancestor, if that is proven.
    pub(super) fn cached_cut(
        &self,
        snapshot: &Snapshot,
        scope: &Scope,
        question: &Question,
        key: &Key,
    ) -> Option<Answer> {
        let (_, cut) = self.find_cut(snapshot, scope, question)?;
        let is_sampled = rand::random::<u8>().is_multiple_of(SAMPLE_INTERVAL);
        if is_sampled || self.cache.name_known_to_exist(key) {
            return None;
        }
        Some(cut)
    }

    /// Returns the ancestor whose cut covers a name, and the NXDOMAIN answer that follows from it.
    pub(super) fn find_cut(&self, snapshot: &Snapshot, scope: &Scope, question: &Question) -> Option<(Name, Answer)> {
        let zone = scope.zone.as_ref()?;
        let now = Instant::now().into_std();
        let mut proven = covering_ancestors(&question.name, zone)
            .filter(|ancestor| self.cut_evidence.is_proven(scope.id, ancestor, now));
        proven.find_map(|ancestor| {
            let probe = probe_question(ancestor, question)?;
            match self.cache.get(&Key::new(scope.id, &probe), now, &snapshot.policy) {
                Lookup::Fresh(answer) | Lookup::RefreshDue(answer) => Some((probe.name, cut_below(answer, question)?)),
                Lookup::Stale(_) | Lookup::Miss => None,
            }
        })
    }

    /// Probes the proven ancestors of a name that was denied in the background, unless the cache knows of them. Returns
    /// at once.
    pub(super) fn probe_cuts(&self, lookup: &CacheLookup) {
        let CacheLookup { snapshot, scope, question, .. } = lookup;
        let Some(zone) = &scope.zone else { return };
        let now = Instant::now();
        for ancestor in covering_ancestors(&question.name, zone) {
            if !self.cut_evidence.is_proven(scope.id, ancestor, now.into_std()) {
                continue;
            }
            let Some(probe) = probe_question(ancestor, question) else { continue };
            let key = Key::new(scope.id, &probe);
            let generation = self.in_flight.generation();
            let is_known = self.cached_outcome(snapshot, scope, &key).is_some();
            if is_known || !self.cut_evidence.take_probe(scope.id, ancestor, now.into_std()) {
                continue;
            }
            if let Join::Leader(leader) = self.join_query(snapshot, scope, &key, generation, Arc::new(probe), None) {
                leader.detach();
            }
        }
    }
}

/// Returns the NXDOMAIN answer to `question` that follows from an ancestor's; `None` unless the ancestor's is NXDOMAIN.
fn cut_below(ancestor: Answer, question: &Question) -> Option<Answer> {
    let response: Response = ancestor.response.nxdomain_for(question)?;
    Some(Answer { response: Arc::new(response), ..ancestor })
}

/// Returns whether a response is a denial of its name, for its type.
pub(super) fn is_denial(response: &Response) -> bool {
    response.rcode() == rcode::NXDOMAIN && !response.has_answer()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_that_must_exist_and_labels_with_an_underscore_cover_nothing() {
        let zone = Name::from_text("cluster.local").unwrap();
        let ancestors = |name: &str| {
            let name = Name::from_text(name).unwrap();
            let ancestors = covering_ancestors(&name, &zone);
            ancestors.map(|name| Name::read_uncompressed(name, 0).unwrap().0.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            ancestors("www.example.com.shop.svc.cluster.local"),
            ["example.com.shop.svc.cluster.local.", "com.shop.svc.cluster.local.", "shop.svc.cluster.local."]
        );
        assert_eq!(ancestors("web.shop.svc.cluster.local"), ["shop.svc.cluster.local."]);
        assert_eq!(ancestors("10-0-0-1.shop.pod.cluster.local"), ["shop.pod.cluster.local."]);
        assert_eq!(
            ancestors("_http._tcp.web.shop.svc.cluster.local"),
            ["web.shop.svc.cluster.local.", "shop.svc.cluster.local."]
        );
        assert_eq!(ancestors("www.com.cluster.local"), ["com.cluster.local."]);
        assert_eq!(ancestors("www.com.xcluster.local"), [""; 0]);
        assert_eq!(ancestors("www.example.com"), [""; 0]);
    }
}

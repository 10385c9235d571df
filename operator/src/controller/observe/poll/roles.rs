//! Roles of pods in the roll-outs of their tiers, which decide how often they are polled, and the evidence of those
//! that have one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::controller::observe::poll::evidence::Evidence;
use crate::controller::observe::poll::report::PodKey;
use crate::controller::observe::poll::schedule::Class;
use crate::controller::observe::poll::summary::PodPage;

/// Roles of pods, by tier. Pods without one are polled like any other.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoleStore(Arc<Mutex<Roles>>);

#[derive(Debug, Default)]
struct Roles {
    tiers: HashMap<String, HashMap<PodKey, Class>>,
    evidence: HashMap<PodKey, Arc<Evidence>>,
}

impl Roles {
    fn get(&self, key: PodKey) -> Option<Class> {
        self.tiers.values().find_map(|roles| roles.get(&key).copied())
    }
}

impl RoleStore {
    /// Sets the roles of the pods of a tier, by UID, in place of all earlier ones.
    pub(crate) fn set<'a>(&self, tier: &str, pods: impl IntoIterator<Item = (&'a str, Class)>) {
        let pods: HashMap<PodKey, Class> = pods.into_iter().map(|(uid, class)| (PodKey::of(uid), class)).collect();
        let mut roles = self.lock();
        if pods.is_empty() && !roles.tiers.contains_key(tier) {
            return;
        }
        roles.tiers.insert(tier.to_owned(), pods);
        let Roles { tiers, evidence } = &mut *roles;
        tiers.retain(|_, pods| !pods.is_empty());
        evidence.retain(|key, _| tiers.values().any(|pods| pods.contains_key(key)));
    }

    /// Forgets all roles.
    pub(crate) fn clear(&self) {
        *self.lock() = Roles::default();
    }

    /// Returns the evidence of the last page of a pod; `None` for one without a role.
    pub(crate) fn evidence(&self, uid: &str) -> Option<Arc<Evidence>> {
        self.lock().evidence.get(&PodKey::of(uid)).cloned()
    }

    /// Returns the role of a pod; `None` for one that has none.
    pub(super) fn get(&self, key: PodKey) -> Option<Class> {
        self.lock().get(key)
    }

    /// Keeps the evidence of a page, if its pod has a role.
    pub(super) fn keep(&self, key: PodKey, page: &PodPage) {
        let mut roles = self.lock();
        if roles.get(key).is_some()
            && let Some(evidence) = Evidence::of(page, roles.evidence.get(&key).map(|before| &**before))
        {
            roles.evidence.insert(key, Arc::new(evidence));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Roles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use node_cache_config::status::NodeStatus;

    use super::*;

    #[test]
    fn the_roles_of_a_tier_replace_its_earlier_ones_and_those_of_no_other() {
        let roles = RoleStore::default();
        roles.set("one", [("a", Class::Canary), ("b", Class::Control)]);
        roles.set("other", [("c", Class::Canary)]);
        roles.set("one", [("b", Class::Canary)]);
        let get = |uid| roles.get(PodKey::of(uid));
        assert_eq!([get("a"), get("b"), get("c")], [None, Some(Class::Canary), Some(Class::Canary)]);
        roles.set("other", []);
        assert_eq!(get("c"), None);
    }

    #[test]
    fn evidence_is_kept_of_pods_that_have_a_role_and_as_long_as_they_have_it() {
        let roles = RoleStore::default();
        let page = PodPage::Node(NodeStatus::default());
        roles.set("one", [("a", Class::Canary)]);
        ["a", "b"].iter().for_each(|uid| roles.keep(PodKey::of(uid), &page));
        assert!(roles.evidence("a").is_some() && roles.evidence("b").is_none());
        roles.set("one", [("b", Class::Control)]);
        assert!(roles.evidence("a").is_none());
    }
}

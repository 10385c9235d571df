//! Revision of a tier: one configuration, of which nodes and resolvers each run their own part.
//!
//! The ConfigMap has one key for each configuration, and every pod runs a whole one. Who does not read what changed is
//! not told: nodes whose part is the same in both configurations go on under the name of the older one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use node_cache_config::names::{STABLE_REVISION, revision_key};
use node_cache_config::{Config, PartFingerprints, fingerprint, part_fingerprints};
use serde::{Deserialize, Serialize};

use crate::controller::rollout::pods::{Role, RolloutPod};

/// Names of the configurations that the pods of a tier are asked to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TierRevision {
    /// Name of the configuration: its fingerprint.
    pub(crate) id: String,
    /// Name of the configuration that nodes run: `id`, or an older one with the same part for nodes.
    pub(crate) nodes: String,
    /// Name of the configuration that resolvers run.
    pub(crate) resolvers: String,
}

impl TierRevision {
    /// Returns the name of the configuration that pods of a role run.
    #[must_use]
    pub(crate) fn part(&self, role: Role) -> &str {
        match role {
            Role::Node => &self.nodes,
            Role::Resolver => &self.resolvers,
        }
    }
}

/// A configuration of the ConfigMap, or the desired one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownRevision {
    /// Name of the configuration.
    pub(crate) id: String,
    /// Fingerprints of its parts.
    pub(crate) parts: PartFingerprints,
}

impl KnownRevision {
    /// Returns the fingerprint of the part that pods of a role read.
    #[must_use]
    pub(crate) fn part(&self, role: Role) -> &str {
        match role {
            Role::Node => &self.parts.nodes,
            Role::Resolver => &self.parts.resolvers,
        }
    }
}

/// Returns the configurations of a ConfigMap that can be read, and the stable one among them or beside them.
#[must_use]
pub(crate) fn known_revisions(config_map: &ConfigMap) -> (Vec<KnownRevision>, Option<KnownRevision>) {
    let data = || config_map.data.iter().flatten();
    let known = data().filter(|(key, _)| **key != revision_key(STABLE_REVISION)).filter_map(|(key, json)| {
        let config = Config::from_json(json.as_bytes()).ok()?;
        Some(KnownRevision { id: key.strip_suffix(".json")?.to_owned(), parts: part_fingerprints(&config) })
    });
    let known: Vec<KnownRevision> = known.collect();
    let stable = config_map.data.as_ref().and_then(|data| data.get(&revision_key(STABLE_REVISION)));
    let stable = stable.and_then(|stable| {
        // An older operator may have written the same value in another form: its key has the name that pods know.
        let name = data().find(|(key, json)| *json == stable && **key != revision_key(STABLE_REVISION));
        let name = name.and_then(|(key, _)| key.strip_suffix(".json"));
        let config = Config::from_json(stable.as_bytes()).ok()?;
        let id = name.map_or_else(|| fingerprint(&config), str::to_owned);
        Some(KnownRevision { id, parts: part_fingerprints(&config) })
    });
    (known, stable)
}

/// Returns the revision for a desired configuration: a part that is the same in one of `running` keeps the name under
/// which it runs. The first of them counts.
///
/// `known` has the fingerprints of the configurations that can be read; the part of any other configuration differs.
#[must_use]
pub(crate) fn assign(desired: &KnownRevision, running: &[&TierRevision], known: &[KnownRevision]) -> TierRevision {
    let name = |role: Role| {
        let is_same = |name: &&str| {
            known.iter().any(|revision| revision.id == **name && revision.part(role) == desired.part(role))
        };
        let names = running.iter().map(|revision| revision.part(role));
        names.into_iter().find(is_same).unwrap_or(&desired.id).to_owned()
    };
    TierRevision { id: desired.id.clone(), nodes: name(Role::Node), resolvers: name(Role::Resolver) }
}

/// Returns the proven revision of a tier whose record is lost: that of the configuration `stable`. A part has the name
/// under which most pods are asked to run it.
#[must_use]
pub(crate) fn rebuild_proven(stable: &KnownRevision, known: &[KnownRevision], pods: &[RolloutPod]) -> TierRevision {
    let name = |role: Role| {
        let mut counts = BTreeMap::<&str, usize>::new();
        for asked in pods.iter().filter(|pod| pod.role == role).filter_map(|pod| pod.asked.as_deref()) {
            *counts.entry(asked).or_default() += 1;
        }
        let is_same =
            |name: &str| known.iter().any(|revision| revision.id == name && revision.part(role) == stable.part(role));
        let most = counts.into_iter().filter(|(name, _)| is_same(name)).max_by_key(|(_, count)| *count);
        most.map_or_else(|| stable.id.clone(), |(name, _)| name.to_owned())
    };
    TierRevision { id: stable.id.clone(), nodes: name(Role::Node), resolvers: name(Role::Resolver) }
}

//! Tiers that cannot be deserialized: a newer operator wrote them, or another definition of `DnsTier` admitted them.
//! Their pods run all the same, so what they use on their nodes is read from their objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use node_cache_config::Config;
use node_cache_config::names::{STABLE_REVISION, revision_key};

use crate::controller::owned::{OwnedObjects, labels, names};
use crate::settings::Settings;

/// Tier that cannot be deserialized, with what it uses on its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnreadableTier {
    /// Name of the tier.
    pub(crate) name: String,
    /// Time at which the tier was created.
    pub(crate) created: Option<Timestamp>,
    /// Addresses that its proven revision captures.
    pub(crate) captured: Vec<IpAddr>,
    /// Port of its metrics; `None` without a DaemonSet.
    pub(crate) metrics_port: Option<u16>,
    /// Labels of the nodes that its pods may run on.
    pub(crate) node_selector: BTreeMap<String, String>,
}

impl UnreadableTier {
    /// Reads what a tier uses from the ConfigMap of its revisions and from its DaemonSet.
    #[must_use]
    pub(crate) fn read(metadata: &ObjectMeta, objects: &OwnedObjects, settings: &Settings) -> Self {
        let name = metadata.name.clone().unwrap_or_default();
        let config_map = objects.config_map(&settings.node_namespace, &names::revisions(&name));
        let daemon_set = objects.daemon_set(&settings.node_namespace, &names::node_cache(&name));
        let json = config_map.and_then(|config_map| config_map.data.as_ref()?.get(&revision_key(STABLE_REVISION)));
        let config = json.and_then(|json| Config::from_json(json.as_bytes()).ok());
        let captured = config.iter().flat_map(|config| &config.node_cache.captured);
        let template = daemon_set.and_then(|daemon_set| Some(&daemon_set.spec.as_ref()?.template));
        let annotations = template.and_then(|template| template.metadata.as_ref()?.annotations.as_ref());
        let pod = template.and_then(|template| template.spec.as_ref());
        Self {
            name,
            created: metadata.creation_timestamp.as_ref().map(|created| created.0),
            captured: captured.map(|captured| captured.address).collect(),
            metrics_port: annotations.and_then(|annotations| annotations.get(labels::METRICS_PORT)?.parse().ok()),
            node_selector: pod.and_then(|pod| pod.node_selector.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::controller::desired;
    use crate::controller::fixtures::{serving, settings};
    use crate::controller::validate::validate;

    #[test]
    fn what_a_tier_uses_is_read_from_its_objects_and_a_tier_without_objects_uses_nothing() {
        let observed = serving("{}");
        let metadata = ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() };
        let tier = validate(&observed, &settings()).unwrap();
        let mut objects = desired::build(&tier, &settings(), &observed.owned, &BTreeSet::new()).unwrap().objects;
        let pod = objects.daemon_sets[0].spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        pod.node_selector = Some(BTreeMap::from([("pool".to_owned(), "blue".to_owned())]));
        let read = UnreadableTier::read(&metadata, &objects, &settings());
        assert!(read.captured.contains(&"169.254.20.10".parse().unwrap()), "{:?}", read.captured);
        assert_eq!((read.metrics_port, read.node_selector["pool"].as_str()), (Some(9353), "blue"));
        let empty = UnreadableTier::read(&metadata, &OwnedObjects::default(), &settings());
        assert_eq!(empty, UnreadableTier { name: "default".to_owned(), ..UnreadableTier::default() });
    }
}

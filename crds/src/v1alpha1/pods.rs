//! Pod settings that users can override.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::validation::{IMAGE, PRIORITY_CLASS, TOLERATIONS, rules};

/// Settings of the pods of a node or of a zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSettings {
    /// Image of the containers, as a full reference (registry.example/dnstier/dnstier-node-cache:0.1.0). Default: the
    /// image that the operator was installed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = rules(&[IMAGE])))]
    pub image: Option<String>,
    /// Compute resources of each container that answers queries. A memory limit given here takes the place of the
    /// one that follows from cache.size, and must be larger than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have to run these pods, in addition to kubernetes.io/os: linux. At most 32.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// Scheduling constraints of these pods, in addition to those of the tier itself: a resolver always runs in its
    /// zone, and no pod on an architecture that the image does not have or on a virtual node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that these pods tolerate. At most 32. Default: node pods tolerate every taint, resolvers none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend(
        "x-kubernetes-list-type" = "atomic",
        "x-kubernetes-validations" = rules(&[TOLERATIONS])
    ))]
    pub tolerations: Option<Vec<Toleration>>,
    /// Name of the PriorityClass of these pods. Default: system-node-critical for node pods, system-cluster-critical
    /// for resolvers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules(&[PRIORITY_CLASS])))]
    pub priority_class_name: Option<String>,
    /// Further labels of these pods. At most 32. Labels by which the tier finds its own pods cannot be set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::pod_labels")]
    pub pod_labels: BTreeMap<String, String>,
    /// Further annotations of these pods. At most 32. Those that begin with dnstier.io/ cannot be set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::pod_annotations")]
    pub pod_annotations: BTreeMap<String, String>,
}

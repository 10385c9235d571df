//! The part of the spec for zones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::validation::{CACHE_FITS_MEMORY, SERVERS_ARE_DISTINCT, rules};
use super::{ByteSize, Cache, PodSettings, RESOLVER_CACHE_SIZE, Upstream, schema};

/// The resolvers of a zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[CACHE_FITS_MEMORY])))]
pub struct Resolvers {
    /// How many resolvers run in each zone, 1 to 64. With 2 or more, one can be replaced or lost without the nodes
    /// of the zone having to query another zone. Default: 2.
    #[schemars(range(min = 1, max = 64))]
    pub replicas_per_zone: u16,
    /// The zones that get resolvers, by the value of the nodes' label topology.kubernetes.io/zone. Nodes of other
    /// zones query the resolvers of these. At most 64. Default, also for an empty list: every zone that a Node names;
    /// nodes without the label form one zone.
    #[schemars(schema_with = "schema::zones")]
    pub zones: Vec<String>,
    /// How the resolvers find an answer. Forward: they query the upstreams. Default: Forward.
    pub mode: Mode,
    /// The servers that the resolvers query, in this order of preference. At most 8 entries. Default, also for an empty
    /// list: the nameservers in the resolv.conf of the node that a resolver runs on.
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "atomic",
        "x-kubernetes-validations" = rules(&[SERVERS_ARE_DISTINCT])
    ))]
    pub upstreams: Vec<Upstream>,
    /// What each of the resolvers keeps.
    pub cache: Cache,
    /// What the tier does not decide about its resolver pods.
    #[serde(flatten)]
    pub pod: PodSettings,
}

impl Default for Resolvers {
    fn default() -> Self {
        Self {
            replicas_per_zone: 2,
            zones: Vec::new(),
            mode: Mode::default(),
            upstreams: Vec::new(),
            cache: Cache { size: Some(RESOLVER_CACHE_SIZE), ..Cache::default() },
            pod: PodSettings::default(),
        }
    }
}

impl Resolvers {
    /// Returns the size of the cache of one resolver.
    #[must_use]
    pub fn cache_size(&self) -> ByteSize {
        self.cache.size.unwrap_or(RESOLVER_CACHE_SIZE)
    }
}

/// Method by which the resolvers find an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// They query the upstreams.
    #[default]
    Forward,
}

//! The part of the spec for zones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::validation::{
    CACHE_FITS_MEMORY, FALLBACK_IS_NO_UPSTREAM, FALLBACK_SERVERS_ARE_DISTINCT, SERVERS_ARE_DISTINCT, rules,
};
use super::{ByteSize, Cache, PodSettings, RESOLVER_CACHE_SIZE, Upstream, schema};

/// The resolvers of a zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[CACHE_FITS_MEMORY, FALLBACK_IS_NO_UPSTREAM])))]
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
    /// Servers that the resolvers query while the upstreams are silent, in this order of preference: for a query that
    /// the upstreams before have not answered within their timeout, 350 ms for the first, and at once while none of the
    /// upstreams answers anything, or the packet budgets of all that do have no room. Otherwise they get no query,
    /// whatever the upstreams' answer is. That a name does not exist, or has no such record, is believed of them only
    /// where the upstreams' own answer is not known any more, and for 5 s. At most 8 entries. Default: none.
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "atomic",
        "x-kubernetes-validations" = rules(&[FALLBACK_SERVERS_ARE_DISTINCT])
    ))]
    pub fallback: Vec<Upstream>,
    /// Suffixes that only the upstreams answer correctly: domains of own networks, and DNS block lists that refuse
    /// public resolvers. Names at and below them are never sent to the fallback, and nodeCache.privateAnswers leaves
    /// their answers alone. Written as the suffix of a route; clusterDomain and names below it cannot be named. At most
    /// 64. Default: none.
    #[schemars(schema_with = "schema::private_suffixes")]
    pub private_suffixes: Vec<String>,
    /// Cache of each of the resolvers.
    pub cache: Cache,
    /// Settings of the resolver pods that the tier does not decide.
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
            fallback: Vec::new(),
            private_suffixes: Vec::new(),
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
    /// Queries to the upstreams.
    #[default]
    Forward,
}

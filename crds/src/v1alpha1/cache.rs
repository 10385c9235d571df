//! Cache settings of a resolver.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::validation::{DURATION, MAX_TTL, NEGATIVE_MAX_TTL, SERVE_STALE, SIZE, SIZE_IN_RANGE, rules};
use super::{ByteSize, Duration};

/// Default size of the cache of one instance on a node.
pub const NODE_CACHE_SIZE: ByteSize = ByteSize::mebibytes(64);
/// Default size of the cache of one resolver of a zone.
pub const RESOLVER_CACHE_SIZE: ByteSize = ByteSize::mebibytes(256);

/// Cache settings of a resolver. Durations are written as in `1h30m`, with the units h, m and s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cache {
    /// How many bytes of answers one process keeps, as a quantity (64Mi), 8Mi to 64Gi. Its container's memory limit
    /// follows from it. Default: 64Mi for each instance of nodeCache, 256Mi for each of the resolvers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules(&[SIZE, SIZE_IN_RANGE])))]
    pub size: Option<ByteSize>,
    /// The longest time that an answer is kept and shown as its TTL, 1s to 168h. A shorter TTL is obeyed. Default: 1h.
    #[schemars(extend("x-kubernetes-validations" = rules(&[DURATION, MAX_TTL])))]
    pub max_ttl: Duration,
    /// The longest time that a negative answer is kept, such as that a name does not exist (RFC 2308), 1s to 3h.
    /// Default: 30s.
    #[schemars(extend("x-kubernetes-validations" = rules(&[DURATION, NEGATIVE_MAX_TTL])))]
    pub negative_max_ttl: Duration,
    /// How long after its TTL an answer is still served while no upstream responds that could renew it (RFC 8767),
    /// 0s to 168h. 0s: never. Default: 24h.
    #[schemars(extend("x-kubernetes-validations" = rules(&[DURATION, SERVE_STALE])))]
    pub serve_stale: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            size: None,
            max_ttl: Duration::from_seconds(3600),
            negative_max_ttl: Duration::from_seconds(30),
            serve_stale: Duration::from_seconds(24 * 3600),
        }
    }
}

//! Configuration of DnsTier's resolvers in the benchmark.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// Returns a configuration with this upstream and these TTL limits, in seconds. The cluster DNS is at a port of
/// 127.0.0.1 where nothing listens.
pub(crate) fn json(upstream: SocketAddr, negative_max_ttl: u32, serve_stale: u32) -> Value {
    let cache = json!({ "maxTtl": 86400, "negativeMaxTtl": negative_max_ttl, "serveStale": serve_stale });
    json!({
        "tier": "default",
        "clusterDomain": "cluster.local",
        "clusterDns": { "bootstrap": ["127.0.0.1:9"], "service": "pods.kube-system.svc.cluster.local" },
        "nodeCache": {
            "captured": [{ "address": "169.254.20.10", "service": false }],
            "cache": cache,
            "allowFrom": ["127.0.0.0/8"],
        },
        "zones": [],
        "resolver": {
            "upstreams": { "servers": [{ "address": upstream }] },
            "cache": cache,
            "allowFrom": ["127.0.0.0/8"],
        },
    })
}

#[cfg(test)]
mod tests {
    use node_cache_config::Config;

    use super::json;

    #[test]
    fn the_configuration_can_be_read() {
        let config: Config = serde_json::from_value(json("127.0.0.1:53".parse().unwrap(), 30, 3600)).unwrap();
        assert_eq!((config.resolver.cache.negative_max_ttl, config.node_cache.cache.serve_stale), (30, 3600));
    }
}

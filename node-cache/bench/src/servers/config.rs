//! Configuration of DnsTier's resolvers in the benchmark.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use node_cache_config::{Cache, Config, UpstreamSource};

/// Longest TTL of a positive response, in seconds.
const MAX_TTL: u32 = 86_400;

/// Returns a configuration with this upstream and these TTL limits, in seconds. All of 127.0.0.0/8 may query.
pub(crate) fn configuration(upstream: SocketAddr, negative_max_ttl: u32, serve_stale: u32) -> Config {
    let cache = Cache { max_ttl: MAX_TTL, negative_max_ttl, serve_stale };
    let loopback = ipnet::IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
    let mut config = Config::example();
    config.node_cache.cache = cache.clone();
    config.node_cache.allow_from = vec![loopback];
    config.resolver.cache = cache;
    config.resolver.allow_from = vec![loopback];
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream.into()]);
    config
}

#[cfg(test)]
mod tests {
    use super::configuration;

    #[test]
    fn the_configuration_is_valid() {
        let config = configuration("127.0.0.1:53".parse().unwrap(), 30, 3600);
        config.validate().unwrap();
        assert_eq!((config.resolver.cache.negative_max_ttl, config.node_cache.cache.serve_stale), (30, 3600));
    }
}

//! The files in `examples/` are accepted by the programs that read them. `examples/dnstier.yaml` is applied in the lab.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use node_cache_config::{Config, UpstreamSource};

#[test]
fn the_configuration_that_make_resolver_runs_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/config.json");
    let json = std::fs::read(&path).unwrap();
    let config = Config::from_json(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(config.resolver.upstreams, UpstreamSource::ResolvConf);
    let loopback = ["127.0.0.0/8", "::1/128"].map(|network| network.parse().unwrap());
    assert_eq!(config.resolver.allow_from, loopback, "nobody but this host is answered");
}

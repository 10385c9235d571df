//! CoreDNS, of the version that the lab uses (`tests/programs/coredns`), in two roles: configured as fast as it can
//! be, and as NodeLocal DNSCache configures it on a node, which is CoreDNS with fewer plugins compiled in.

use super::{CACHE_BYTES, NAMES, Origin, Peer};

pub(super) const COREDNS: Peer = Peer {
    name: "CoreDNS",
    origin: Origin::Built("BENCH_COREDNS"),
    arguments: &["-conf", "CONFIG", "-quiet"],
    environment: &[("GOMAXPROCS", "1")],
    max_names: usize::MAX,
    names: NAMES,
    cache_bytes: CACHE_BYTES,
    // Names are spread over 256 shards by a hash, some of them fuller than others: `RECORDS` has room for all of them.
    configuration: "
.:PORT {
    bind 127.0.0.1
    multisocket 1
    cache 86400 {
        success RECORDS 86400
        denial RECORDS
    }
    forward . 127.0.0.1:UPSTREAM
}
",
};

/// Expires every entry after 30 seconds, however long its TTL is, and then queries its upstream again.
pub(super) const NODE_LOCAL: Peer = Peer {
    name: "CoreDNS as NodeLocal DNSCache",
    max_names: 9_984,
    configuration: "
.:PORT {
    errors
    cache {
        success 9984 30
        denial 9984 5
    }
    reload
    loop
    bind 127.0.0.1
    forward . 127.0.0.1:UPSTREAM
    prometheus 127.0.0.1:9253
}
",
    ..COREDNS
};

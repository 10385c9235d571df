//! CoreDNS, whose version is the one of the lab (`tests/programs/coredns`), in two roles: made as fast as it can be, and
//! as NodeLocal DNSCache configures it on a node, which is the same program with fewer plugins compiled in.

use super::{BYTES, NAMES, Origin, Peer};

pub(super) const COREDNS: Peer = Peer {
    name: "CoreDNS",
    origin: Origin::Built("BENCH_COREDNS"),
    arguments: &["-conf", "CONFIG", "-quiet"],
    environment: &[("GOMAXPROCS", "1")],
    most_names: usize::MAX,
    names: NAMES,
    bytes: BYTES,
    // Names fall into 256 shares, some into fuller ones: `RECORDS` is room enough for all of them.
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

/// It forgets what it knows after 30 seconds, however long that lives, and then asks again.
pub(super) const NODE_LOCAL: Peer = Peer {
    name: "CoreDNS as NodeLocal DNSCache",
    most_names: 9_984,
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

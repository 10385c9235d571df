//! hickory-server as a forwarder with one thread, in a program of our own (`tests/programs/hickory`).

use super::{CACHE_BYTES, NAMES, Origin, Peer};

pub(super) const HICKORY: Peer = Peer {
    name: "hickory-server",
    origin: Origin::Built("BENCH_HICKORY"),
    arguments: &["PORT", "UPSTREAM", "NAMES"],
    environment: &[],
    max_names: usize::MAX,
    names: NAMES,
    cache_bytes: CACHE_BYTES,
    configuration: "",
};

//! hickory-server as a forwarder: a program of our own around it (`tests/programs/hickory`), with one thread.

use super::{BYTES, NAMES, Origin, Peer};

pub(super) const HICKORY: Peer = Peer {
    name: "hickory-server",
    origin: Origin::Built("BENCH_HICKORY"),
    arguments: &["PORT", "UPSTREAM", "NAMES"],
    environment: &[],
    most_names: usize::MAX,
    names: NAMES,
    bytes: BYTES,
    configuration: "",
};

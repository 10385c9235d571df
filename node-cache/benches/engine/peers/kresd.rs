//! kresd, the Knot Resolver of CZ.NIC: one process, which forwards without validation, and without what it does beside. Without
//! a trust anchor its `FORWARD` does not validate either; `STUB` would ask again after five seconds, whatever the TTL says.

use super::{BYTES, NAMES, Origin, Peer};

pub(super) const KRESD: Peer = Peer {
    name: "kresd",
    origin: Origin::Debian("knot-resolver", "/usr/sbin/kresd"),
    arguments: &["--noninteractive", "--config=CONFIG", "FOLDER"],
    environment: &[],
    most_names: usize::MAX,
    names: NAMES,
    bytes: BYTES,
    configuration: "
net.listen('127.0.0.1', PORT)
cache.open(CACHE_BYTES, 'lmdb://FOLDER/cache')
trust_anchors.remove('.')
for _, module in ipairs({ 'ta_update', 'ta_sentinel', 'ta_signal_query', 'priming', 'detect_time_skew', 'detect_time_jump' }) do
    modules.unload(module)
end
policy.add(policy.all(policy.FORWARD('127.0.0.1@UPSTREAM')))
",
};

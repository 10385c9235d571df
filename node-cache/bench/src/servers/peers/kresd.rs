//! kresd, the Knot Resolver of CZ.NIC: one process, which forwards without validation, and without what it does beside.

use super::{BYTES, NAMES, Origin, Peer};

macro_rules! configuration {
    ($way:literal) => {
        concat!(
            "
net.listen('127.0.0.1', PORT)
cache.open(CACHE_BYTES, 'lmdb://FOLDER/cache')
trust_anchors.remove('.')
for _, module in ipairs({ 'ta_update', 'ta_sentinel', 'ta_signal_query', 'priming', 'detect_time_skew', 'detect_time_jump' }) do
    modules.unload(module)
end
policy.add(policy.all(policy.",
            $way,
            "('127.0.0.1@UPSTREAM')))
"
        )
    };
}

/// Without a trust anchor it does not validate what it forwards.
pub(super) const KRESD: Peer = Peer {
    name: "kresd",
    origin: Origin::Debian("knot-resolver", "/usr/sbin/kresd"),
    arguments: &["--noninteractive", "--config=CONFIG", "FOLDER"],
    environment: &[],
    most_names: usize::MAX,
    names: NAMES,
    bytes: BYTES,
    configuration: configuration!("FORWARD"),
};

/// For an upstream that knows only the names that are asked for: `FORWARD` also asks for those above them. It asks again after five
/// seconds, whatever the TTL says.
pub(super) const AS_A_STUB: &str = configuration!("STUB");

//! kresd, the Knot Resolver of CZ.NIC: one process, which forwards without validation and without background modules.

use super::{CACHE_BYTES, NAMES, Origin, Peer};

macro_rules! configuration {
    ($policy:literal) => {
        concat!(
            "
net.listen('127.0.0.1', PORT)
cache.open(CACHE_BYTES, 'lmdb://FOLDER/cache')
trust_anchors.remove('.')
for _, module in ipairs({
    'ta_update', 'ta_sentinel', 'ta_signal_query', 'priming', 'detect_time_skew', 'detect_time_jump',
}) do
    modules.unload(module)
end
policy.add(policy.all(policy.",
            $policy,
            "('127.0.0.1@UPSTREAM')))
"
        )
    };
}

/// Has no trust anchor, and so does not validate responses.
pub(super) const KRESD: Peer = Peer {
    name: "kresd",
    origin: Origin::Debian("knot-resolver", "/usr/sbin/kresd"),
    arguments: &["--noninteractive", "--config=CONFIG", "FOLDER"],
    environment: &[],
    max_names: usize::MAX,
    names: NAMES,
    cache_bytes: CACHE_BYTES,
    configuration: configuration!("FORWARD"),
};

/// Configuration for an upstream that knows only the names that are queried: `FORWARD` also queries their ancestors.
/// With `STUB`, kresd queries its upstream again after five seconds, whatever the TTL is.
pub(super) const STUB_CONFIGURATION: &str = configuration!("STUB");

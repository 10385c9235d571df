//! dnsmasq of Simon Kelley. Its hash table has a tenth as many buckets as its cache has records: with ten times as many
//! records as names, a bucket holds about one name.

use super::{CACHE_BYTES, NAMES, Origin, Peer};

pub(super) const DNSMASQ: Peer = Peer {
    name: "dnsmasq",
    origin: Origin::Debian("dnsmasq-base", "/usr/sbin/dnsmasq"),
    arguments: &["--keep-in-foreground", "--conf-file=CONFIG"],
    environment: &[],
    max_names: usize::MAX,
    names: NAMES,
    cache_bytes: CACHE_BYTES,
    configuration: "
port=PORT
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
cache-size=NAMES0
dns-forward-max=1000
server=127.0.0.1#UPSTREAM
user=root
log-facility=FOLDER/log
",
};

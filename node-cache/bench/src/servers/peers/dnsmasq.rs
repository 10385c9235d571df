//! dnsmasq of Simon Kelley. Its table has a tenth as many places as its cache has records: with ten times the room for names,
//! about one name is in each.

use super::{BYTES, NAMES, Origin, Peer};

pub(super) const DNSMASQ: Peer = Peer {
    name: "dnsmasq",
    origin: Origin::Debian("dnsmasq-base", "/usr/sbin/dnsmasq"),
    arguments: &["--keep-in-foreground", "--conf-file=CONFIG"],
    environment: &[],
    most_names: usize::MAX,
    names: NAMES,
    bytes: BYTES,
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

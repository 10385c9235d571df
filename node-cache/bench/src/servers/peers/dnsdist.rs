//! dnsdist of PowerDNS with its packet cache: by default, and reading 32 datagrams per system call.

use super::{CACHE_BYTES, NAMES, Origin, Peer};

pub(super) const DNSDIST: Peer = Peer {
    name: "dnsdist",
    origin: Origin::Debian("dnsdist", "/usr/bin/dnsdist"),
    arguments: &["--supervised", "--disable-syslog", "-C", "CONFIG"],
    environment: &[],
    max_names: usize::MAX,
    names: NAMES,
    cache_bytes: CACHE_BYTES,
    configuration: r#"
setLocal("127.0.0.1:PORT")
setACL({"127.0.0.0/8"})
setSecurityPollSuffix("")
newServer({address="127.0.0.1:UPSTREAM"}):setUp()
getPool(""):setCache(newPacketCache(RECORDS, {maxTTL=86400}))
"#,
};

pub(super) const DNSDIST_32: Peer = Peer {
    name: "dnsdist, 32 datagrams per call",
    configuration: r#"
setUDPMultipleMessagesVectorSize(32)
setLocal("127.0.0.1:PORT")
setACL({"127.0.0.0/8"})
setSecurityPollSuffix("")
newServer({address="127.0.0.1:UPSTREAM"}):setUp()
getPool(""):setCache(newPacketCache(RECORDS, {maxTTL=86400}))
"#,
    ..DNSDIST
};

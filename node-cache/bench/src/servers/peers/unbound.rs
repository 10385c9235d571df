//! unbound of NLnet Labs: one thread, no validation, and caches of one slab, since no other thread contends for their
//! locks.

use super::{CACHE_BYTES, NAMES, Origin, Peer};

pub(super) const UNBOUND: Peer = Peer {
    name: "unbound",
    origin: Origin::Debian("unbound", "/usr/sbin/unbound"),
    arguments: &["-d", "-c", "CONFIG"],
    environment: &[],
    max_names: usize::MAX,
    names: NAMES,
    cache_bytes: CACHE_BYTES,
    configuration: r#"
server:
    interface: 127.0.0.1@PORT
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    num-threads: 1
    module-config: "iterator"
    minimal-responses: yes
    rrset-roundrobin: no
    msg-cache-size: MESSAGE_BYTES
    msg-cache-slabs: 1
    rrset-cache-size: RRSET_BYTES
    rrset-cache-slabs: 1
    outgoing-range: 4096
    so-rcvbuf: 0
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "FOLDER"
    pidfile: ""
    use-syslog: no
    logfile: "FOLDER/log"
remote-control:
    control-enable: no
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@UPSTREAM
"#,
};

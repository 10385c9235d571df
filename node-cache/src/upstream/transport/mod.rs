//! Exchange of one query with one server: over UDP (socket pool, random ports, 0x20) or TCP (RFC 7766). A gate counts
//! the packets and takes them from the server's budget.

pub(super) mod gate;
pub(super) mod query_format;
pub(crate) mod socket_pool;
pub(super) mod sockets;
pub(super) mod tcp;
pub(super) mod timer;
pub(super) mod udp;

//! How a message gets to a server and back.

pub(crate) mod socket_pool;
pub(crate) mod sockets;
pub(super) mod tcp;
pub(super) mod timer;
pub(crate) mod udp;

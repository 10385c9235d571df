//! A socket for port 53 that the agent has bound and the instances read.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use node_cache_config::Protocol;

/// Bound, non-blocking socket for port 53 of one address. Clones share one open socket, as do all instances.
#[derive(Clone, Debug)]
pub struct HeldSocket {
    /// Captured address that the socket is bound to.
    pub address: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Descriptor of the socket. To register it with a runtime, duplicate it first (`OwnedFd::try_clone`).
    pub fd: Arc<OwnedFd>,
}

impl HeldSocket {
    /// Returns the socket cookie (`SO_COOKIE`), which the kernel gives each open socket: two descriptors have the same
    /// cookie exactly if they are of the same socket.
    ///
    /// # Errors
    ///
    /// The descriptor is not a socket.
    pub fn cookie(&self) -> std::io::Result<u64> {
        Ok(rustix::net::sockopt::socket_cookie(&*self.fd)?)
    }

    /// Returns whether both are the same open socket, bound to the same address and protocol; false when a cookie
    /// cannot be read.
    pub(crate) fn is_same_socket(&self, other: &Self) -> bool {
        self.address == other.address
            && self.protocol == other.protocol
            && matches!((self.cookie(), other.cookie()), (Ok(cookie), Ok(other_cookie)) if cookie == other_cookie)
    }
}

impl AsFd for HeldSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

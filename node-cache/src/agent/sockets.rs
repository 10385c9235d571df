//! Sockets for port 53 of the captured addresses.
//!
//! Each is bound to one address, never to the wildcard: responses leave from the address that was queried, and every
//! other service on port 53 of the node keeps its own socket. They can be bound before the address is on the node
//! (`IP_FREEBIND`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::libc;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use node_cache_config::names::DNS_PORT;
use rustix::net::sockopt as option;
use socket2::{Domain, Socket, Type};

use crate::handover::{HeldSocket, Protocol};

/// Receive buffer for packets that arrive while no cache reads, in bytes: some 100 ms at 50,000 queries per second.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// TCP connections that wait to be accepted.
const BACKLOG: i32 = 1024;

sockopt_impl!(
    /// Forbids every holder of the socket to attach a packet filter to it or to its group (`SO_LOCK_FILTER`).
    LockFilter, Both, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, bool
);

/// Failure to listen at an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen at {address} port {DNS_PORT} ({protocol:?}): {reason}")]
pub(crate) struct BindError {
    address: IpAddr,
    protocol: Protocol,
    reason: String,
}

/// Sockets of the node.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    held: Vec<HeldSocket>,
}

/// Result of [`Sockets::apply`].
#[derive(Debug)]
pub(crate) struct SocketChanges {
    /// Whether the set of sockets is another one now.
    pub(crate) changed: bool,
    /// Addresses that have no sockets, with the reason.
    pub(crate) errors: BTreeMap<IpAddr, BindError>,
}

impl Sockets {
    /// Adopts sockets that a cache offers: an earlier agent bound them. Only the first for an address and protocol is
    /// kept. Caches are less trusted than the agent, so each socket is checked.
    pub(crate) fn adopt(&mut self, offered: Vec<HeldSocket>) {
        for socket in offered {
            match is_bound_by_agent(&socket) {
                Ok(true) if self.find(socket.address, socket.protocol).is_none() => self.held.push(socket),
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(address = %socket.address, "a socket that a cache offered is not the agent's");
                }
                Err(error) => {
                    tracing::warn!(address = %socket.address, %error, "a socket that a cache offered cannot be used");
                }
            }
        }
    }

    /// Binds the sockets of the desired addresses and closes all others. An address of which one socket cannot be bound
    /// has none.
    pub(crate) fn apply(&mut self, desired: &BTreeSet<IpAddr>) -> SocketChanges {
        let before: Vec<(IpAddr, Protocol)> = self.names().collect();
        let mut errors = BTreeMap::new();
        self.held.retain(|socket| desired.contains(&socket.address));
        for &address in desired {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                if self.find(address, protocol).is_some() {
                    continue;
                }
                match bind(address, protocol) {
                    Ok(socket) => self.held.push(socket),
                    Err(error) => {
                        let reason = error.to_string();
                        errors.insert(address, BindError { address, protocol, reason });
                    }
                }
            }
        }
        self.held.retain(|socket| !errors.contains_key(&socket.address));
        self.held.sort_by_key(|socket| (socket.address, socket.protocol));
        SocketChanges { changed: !before.into_iter().eq(self.names()), errors }
    }

    /// Returns all sockets, ordered by address and protocol.
    #[must_use]
    pub(crate) fn held(&self) -> &[HeldSocket] {
        &self.held
    }

    fn find(&self, address: IpAddr, protocol: Protocol) -> Option<&HeldSocket> {
        self.held.iter().find(|socket| socket.address == address && socket.protocol == protocol)
    }

    fn names(&self) -> impl Iterator<Item = (IpAddr, Protocol)> {
        self.held.iter().map(|socket| (socket.address, socket.protocol))
    }
}

fn bind(address: IpAddr, protocol: Protocol) -> io::Result<HeldSocket> {
    let kind = match protocol {
        Protocol::Udp => Type::DGRAM,
        Protocol::Tcp => Type::STREAM,
    };
    let local = SocketAddr::new(address, DNS_PORT);
    let socket = Socket::new(Domain::for_address(local), kind.nonblocking().cloexec(), None)?;
    // A new pod binds beside the one that it replaces.
    socket.set_reuse_port(true)?;
    match address {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier listener may still be in TIME-WAIT.
        socket.set_reuse_address(true)?;
    }
    nix::sys::socket::setsockopt(&socket, LockFilter, &true)?;
    if option::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    }
    socket.bind(&local.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(HeldSocket { address, protocol, fd: Arc::new(OwnedFd::from(socket)) })
}

/// Returns whether [`bind`] made a socket: a cache cannot bind port 53, and neither the name of a socket nor the lock
/// on its filters can be changed afterwards.
fn is_bound_by_agent(held: &HeldSocket) -> io::Result<bool> {
    let socket = socket2::SockRef::from(held);
    let is_listener = socket.is_listener()?;
    let is_kind = match held.protocol {
        Protocol::Udp => socket.r#type()? == Type::DGRAM && !is_listener,
        Protocol::Tcp => socket.r#type()? == Type::STREAM && is_listener,
    };
    let local = socket.local_addr()?.as_socket();
    let is_unconnected = socket.peer_addr().is_err();
    let is_locked = nix::sys::socket::getsockopt(held, LockFilter)?;
    Ok(is_kind && is_locked && is_unconnected && local == Some(SocketAddr::new(held.address, DNS_PORT)))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::require::{port_53, require};

    // An address of the loopback network that nothing else listens on.
    const ADDRESS: &str = "127.53.53.53";

    fn desired(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn sockets_follow_the_addresses_and_outlive_the_agent_that_bound_them() {
        require!(port_53());
        let mut first = Sockets::default();
        let SocketChanges { changed, errors } = first.apply(&desired(&[ADDRESS, "fd53::53"]));
        assert!(changed && errors.is_empty(), "{errors:?}");
        assert_eq!(first.held().len(), 4);
        assert!(!first.apply(&desired(&[ADDRESS, "fd53::53"])).changed);
        let cookies: Vec<u64> = first.held().iter().map(|socket| socket.cookie().unwrap()).collect();

        let mut second = Sockets::default();
        second.adopt(first.held().to_vec());
        second.adopt(first.held().to_vec());
        drop(first);
        assert!(!second.apply(&desired(&[ADDRESS, "fd53::53"])).changed);
        assert_eq!(second.held().iter().map(|socket| socket.cookie().unwrap()).collect::<Vec<_>>(), cookies);
        assert!(second.apply(&desired(&["fd53::53"])).changed);
        assert_eq!(second.held().len(), 2);
    }

    #[test]
    fn a_socket_that_somebody_else_made_is_not_adopted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let held = HeldSocket {
            address: "127.0.0.1".parse().unwrap(),
            protocol: Protocol::Udp,
            fd: Arc::new(OwnedFd::from(socket)),
        };
        let mut sockets = Sockets::default();
        sockets.adopt(vec![held]);
        assert!(sockets.held().is_empty());
    }

    #[test]
    fn nobody_can_filter_what_arrives_at_a_socket() {
        require!(port_53());
        let held = bind("127.53.53.54".parse().unwrap(), Protocol::Udp).unwrap();
        let drop_all = socket2::SockFilter::new(0x06, 0, 0, 0);
        let refused = socket2::SockRef::from(&held).attach_filter(&[drop_all]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn an_address_that_is_taken_is_told_in_one_sentence() {
        require!(port_53());
        let taken: IpAddr = "127.53.53.55".parse().unwrap();
        let _other = UdpSocket::bind((taken, DNS_PORT)).unwrap();
        let mut sockets = Sockets::default();
        let SocketChanges { changed, errors } = sockets.apply(&BTreeSet::from([taken]));
        assert!(!changed && sockets.held().is_empty());
        assert_eq!(
            errors[&taken].to_string(),
            "cannot listen at 127.53.53.55 port 53 (Udp): Address already in use (os error 98)"
        );
    }
}

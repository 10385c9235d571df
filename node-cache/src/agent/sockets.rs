//! The sockets for port 53 of the captured addresses.
//!
//! Each is bound to one address and never to all of them: answers leave from the address that was asked, and every
//! other service at port 53 of the node keeps its own. They can be bound before the address is on the node.

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

/// Room for what arrives while no instance reads, in bytes: at 50,000 queries a second some 100 ms.
const RECEIVE_BUFFER: usize = 4 << 20;
/// TCP connections that wait to be accepted.
const BACKLOG: i32 = 1024;

sockopt_impl!(
    /// Forbids everybody who is handed the socket to put a packet filter on it, or on its group (`SO_LOCK_FILTER`).
    LockFilter, Both, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, bool
);

/// Why an address cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen at {address} port {DNS_PORT} ({protocol:?}): {reason}")]
pub struct BindError {
    address: IpAddr,
    protocol: Protocol,
    reason: String,
}

/// All sockets of the node.
#[derive(Debug, Default)]
pub struct Sockets {
    held: Vec<HeldSocket>,
}

impl Sockets {
    /// Takes in what an instance offers: sockets that an earlier agent bound, for addresses that nobody offered yet.
    /// Instances are less trusted than the agent, so each socket is looked at.
    pub fn adopt(&mut self, offered: Vec<HeldSocket>) {
        for socket in offered {
            match is_ours(&socket) {
                Ok(true) if self.find(socket.address, socket.protocol).is_none() => self.held.push(socket),
                Ok(true) => {}
                Ok(false) => tracing::warn!("a socket that was offered for {} is not ours", socket.address),
                Err(error) => tracing::warn!("a socket that was offered for {} is of no use: {error}", socket.address),
            }
        }
    }

    /// Closes the sockets of every other address and binds those that are missing. An address of which a socket
    /// cannot be bound has none. True when the set changed.
    pub fn arrange(&mut self, wanted: &BTreeSet<IpAddr>) -> (bool, BTreeMap<IpAddr, BindError>) {
        let before: Vec<(IpAddr, Protocol)> = self.names().collect();
        let mut problems = BTreeMap::new();
        self.held.retain(|socket| wanted.contains(&socket.address));
        for &address in wanted {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                if self.find(address, protocol).is_some() {
                    continue;
                }
                match bind(address, protocol) {
                    Ok(socket) => self.held.push(socket),
                    Err(error) => {
                        let reason = error.to_string();
                        problems.insert(address, BindError { address, protocol, reason });
                    }
                }
            }
        }
        self.held.retain(|socket| !problems.contains_key(&socket.address));
        self.held.sort_by_key(|socket| (socket.address, socket.protocol));
        (!before.into_iter().eq(self.names()), problems)
    }

    /// All of them, ordered by address.
    #[must_use]
    pub fn held(&self) -> &[HeldSocket] {
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
    // A pod that takes over from another one binds beside it.
    socket.set_reuse_port(true)?;
    match address {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier listener may still be waiting for their end.
        socket.set_reuse_address(true)?;
    }
    nix::sys::socket::setsockopt(&socket, LockFilter, &true)?;
    if option::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.bind(&local.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(HeldSocket { address, protocol, fd: Arc::new(OwnedFd::from(socket)) })
}

/// Whether a socket is one that [`bind`] made: port 53 cannot be bound by an instance, and neither the name of a
/// socket nor the lock on its filters can be changed afterwards.
fn is_ours(held: &HeldSocket) -> io::Result<bool> {
    let socket = socket2::SockRef::from(held);
    let listens = socket.is_listener()?;
    let kind = match held.protocol {
        Protocol::Udp => socket.r#type()? == Type::DGRAM && !listens,
        Protocol::Tcp => socket.r#type()? == Type::STREAM && listens,
    };
    let local = socket.local_addr()?.as_socket();
    let unconnected = socket.peer_addr().is_err();
    let locked = nix::sys::socket::getsockopt(held, LockFilter)?;
    Ok(kind && locked && unconnected && local == Some(SocketAddr::new(held.address, DNS_PORT)))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::require::{port_53, require};

    // An address of the loopback network that nothing else listens on.
    const ADDRESS: &str = "127.53.53.53";

    fn wanted(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn sockets_follow_the_addresses_and_outlive_the_agent_that_bound_them() {
        require!(port_53());
        let mut first = Sockets::default();
        let (changed, problems) = first.arrange(&wanted(&[ADDRESS, "fd53::53"]));
        assert!(changed && problems.is_empty(), "{problems:?}");
        assert_eq!(first.held().len(), 4);
        assert!(!first.arrange(&wanted(&[ADDRESS, "fd53::53"])).0);
        let cookies: Vec<u64> = first.held().iter().map(|socket| socket.cookie().unwrap()).collect();

        let mut second = Sockets::default();
        second.adopt(first.held().to_vec());
        second.adopt(first.held().to_vec());
        drop(first);
        assert!(!second.arrange(&wanted(&[ADDRESS, "fd53::53"])).0);
        assert_eq!(second.held().iter().map(|socket| socket.cookie().unwrap()).collect::<Vec<_>>(), cookies);
        assert!(second.arrange(&wanted(&["fd53::53"])).0);
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
        let (changed, problems) = sockets.arrange(&BTreeSet::from([taken]));
        assert!(!changed && sockets.held().is_empty());
        assert_eq!(
            problems[&taken].to_string(),
            "cannot listen at 127.53.53.55 port 53 (Udp): Address already in use (os error 98)"
        );
    }
}

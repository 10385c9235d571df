//! Sockets for port 53 of the captured addresses.
//!
//! Each is bound to one address, never to the wildcard: responses leave from the address that was queried, and every
//! other service on port 53 of the node keeps its own socket. They can be bound before the address is on the node
//! (`IP_FREEBIND`).
//!
//! The caches hold the same sockets. One that was taken over can set options of a socket, which then outlast it. So
//! every pass compares each socket with a fresh one, replaces a socket that was changed, and retires it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::libc;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use node_cache_config::names::DNS_PORT;
use rustix::net::sockopt as option;
use socket2::{Domain, Socket, Type};

use super::socket_options::SocketOptions;
use crate::handover::{HeldSocket, Protocol};

/// Receive buffer for packets that arrive while no cache reads, in bytes: some 100 ms at 50,000 queries per second.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// TCP connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Port that retired UDP sockets are connected to (discard, RFC 863): nothing arrives from there.
const DISCARD_PORT: u16 = 9;

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
    /// Sockets that are not used any more, to be retired as soon as others are bound in their place.
    discarded: Vec<HeldSocket>,
}

/// Result of [`Sockets::apply`].
#[derive(Debug)]
pub(crate) struct SocketChanges {
    /// Whether the set of sockets is another one now.
    pub(crate) changed: bool,
    /// Number of sockets that were discarded because they were changed or silent.
    pub(crate) discarded: usize,
    /// Addresses that have no sockets, with the reason.
    pub(crate) errors: BTreeMap<IpAddr, BindError>,
}

impl Sockets {
    /// Adopts sockets that a cache offers: an earlier agent bound them. Only the first for an address and protocol is
    /// kept. Caches are less trusted than the agent, so each socket is checked.
    pub(crate) fn adopt(&mut self, offered: Vec<HeldSocket>) {
        for socket in offered {
            match is_bound_by_agent(&socket) {
                Ok(true) if self.is_held(&socket) => {}
                Ok(true) if is_unchanged(&socket) => {
                    if self.find(socket.address, socket.protocol).is_none() {
                        self.held.push(socket);
                    }
                }
                Ok(true) => self.discarded.push(socket),
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
    /// has none. A socket that a process changed is replaced.
    pub(crate) fn apply(&mut self, desired: &BTreeSet<IpAddr>) -> SocketChanges {
        let before: Vec<(IpAddr, Protocol)> = self.names().collect();
        let mut errors = BTreeMap::new();
        self.held.retain(|socket| desired.contains(&socket.address));
        self.discarded.extend(self.held.extract_if(.., |socket| !is_unchanged(socket)));
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
        let discarded = self.discarded.len();
        for socket in self.discarded.drain(..) {
            retire(&socket);
        }
        SocketChanges { changed: discarded > 0 || !before.into_iter().eq(self.names()), discarded, errors }
    }

    /// Discards the sockets of addresses at which nothing answers; [`Sockets::apply`] binds others. Not everything that
    /// a process can do to a socket can be read from it.
    pub(crate) fn discard(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.discarded.extend(self.held.extract_if(.., |socket| addresses.contains(&socket.address)));
    }

    /// Returns all sockets, ordered by address and protocol.
    #[must_use]
    pub(crate) fn held(&self) -> &[HeldSocket] {
        &self.held
    }

    fn find(&self, address: IpAddr, protocol: Protocol) -> Option<&HeldSocket> {
        self.held.iter().find(|socket| socket.address == address && socket.protocol == protocol)
    }

    fn is_held(&self, socket: &HeldSocket) -> bool {
        self.held.iter().chain(&self.discarded).any(|held| held.is_same_socket(socket))
    }

    fn names(&self) -> impl Iterator<Item = (IpAddr, Protocol)> {
        self.held.iter().map(|socket| (socket.address, socket.protocol))
    }
}

fn bind(address: IpAddr, protocol: Protocol) -> io::Result<HeldSocket> {
    let socket = unbound_socket(address, protocol)?;
    socket.bind(&SocketAddr::new(address, DNS_PORT).into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(HeldSocket { address, protocol, fd: Arc::new(OwnedFd::from(socket)) })
}

/// Makes a socket with all options that the sockets of the node have.
fn unbound_socket(address: IpAddr, protocol: Protocol) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Udp => Type::DGRAM,
        Protocol::Tcp => Type::STREAM,
    };
    let domain = Domain::for_address(SocketAddr::new(address, DNS_PORT));
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)?;
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
    Ok(socket)
}

/// Returns whether [`bind`] made a socket: a cache cannot bind port 53, and neither the name of a socket nor the lock
/// on its filters can be changed afterwards.
fn is_bound_by_agent(held: &HeldSocket) -> io::Result<bool> {
    let socket = socket2::SockRef::from(held);
    let kind = match held.protocol {
        Protocol::Udp => Type::DGRAM,
        Protocol::Tcp => Type::STREAM,
    };
    let local = socket.local_addr()?.as_socket();
    let is_locked = nix::sys::socket::getsockopt(held, LockFilter)?;
    Ok(socket.r#type()? == kind && is_locked && local == Some(SocketAddr::new(held.address, DNS_PORT)))
}

/// Returns whether a socket is as [`bind`] made it; logs what differs. True when no fresh socket can be made to compare
/// it with.
fn is_unchanged(held: &HeldSocket) -> bool {
    let HeldSocket { address, protocol, .. } = held;
    let Ok(fresh) = unbound_socket(*address, *protocol) else { return true };
    let mut differences = SocketOptions::read(held).differences(&SocketOptions::read(&fresh));
    let socket = socket2::SockRef::from(held);
    if socket.peer_addr().is_ok() {
        differences.push("Peer");
    }
    if socket.is_listener().ok() != Some(*protocol == Protocol::Tcp) {
        differences.push("Listener");
    }
    if !differences.is_empty() {
        tracing::error!(%address, ?protocol, ?differences, "a process of this pod changed a socket; it is made anew");
    }
    differences.is_empty()
}

/// Makes a socket receive nothing any more, for all who hold it. Closing it would not: a process that was taken over
/// keeps its descriptor, and the kernel would go on to give the socket a share of the queries (`SO_REUSEPORT`).
///
/// A holder can undo this, for as long as it runs.
fn retire(held: &HeldSocket) {
    let result = match held.protocol {
        // A listener ends. A socket that is none already has nothing to end.
        Protocol::Tcp => socket2::SockRef::from(held).shutdown(Shutdown::Both).or_else(|error| match error.kind() {
            io::ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        }),
        Protocol::Udp => connect_to_nothing(held),
    };
    if let Err(error) = result {
        tracing::warn!(address = %held.address, %error, "a socket cannot be retired while a cache holds it");
    }
}

/// Connects a UDP socket to the discard port: a connected socket receives from its peer alone.
fn connect_to_nothing(held: &HeldSocket) -> io::Result<()> {
    // Also takes the socket from the device that it is bound to.
    rustix::net::connect_unspec(held)?;
    let loopback = match held.address {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    let connect = |peer| rustix::net::connect(held, &SocketAddr::new(peer, DISCARD_PORT));
    Ok(connect(loopback).or_else(|_| connect(held.address))?)
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
        let SocketChanges { changed, errors, .. } = first.apply(&desired(&[ADDRESS, "fd53::53"]));
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

    type Change = fn(&socket2::SockRef<'_>);

    /// Ways in which a holder of a UDP socket can change it, without any capability.
    const WAYS_TO_CHANGE_DATAGRAMS: [(&str, Change); 8] = [
        ("BoundDevice", |socket| socket.bind_device(Some(b"lo")).unwrap()),
        ("Segment", |socket| set_udp_option(socket, libc::UDP_SEGMENT, 1)),
        ("Cork", |socket| set_udp_option(socket, libc::UDP_CORK, 1)),
        ("Encapsulation", |socket| set_udp_option(socket, libc::UDP_ENCAP, 2)),
        ("ReceiveOffload", |socket| set_udp_option(socket, libc::UDP_GRO, 1)),
        ("ReceiveBuffer", |socket| socket.set_recv_buffer_size(1).unwrap()),
        ("Ttl", |socket| socket.set_ttl_v4(1).unwrap()),
        ("Peer", |socket| socket.connect(&SocketAddr::from(([127, 0, 0, 1], 7)).into()).unwrap()),
    ];

    fn set_udp_option(socket: &socket2::SockRef<'_>, option: i32, value: i32) {
        sockopt_impl!(Segment, SetOnly, libc::SOL_UDP, libc::UDP_SEGMENT, i32);
        sockopt_impl!(Cork, SetOnly, libc::SOL_UDP, libc::UDP_CORK, i32);
        sockopt_impl!(Encapsulation, SetOnly, libc::SOL_UDP, libc::UDP_ENCAP, i32);
        sockopt_impl!(Offload, SetOnly, libc::SOL_UDP, libc::UDP_GRO, i32);
        let set = match option {
            libc::UDP_SEGMENT => nix::sys::socket::setsockopt(&**socket, Segment, &value),
            libc::UDP_CORK => nix::sys::socket::setsockopt(&**socket, Cork, &value),
            libc::UDP_ENCAP => nix::sys::socket::setsockopt(&**socket, Encapsulation, &value),
            _ => nix::sys::socket::setsockopt(&**socket, Offload, &value),
        };
        set.unwrap();
    }

    /// Sends datagrams from many ports and returns how many of them arrive at `socket`.
    fn count_received(socket: &HeldSocket) -> usize {
        let mut bytes = [std::mem::MaybeUninit::uninit(); 16];
        let receive = |client: UdpSocket| {
            client.send_to(b"x", (socket.address, DNS_PORT)).unwrap();
            socket2::SockRef::from(socket).recv(&mut bytes).is_ok()
        };
        (0..32).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).map(receive).filter(|received| *received).count()
    }

    #[test]
    fn a_socket_that_a_cache_changed_is_made_anew_and_takes_no_query_while_the_cache_holds_it() {
        require!(port_53());
        let address = "127.53.53.56";
        for (name, change) in WAYS_TO_CHANGE_DATAGRAMS {
            let mut sockets = Sockets::default();
            assert!(sockets.apply(&desired(&[address])).changed);
            assert_eq!(sockets.apply(&desired(&[address])).discarded, 0, "nothing was changed");
            let hijacked = sockets.held()[0].clone();
            change(&socket2::SockRef::from(&hijacked));
            let changes = sockets.apply(&desired(&[address]));
            assert!(changes.changed && changes.errors.is_empty(), "{name}: {:?}", changes.errors);
            assert_eq!((changes.discarded, sockets.held().len()), (1, 2), "{name}");
            let fresh = sockets.held().iter().find(|socket| socket.protocol == Protocol::Udp).unwrap();
            assert_ne!(fresh.cookie().unwrap(), hijacked.cookie().unwrap());
            assert_eq!(count_received(fresh), 32, "{name}: the old socket still takes a share");
            assert_eq!(sockets.apply(&desired(&[address])).discarded, 0, "{name}: the new one is as it should be");
            drop(hijacked);
        }
    }

    #[test]
    fn a_listener_that_a_cache_ended_or_bound_to_a_device_is_made_anew() {
        require!(port_53());
        let address = "127.53.53.57";
        let ways: [Change; 2] =
            [|socket| socket.shutdown(Shutdown::Both).unwrap(), |socket| socket.bind_device(Some(b"lo")).unwrap()];
        for change in ways {
            let mut sockets = Sockets::default();
            assert!(sockets.apply(&desired(&[address])).changed);
            let hijacked = sockets.held().iter().find(|socket| socket.protocol == Protocol::Tcp).unwrap().clone();
            change(&socket2::SockRef::from(&hijacked));
            assert_eq!(sockets.apply(&desired(&[address])).discarded, 1);
            let fresh = sockets.held().iter().find(|socket| socket.protocol == Protocol::Tcp).unwrap();
            for _ in 0..16 {
                let _client = std::net::TcpStream::connect((address, DNS_PORT)).unwrap();
                assert!(socket2::SockRef::from(fresh).accept().is_ok(), "the old listener still takes a share");
            }
        }
    }

    #[test]
    fn a_changed_socket_is_not_adopted_by_an_agent_that_starts() {
        require!(port_53());
        let address = "127.53.53.58";
        let mut first = Sockets::default();
        assert!(first.apply(&desired(&[address])).changed);
        let offered = first.held().to_vec();
        drop(first);
        socket2::SockRef::from(&offered[0]).bind_device(Some(b"lo")).unwrap();
        let mut second = Sockets::default();
        second.adopt(offered.clone());
        second.adopt(offered.clone());
        assert_eq!(second.held().len(), 1);
        assert_eq!(second.apply(&desired(&[address])).discarded, 1);
        let fresh = second.held().iter().find(|socket| socket.protocol == Protocol::Udp).unwrap();
        assert_eq!(count_received(fresh), 32);
    }

    #[test]
    fn sockets_of_an_address_that_stays_silent_are_made_anew() {
        require!(port_53());
        let address = "127.53.53.59";
        let mut sockets = Sockets::default();
        assert!(sockets.apply(&desired(&[address])).changed);
        let held = sockets.held().to_vec();
        sockets.discard(&desired(&[address]));
        let changes = sockets.apply(&desired(&[address]));
        assert!(changes.changed);
        assert_eq!((changes.discarded, sockets.held().len()), (2, 2));
        assert!(sockets.held().iter().all(|socket| held.iter().all(|old| !old.is_same_socket(socket))));
        assert_eq!(count_received(sockets.held().iter().find(|s| s.protocol == Protocol::Udp).unwrap()), 32);
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
        let SocketChanges { changed, errors, .. } = sockets.apply(&BTreeSet::from([taken]));
        assert!(!changed && sockets.held().is_empty());
        assert_eq!(
            errors[&taken].to_string(),
            "cannot listen at 127.53.53.55 port 53 (Udp): Address already in use (os error 98)"
        );
    }
}

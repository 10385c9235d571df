//! Options of a socket that every holder of its descriptor may set, compared with those of a fresh socket.
//!
//! Caches hold the sockets of the node and are less trusted than the agent. A cache that was taken over may bind a
//! socket to one device, cork it, cut its datagrams into segments or connect it: options belong to the socket, so they
//! would outlast the process. [`SO_LOCK_FILTER`](nix::libc::SO_LOCK_FILTER) guards the packet filters alone.

use std::ffi::OsString;
use std::os::fd::AsFd;

use nix::libc;
use nix::sys::socket::sockopt::GetOsString;
use nix::{getsockopt_impl, sockopt_impl};

// Options that the libc crate does not name, from <asm-generic/socket.h>, <linux/in.h> and <linux/in6.h>.
const SO_BINDTOIFINDEX: i32 = 62;
const IP_UNICAST_IF: i32 = 50;
const IPV6_MINHOPCOUNT: i32 = 73;
const IPV6_UNICAST_IF: i32 = 76;

/// Options of a socket: the names and values, as text. An option that the socket does not have has the error as value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketOptions(Vec<(&'static str, String)>);

/// Declares the options and the function that reads all of them.
macro_rules! options {
    ($($name:ident = $level:path, $option:path, [$($type:tt)+];)+) => {
        mod option {
            use super::*;
            $(sockopt_impl!($name, GetOnly, $level, $option, $($type)+);)+
        }

        impl SocketOptions {
            /// Reads the options of a socket. Reading changes none of them.
            pub(super) fn read(socket: &impl AsFd) -> Self {
                Self(vec![$((stringify!($name), format!("{:?}", read(socket, option::$name))),)+])
            }
        }
    };
}

fn read<O: nix::sys::socket::GetSockOpt>(socket: &impl AsFd, option: O) -> Result<O::Val, nix::Error> {
    nix::sys::socket::getsockopt(socket, option)
}

impl SocketOptions {
    /// Returns the names of the options whose values differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&other.0);
        pairs.filter(|(own, other)| own != other).map(|((name, _), _)| *name).collect()
    }
}

// Left out: options that the kernel changes by itself (SO_INCOMING_CPU), that matter to blocking calls alone, or whose
// value cannot be read (TCP_MD5SIG, IPV6_PKTINFO, IPV6_RTHDR).
options! {
    BoundDevice = libc::SOL_SOCKET, SO_BINDTOIFINDEX, [i32];
    Mark = libc::SOL_SOCKET, libc::SO_MARK, [i32];
    Priority = libc::SOL_SOCKET, libc::SO_PRIORITY, [i32];
    TransportProtocol = libc::SOL_SOCKET, libc::SO_PROTOCOL, [i32];
    ReceiveBuffer = libc::SOL_SOCKET, libc::SO_RCVBUF, [i32];
    SendBuffer = libc::SOL_SOCKET, libc::SO_SNDBUF, [i32];
    ReceiveLowWatermark = libc::SOL_SOCKET, libc::SO_RCVLOWAT, [i32];
    DontRoute = libc::SOL_SOCKET, libc::SO_DONTROUTE, [i32];
    ReusePort = libc::SOL_SOCKET, libc::SO_REUSEPORT, [i32];
    KeepAlive = libc::SOL_SOCKET, libc::SO_KEEPALIVE, [i32];
    Linger = libc::SOL_SOCKET, libc::SO_LINGER, [u64];
    BusyPoll = libc::SOL_SOCKET, libc::SO_BUSY_POLL, [i32];
    MaxPacingRate = libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, [i32];
    Timestamping = libc::SOL_SOCKET, libc::SO_TIMESTAMPING, [i32];
    Ttl = libc::IPPROTO_IP, libc::IP_TTL, [i32];
    TypeOfService = libc::IPPROTO_IP, libc::IP_TOS, [i32];
    MinTtl = libc::IPPROTO_IP, libc::IP_MINTTL, [i32];
    MtuDiscovery = libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, [i32];
    ReceiveErrors = libc::IPPROTO_IP, libc::IP_RECVERR, [i32];
    Transparent = libc::IPPROTO_IP, libc::IP_TRANSPARENT, [i32];
    FreeBind = libc::IPPROTO_IP, libc::IP_FREEBIND, [i32];
    UnicastInterface = libc::IPPROTO_IP, IP_UNICAST_IF, [i32];
    Options = libc::IPPROTO_IP, libc::IP_OPTIONS, [OsString, GetOsString<[u8; 40]>];
    HopLimit6 = libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, [i32];
    TrafficClass6 = libc::IPPROTO_IPV6, libc::IPV6_TCLASS, [i32];
    MinHopCount6 = libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, [i32];
    UnicastInterface6 = libc::IPPROTO_IPV6, IPV6_UNICAST_IF, [i32];
    MtuDiscovery6 = libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, [i32];
    DontFragment6 = libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, [i32];
    ReceiveErrors6 = libc::IPPROTO_IPV6, libc::IPV6_RECVERR, [i32];
    Cork = libc::IPPROTO_UDP, libc::UDP_CORK, [i32];
    Encapsulation = libc::IPPROTO_UDP, libc::UDP_ENCAP, [i32];
    NoChecksum6 = libc::IPPROTO_UDP, libc::UDP_NO_CHECK6_TX, [i32];
    Segment = libc::IPPROTO_UDP, libc::UDP_SEGMENT, [i32];
    ReceiveOffload = libc::IPPROTO_UDP, libc::UDP_GRO, [i32];
    NoDelay = libc::IPPROTO_TCP, libc::TCP_NODELAY, [i32];
    MaxSegment = libc::IPPROTO_TCP, libc::TCP_MAXSEG, [i32];
    TcpCork = libc::IPPROTO_TCP, libc::TCP_CORK, [i32];
    DeferAccept = libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, [i32];
    WindowClamp = libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, [i32];
    UserTimeout = libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, [i32];
    FastOpen = libc::IPPROTO_TCP, libc::TCP_FASTOPEN, [i32];
    UnsentLowWatermark = libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, [i32];
}

//! Holder of the sockets of a node cache: the agent's part of the handover, without capture and without rules. A
//! process of its own in the namespace of a node.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use node_cache::handover::server::Server;
use node_cache::handover::{HeldSocket, Protocol, socket_path};

/// Receive buffer of the UDP socket, in bytes, as the agent sets it.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Hands the sockets of port 53 at an address to the cache that runs in this directory, until the process is killed.
pub(crate) fn hold(address: &str, run_dir: &str) {
    let address: IpAddr = address.parse().unwrap();
    let udp = UdpSocket::bind((address, 53)).unwrap();
    let _ = setsockopt(&udp, RcvBufForce, &RECEIVE_BUFFER);
    udp.set_nonblocking(true).unwrap();
    let tcp = TcpListener::bind((address, 53)).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let held = |protocol, fd: OwnedFd| HeldSocket { address, protocol, fd: Arc::new(fd) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::bind(&socket_path(Path::new(run_dir)), 1).unwrap();
        server.publish(vec![held(Protocol::Udp, udp.into()), held(Protocol::Tcp, tcp.into())]);
        std::future::pending::<()>().await;
    });
}

//! The sockets for port 53 belong to the node and not to a process: the agent binds them and hands them to every
//! instance, which offers them back when the agent was restarted. Beside them goes the secret of the node's cookies.
//!
//! ```text
//! instance ── Hello {version, instance, held} + the sockets it holds ──► agent        after every connect
//!          ◄── Sockets {version, sockets, secret} + all of them ────────             and whenever any of it changes
//!          ◄── Refused {version, reason}, then closed ─────────────────
//! ```
//!
//! One Unix stream socket in the directory that the containers of a pod share carries it. It has a path and is not
//! abstract, because every pod in the host's network could take an abstract name first.

pub mod client;
mod frame;
pub mod server;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use frame::FrameError;

use crate::dns::cookie_secret::Secret;

/// The version of the messages. Both sides come from one pod, so a difference means a pod put together wrongly.
pub const VERSION: u32 = 2;

/// Where in the run directory the agent listens.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("sockets.sock")
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// A datagram socket.
    #[serde(rename = "UDP")]
    Udp,
    /// A listening stream socket.
    #[serde(rename = "TCP")]
    Tcp,
}

/// A bound socket for port 53 of one address, non-blocking. Clones share one open socket, as do all instances.
#[derive(Clone, Debug)]
pub struct HeldSocket {
    /// The captured address that it is bound to.
    pub address: IpAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// The socket. Whoever wants to register it with a runtime duplicates it first (`OwnedFd::try_clone`).
    pub fd: Arc<OwnedFd>,
}

impl HeldSocket {
    /// The kernel's number of the open socket: equal for two descriptors exactly if they are the same socket.
    ///
    /// # Errors
    ///
    /// The descriptor is not a socket.
    pub fn cookie(&self) -> std::io::Result<u64> {
        Ok(rustix::net::sockopt::socket_cookie(&*self.fd)?)
    }
}

impl AsFd for HeldSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a socket is named in a message; its descriptor travels beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SocketName {
    address: IpAddr,
    protocol: Protocol,
}

/// What is said over the Unix socket. Descriptors travel in the order of the list that names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Message {
    /// An instance says who it is and offers what it holds.
    Hello { version: u32, instance: String, held: Vec<SocketName> },
    /// The agent says what there is; what is not named is to be closed.
    Sockets { version: u32, sockets: Vec<SocketName>, secret: Secret },
    /// The agent will not deal with this instance.
    Refused { version: u32, reason: String },
}

fn names(sockets: &[HeldSocket]) -> Vec<SocketName> {
    sockets.iter().map(|socket| SocketName { address: socket.address, protocol: socket.protocol }).collect()
}

fn borrowed(sockets: &[HeldSocket]) -> Vec<BorrowedFd<'_>> {
    sockets.iter().map(AsFd::as_fd).collect()
}

/// Puts names and descriptors together again. Their number was compared when the frame was read.
fn held(names: &[SocketName], fds: Vec<OwnedFd>) -> Vec<HeldSocket> {
    names
        .iter()
        .zip(fds)
        .map(|(name, fd)| HeldSocket { address: name.address, protocol: name.protocol, fd: Arc::new(fd) })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use tokio::net::UnixStream;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::client::Client;
    use super::server::Server;
    use super::*;
    use crate::dns::Cookie;
    use crate::dns::cookie_secret::CookieReply;

    const SOON: Duration = Duration::from_secs(3);

    fn socket() -> HeldSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = Arc::new(OwnedFd::from(socket));
        HeldSocket { address: "127.0.0.1".parse().unwrap(), protocol: Protocol::Udp, fd }
    }

    async fn until<T>(watched: &mut watch::Receiver<T>, good: impl FnMut(&T) -> bool) {
        timeout(SOON, watched.wait_for(good)).await.expect("in time").expect("the sender lives");
    }

    #[tokio::test]
    async fn every_instance_reads_the_same_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        // An instance may be there before the agent is.
        let first = Client::start(&path, "cache-0");
        let mut server = Server::bind(&path).unwrap();
        let second = Client::start(&path, "cache-1");
        for _ in 0..2 {
            assert!(timeout(SOON, server.offer()).await.unwrap().unwrap().sockets.is_empty());
        }
        let bound = vec![socket(), socket()];
        server.publish(bound.clone());
        for client in [&first, &second] {
            until(&mut client.sockets(), |sockets| sockets.len() == 2).await;
            for (mine, bound) in client.sockets().borrow().iter().zip(&bound) {
                assert_eq!(mine.cookie().unwrap(), bound.cookie().unwrap());
            }
        }
        assert_eq!(server.connected().borrow().len(), 2);

        let before = first.sockets().borrow()[1].clone();
        server.publish(bound[1..].to_vec());
        until(&mut first.sockets(), |sockets| sockets.len() == 1).await;
        assert!(Arc::ptr_eq(&before.fd, &first.sockets().borrow()[0].fd), "what stays is not replaced");

        drop(first);
        until(&mut server.connected(), |connected| connected.keys().eq(["cache-1"])).await;
    }

    #[tokio::test]
    async fn a_restarted_agent_is_offered_what_the_instances_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let client = Client::start(&path, "cache-0");
        let server = Server::bind(&path).unwrap();
        let cookie = {
            let bound = socket();
            server.publish(vec![bound.clone()]);
            bound.cookie().unwrap()
        };
        until(&mut client.sockets(), |sockets| sockets.len() == 1).await;
        let held = client.sockets().borrow()[0].clone();
        drop(server);
        until(&mut client.connected(), |connected| !connected).await;
        assert_eq!(client.sockets().borrow().len(), 1, "answers go on while the agent is away");

        let mut server = Server::bind(&path).unwrap();
        let offer = timeout(SOON, server.offer()).await.unwrap().unwrap();
        assert_eq!(offer.instance, "cache-0");
        assert_eq!(offer.sockets[0].cookie().unwrap(), cookie);
        server.publish(offer.sockets);
        until(&mut client.connected(), |connected| *connected).await;
        // A round trip later the client has heard of the set; nothing that reads the socket was disturbed.
        server.publish(vec![]);
        until(&mut client.sockets(), Vec::is_empty).await;
        assert_eq!(held.cookie().unwrap(), cookie);
    }

    #[tokio::test]
    async fn every_instance_makes_cookies_with_the_secret_of_the_agent_and_honours_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path).unwrap();
        let clients = ["cache-0", "cache-1"].map(|name| Client::start(&path, name));
        server.publish(vec![]);
        let told = |client: &Client, cookie: &Cookie| {
            let address = "192.0.2.1".parse().unwrap();
            client.secrets().borrow().tell(cookie, address, 1000)
        };
        let none = Cookie::read(&[7; 8]);
        let mut cookies = vec![];
        for _ in 0..2 {
            for client in &clients {
                until(&mut client.secrets(), |_| told_other(told(client, &none), &cookies)).await;
            }
            let [first, second] = clients.each_ref().map(|client| told(client, &none).unwrap().cookie);
            assert_eq!(first.as_octets(), second.as_octets());
            cookies.push(first);
            for cookie in &cookies {
                assert!(clients.iter().all(|client| told(client, cookie).unwrap().is_good));
            }
            server.renew_secret();
        }
    }

    /// Whether a secret is known, and one that none of these cookies was made with.
    fn told_other(told: Option<CookieReply>, cookies: &[Cookie]) -> bool {
        told.is_some_and(|told| !cookies.contains(&told.cookie))
    }

    #[tokio::test]
    async fn an_instance_of_another_version_is_told_why_it_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path).unwrap();
        server.publish(vec![socket()]);
        let stream = UnixStream::connect(&path).await.unwrap();
        let hello = Message::Hello { version: 1, instance: "cache-0".to_owned(), held: vec![] };
        frame::send(&stream, &hello, &[]).await.unwrap();
        let (message, _) = frame::receive(&stream).await.unwrap().unwrap();
        let reason = "the instance speaks version 1 of the handover and the agent version 2; use one image for both";
        assert_eq!(message, Message::Refused { version: VERSION, reason: reason.to_owned() });
        assert!(frame::receive(&stream).await.unwrap().is_none());
        assert!(server.connected().borrow().is_empty());
    }

    #[tokio::test]
    async fn connections_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path).unwrap();
        let clients: Vec<Client> = (0..16).map(|number| Client::start(&path, &format!("cache-{number}"))).collect();
        until(&mut server.connected(), |connected| connected.len() == 16).await;
        let stream = UnixStream::connect(&path).await.unwrap();
        assert!(timeout(SOON, frame::receive(&stream)).await.unwrap().is_ok_and(|frame| frame.is_none()));
        drop(clients);
        until(&mut server.connected(), |connected| connected.is_empty()).await;
    }
}

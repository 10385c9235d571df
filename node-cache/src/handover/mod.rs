//! Handover of the sockets for port 53. They belong to the node and not to a process: the agent binds them and passes
//! their file descriptors (SCM_RIGHTS) to every instance, and the instances offer them back to an agent that was
//! restarted. The secret of the node's DNS cookies is passed along.
//!
//! ```text
//! instance ── Hello {version, instance, held} + descriptors of the sockets it holds ──► agent    after each connect
//!          ◄── Sockets {version, sockets, secret} + descriptors of all sockets ───────           and at each change
//!          ◄── Refused {version, reason}, then end of stream ─────────────────────────
//! ```
//!
//! The messages pass over a Unix stream socket in the directory that the containers of a pod share. The socket has a
//! path and is not abstract, because every pod in the host's network could take an abstract name first.

pub mod client;
mod frame;
mod message;
pub mod server;
mod socket;

use std::path::{Path, PathBuf};

pub use frame::FrameError;
pub use message::VERSION;
pub use socket::{HeldSocket, Protocol};

/// Returns the path of the agent's socket in the run directory.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("sockets.sock")
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::net::UnixStream;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::client::Client;
    use super::message::Message;
    use super::server::Server;
    use super::*;
    use crate::dns::Cookie;
    use crate::dns::cookie_secret::CookieReply;

    /// Longest wait for a change.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(3);

    fn bound_socket() -> HeldSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = Arc::new(OwnedFd::from(socket));
        HeldSocket { address: "127.0.0.1".parse().unwrap(), protocol: Protocol::Udp, fd }
    }

    async fn wait_until<T>(receiver: &mut watch::Receiver<T>, condition: impl FnMut(&T) -> bool) {
        timeout(WAIT_TIMEOUT, receiver.wait_for(condition)).await.expect("in time").expect("a sender");
    }

    #[tokio::test]
    async fn every_instance_reads_the_same_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        // An instance may be there before the agent is.
        let first = Client::start(&path, "cache-0");
        let mut server = Server::bind(&path, 16).unwrap();
        let second = Client::start(&path, "cache-1");
        for _ in 0..2 {
            assert!(timeout(WAIT_TIMEOUT, server.next_offer()).await.unwrap().unwrap().sockets.is_empty());
        }
        let bound = vec![bound_socket(), bound_socket()];
        server.publish(bound.clone());
        for client in [&first, &second] {
            wait_until(&mut client.sockets(), |sockets| sockets.len() == 2).await;
            for (received, bound) in client.sockets().borrow().iter().zip(&bound) {
                assert_eq!(received.cookie().unwrap(), bound.cookie().unwrap());
            }
        }
        assert_eq!(server.connected().borrow().len(), 2);

        let before = first.sockets().borrow()[1].clone();
        server.publish(bound[1..].to_vec());
        wait_until(&mut first.sockets(), |sockets| sockets.len() == 1).await;
        assert!(Arc::ptr_eq(&before.fd, &first.sockets().borrow()[0].fd), "what stays is not replaced");

        drop(first);
        wait_until(&mut server.connected(), |connected| connected.keys().eq(["cache-1"])).await;
    }

    #[tokio::test]
    async fn a_restarted_agent_is_offered_the_sockets_that_instances_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let client = Client::start(&path, "cache-0");
        let server = Server::bind(&path, 16).unwrap();
        let cookie = {
            let bound = bound_socket();
            server.publish(vec![bound.clone()]);
            bound.cookie().unwrap()
        };
        wait_until(&mut client.sockets(), |sockets| sockets.len() == 1).await;
        let held = client.sockets().borrow()[0].clone();
        drop(server);
        wait_until(&mut client.connected(), |connected| !connected).await;
        assert_eq!(client.sockets().borrow().len(), 1, "responses go on while the agent is away");

        let mut server = Server::bind(&path, 16).unwrap();
        let offer = timeout(WAIT_TIMEOUT, server.next_offer()).await.unwrap().unwrap();
        assert_eq!(offer.instance, "cache-0");
        assert_eq!(offer.sockets[0].cookie().unwrap(), cookie);
        server.publish(offer.sockets);
        wait_until(&mut client.connected(), |connected| *connected).await;
        // After one more change the client has received the set; the socket that is read stayed the same.
        server.publish(vec![]);
        wait_until(&mut client.sockets(), Vec::is_empty).await;
        assert_eq!(held.cookie().unwrap(), cookie);
    }

    #[tokio::test]
    async fn instances_use_the_cookie_secret_of_the_agent_and_accept_the_previous_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path, 16).unwrap();
        let clients = ["cache-0", "cache-1"].map(|name| Client::start(&path, name));
        server.publish(vec![]);
        let reply_to = |client: &Client, cookie: &Cookie| {
            let address = "192.0.2.1".parse().unwrap();
            client.secrets().borrow().reply(cookie, address, 1000)
        };
        let client_part = Cookie::read(&[7; 8]);
        let mut cookies = vec![];
        for _ in 0..2 {
            for client in &clients {
                wait_until(&mut client.secrets(), |_| is_new_cookie(reply_to(client, &client_part), &cookies)).await;
            }
            let [first, second] = clients.each_ref().map(|client| reply_to(client, &client_part).unwrap().cookie);
            assert_eq!(first.as_octets(), second.as_octets());
            cookies.push(first);
            for cookie in &cookies {
                assert!(clients.iter().all(|client| reply_to(client, cookie).unwrap().is_valid));
            }
            server.renew_secret();
        }
    }

    /// Returns whether a secret is known, and one that none of `cookies` was made with.
    fn is_new_cookie(reply: Option<CookieReply>, cookies: &[Cookie]) -> bool {
        reply.is_some_and(|reply| !cookies.contains(&reply.cookie))
    }

    #[tokio::test]
    async fn an_instance_of_another_version_is_rejected_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path, 16).unwrap();
        server.publish(vec![bound_socket()]);
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
        let server = Server::bind(&path, 16).unwrap();
        let clients: Vec<Client> = (0..16).map(|number| Client::start(&path, &format!("cache-{number}"))).collect();
        wait_until(&mut server.connected(), |connected| connected.len() == 16).await;
        let silent: Vec<UnixStream> =
            futures::future::try_join_all((0..100).map(|_| UnixStream::connect(&path))).await.unwrap();
        let closed = timeout(WAIT_TIMEOUT, frame::receive(&silent[0])).await.unwrap();
        assert!(closed.is_ok_and(|frame| frame.is_none()));
        let newcomer = Client::start(&path, "cache-3");
        server.publish(vec![bound_socket()]);
        wait_until(&mut newcomer.sockets(), |sockets| sockets.len() == 1).await;
        drop((clients, newcomer));
        wait_until(&mut server.connected(), |connected| connected.is_empty()).await;
    }

    /// Says Hello under a name and returns the stream.
    async fn say_hello(path: &Path, instance: &str, held: &[HeldSocket]) -> UnixStream {
        let stream = UnixStream::connect(path).await.unwrap();
        let held_names = message::socket_names(held);
        let hello = Message::Hello { version: VERSION, instance: instance.to_owned(), held: held_names };
        frame::send(&stream, &hello, &message::socket_fds(held)).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_name_has_one_place_and_the_newest_connection_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path, 2).unwrap();
        server.publish(vec![bound_socket()]);
        let mut hijacked = Vec::new();
        for _ in 0..32 {
            hijacked.push(say_hello(&path, "cache-1", &[]).await);
        }
        let other = Client::start(&path, "cache-0");
        wait_until(&mut other.sockets(), |sockets| sockets.len() == 1).await;
        let restarted = Client::start(&path, "cache-1");
        wait_until(&mut restarted.sockets(), |sockets| sockets.len() == 1).await;
        wait_until(&mut server.connected(), |connected| connected.values().eq(&[1, 1])).await;
    }

    #[tokio::test]
    async fn a_name_that_no_instance_has_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path, 2).unwrap();
        server.publish(vec![]);
        for name in ["", "cache-2", "cache-01", "cache-+1", "cache-", "cache-0\n", "agent", "cache-0\u{1b}[2J"] {
            let stream = say_hello(&path, name, &[]).await;
            let (message, _) = timeout(WAIT_TIMEOUT, frame::receive(&stream)).await.unwrap().unwrap().unwrap();
            let reason = "the name of an instance is cache- with a number below 2".to_owned();
            assert_eq!(message, Message::Refused { version: VERSION, reason }, "{name:?}");
        }
        assert!(server.connected().borrow().is_empty());
    }

    #[tokio::test]
    async fn descriptors_that_nobody_wants_any_more_are_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::bind(&path, 2).unwrap();
        let offered: Vec<HeldSocket> = (0..64).map(|_| bound_socket()).collect();
        let mut streams = Vec::new();
        for round in 0..16 {
            if round == 8 {
                server.publish(vec![]);
            }
            streams.push(say_hello(&path, "cache-1", &offered).await);
        }
        wait_until(&mut server.connected(), |connected| connected.values().eq(&[1])).await;
        // Offers are in this process as well: each socket is to be open once.
        let own = offered[0].fd.try_clone().unwrap();
        let link = |fd: &dyn std::os::fd::AsFd| {
            std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()))).ok()
        };
        let socket = link(&own);
        drop(own);
        let open = || {
            let entries = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
            entries.filter(|entry| std::fs::read_link(entry.path()).ok() == socket).count()
        };
        timeout(WAIT_TIMEOUT, async {
            while open() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the agent keeps no descriptor");
    }
}

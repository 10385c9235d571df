//! Instance side of the handover: stays connected to the agent and keeps the current set of sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::frame::{self, FrameError};
use super::message::{Message, VERSION, received_sockets, socket_fds, socket_names};
use super::socket::HeldSocket;
use crate::dns::cookie_secret::CookieSecrets;

/// Wait between two attempts to connect.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);

/// Connection to the agent that reconnects whenever it fails, until it is dropped.
#[derive(Debug)]
pub struct Client {
    sockets: watch::Receiver<Vec<HeldSocket>>,
    secrets: watch::Receiver<CookieSecrets>,
    connected: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Client {
    /// Starts to connect to the agent at `path` under the name of this instance (`cache-0`). Returns at once.
    ///
    /// Must be called inside a Tokio runtime.
    #[must_use]
    pub fn start(path: &Path, instance: &str) -> Self {
        let (sockets_sender, sockets) = watch::channel(Vec::new());
        let (secrets_sender, secrets) = watch::channel(CookieSecrets::default());
        let (connected_sender, connected) = watch::channel(false);
        let connection = Connection {
            path: path.to_owned(),
            instance: instance.to_owned(),
            sockets: sockets_sender,
            secrets: secrets_sender,
            connected: connected_sender,
        };
        Self { sockets, secrets, connected, task: tokio::spawn(connection.run()) }
    }

    /// Returns the sockets to serve. A socket that stays in the set keeps its [`HeldSocket::fd`] (the same `Arc`)
    /// through every change and every restart of the agent; one that is no longer in the set is to be closed. The set
    /// stays while the agent is away.
    #[must_use]
    pub fn sockets(&self) -> watch::Receiver<Vec<HeldSocket>> {
        self.sockets.clone()
    }

    /// Returns the secrets of the node's DNS cookies; empty before the first message of the agent.
    #[must_use]
    pub fn secrets(&self) -> watch::Receiver<CookieSecrets> {
        self.secrets.clone()
    }

    /// Returns whether the agent is connected. An instance that shuts down responds until it is not: then the agent has
    /// withdrawn the addresses.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// State of the task that connects, sends and receives.
struct Connection {
    path: PathBuf,
    instance: String,
    sockets: watch::Sender<Vec<HeldSocket>>,
    secrets: watch::Sender<CookieSecrets>,
    connected: watch::Sender<bool>,
}

/// Protocol failure after which the instance reconnects.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the agent refused this instance: {0}")]
    Refused(String),
    #[error("the agent sent a message that only an instance may send")]
    UnexpectedMessage,
}

impl Connection {
    async fn run(self) {
        loop {
            if let Ok(stream) = UnixStream::connect(&self.path).await {
                if let Err(error) = self.serve(&stream).await {
                    tracing::warn!(%error, "handover of the sockets failed");
                }
                self.connected.send_replace(false);
            }
            sleep(RECONNECT_INTERVAL).await;
        }
    }

    /// Sends Hello and applies what the agent sends, until the agent closes the connection.
    async fn serve(&self, stream: &UnixStream) -> Result<(), ConnectionError> {
        let offered = self.sockets.borrow().clone();
        let hello = Message::Hello { version: VERSION, instance: self.instance.clone(), held: socket_names(&offered) };
        frame::send(stream, &hello, &socket_fds(&offered)).await?;
        drop(offered);
        self.connected.send_replace(true);
        while let Some((message, fds)) = frame::receive(stream).await? {
            match message {
                Message::Sockets { version: VERSION, sockets, secret } => {
                    self.secrets.send_if_modified(|secrets| secrets.rotate(secret));
                    self.replace_sockets(received_sockets(&sockets, fds));
                }
                Message::Sockets { version, .. } => {
                    let reason = format!("the agent speaks version {version} and this instance version {VERSION}");
                    return Err(ConnectionError::Refused(reason));
                }
                Message::Refused { reason, .. } => return Err(ConnectionError::Refused(reason)),
                Message::Hello { .. } => return Err(ConnectionError::UnexpectedMessage),
            }
        }
        Ok(())
    }

    /// Replaces the set of sockets. A new descriptor of a socket that is held already is closed and the old one kept,
    /// so that workers that read the socket go on undisturbed. Receivers are notified only if the set changed.
    fn replace_sockets(&self, mut new: Vec<HeldSocket>) {
        self.sockets.send_if_modified(|current| {
            for socket in &mut new {
                if let Some(held) = current.iter().find(|held| held.is_same_socket(socket)) {
                    *socket = held.clone();
                }
            }
            let is_same_fd = |(current, new): (&HeldSocket, &HeldSocket)| Arc::ptr_eq(&current.fd, &new.fd);
            let changed = current.len() != new.len() || !current.iter().zip(&new).all(is_same_fd);
            *current = new;
            changed
        });
    }
}

//! An instance's side: stays connected to the agent and knows the sockets that there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{FrameError, HeldSocket, Message, VERSION, borrowed, frame, held, names};
use crate::dns::cookie_secret::Secrets;

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(100);

/// A connection to the agent that is made again whenever it breaks, until this is dropped.
#[derive(Debug)]
pub struct Client {
    sockets: watch::Receiver<Vec<HeldSocket>>,
    secrets: watch::Receiver<Secrets>,
    connected: watch::Receiver<bool>,
    staying: JoinHandle<()>,
}

impl Client {
    /// Connects to the agent at `path`, now and for ever, under the name of this instance (`cache-0`).
    ///
    /// Needs a running tokio runtime.
    #[must_use]
    pub fn start(path: &Path, instance: &str) -> Self {
        let (sockets_sender, sockets) = watch::channel(Vec::new());
        let (secrets_sender, secrets) = watch::channel(Secrets::default());
        let (connected_sender, connected) = watch::channel(false);
        let connection = Connection {
            path: path.to_owned(),
            instance: instance.to_owned(),
            sockets: sockets_sender,
            secrets: secrets_sender,
            connected: connected_sender,
        };
        Self { sockets, secrets, connected, staying: tokio::spawn(connection.stay()) }
    }

    /// The sockets to answer on. A socket that stays keeps its [`HeldSocket::fd`] (the same `Arc`) through every
    /// change and every restart of the agent; one that is no longer there is to be closed. They stay while the agent
    /// is away.
    #[must_use]
    pub fn sockets(&self) -> watch::Receiver<Vec<HeldSocket>> {
        self.sockets.clone()
    }

    /// The secrets of the node's cookies; none before the agent was first heard.
    #[must_use]
    pub fn secrets(&self) -> watch::Receiver<Secrets> {
        self.secrets.clone()
    }

    /// Whether the agent is there. An instance that was told to stop answers until it is not: then the addresses are
    /// withdrawn.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.staying.abort();
    }
}

struct Connection {
    path: PathBuf,
    instance: String,
    sockets: watch::Sender<Vec<HeldSocket>>,
    secrets: watch::Sender<Secrets>,
    connected: watch::Sender<bool>,
}

/// Why a connection ended although the agent is there.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the agent refused this instance: {0}")]
    Refused(String),
    #[error("the agent sent what only an instance may say")]
    Unexpected,
}

impl Connection {
    async fn stay(self) {
        loop {
            if let Ok(stream) = UnixStream::connect(&self.path).await {
                if let Err(error) = self.follow(&stream).await {
                    tracing::warn!("the sockets of the node: {error}");
                }
                self.connected.send_replace(false);
            }
            sleep(RETRY).await;
        }
    }

    async fn follow(&self, stream: &UnixStream) -> Result<(), Ended> {
        let offered = self.sockets.borrow().clone();
        let hello = Message::Hello { version: VERSION, instance: self.instance.clone(), held: names(&offered) };
        frame::send(stream, &hello, &borrowed(&offered)).await?;
        drop(offered);
        self.connected.send_replace(true);
        while let Some((message, fds)) = frame::receive(stream).await? {
            match message {
                Message::Sockets { version: VERSION, sockets, secret } => {
                    self.secrets.send_if_modified(|secrets| secrets.renew(secret));
                    self.take(held(&sockets, fds));
                }
                Message::Sockets { version, .. } => {
                    return Err(Ended::Refused(format!("it speaks version {version} and this instance {VERSION}")));
                }
                Message::Refused { reason, .. } => return Err(Ended::Refused(reason)),
                Message::Hello { .. } => return Err(Ended::Unexpected),
            }
        }
        Ok(())
    }

    /// Puts a new set in the place of the old one. A descriptor of a socket that is held already is closed, so that
    /// nothing that reads the socket has to start anew.
    fn take(&self, mut new: Vec<HeldSocket>) {
        self.sockets.send_if_modified(|old| {
            for socket in &mut new {
                if let Some(same) = old.iter().find(|held| is_same(held, socket)) {
                    *socket = same.clone();
                }
            }
            let changed =
                old.len() != new.len() || old.iter().zip(&new).any(|(old, new)| !Arc::ptr_eq(&old.fd, &new.fd));
            *old = new;
            changed
        });
    }
}

fn is_same(one: &HeldSocket, other: &HeldSocket) -> bool {
    one.address == other.address
        && one.protocol == other.protocol
        && matches!((one.cookie(), other.cookie()), (Ok(one), Ok(other)) if one == other)
}

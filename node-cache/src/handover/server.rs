//! Agent side of the handover: accepts the instances, collects the sockets that they offer, and sends all of them the
//! same sockets.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::frame::{self, FrameError};
use super::message::{Message, VERSION, received_sockets, socket_fds, socket_names};
use super::socket::HeldSocket;
use crate::dns::cookie_secret::CookieSecret;

/// Connections at one time: eight instances, and as many that were just replaced.
const MAX_CONNECTIONS: usize = 16;
/// Longest name of an instance, in bytes.
const MAX_INSTANCE_NAME_LEN: usize = 63;
/// Mode of the socket: the owner and the group of the directory may connect, others not.
const SOCKET_MODE: u32 = 0o660;
/// Longest time for one frame from or to an instance, after which its connection is closed.
const FRAME_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait after a failed `accept`, such as one for lack of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Sockets that an instance held when it connected.
#[derive(Debug)]
pub struct Offer {
    /// Name of the instance.
    pub instance: String,
    /// Sockets of an earlier agent, unchecked; empty for an instance that has just started.
    pub sockets: Vec<HeldSocket>,
}

/// Listening Unix socket with the connections of all instances. Dropping it closes them.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    sockets: watch::Sender<Option<Arc<Vec<HeldSocket>>>>,
    secret: watch::Sender<CookieSecret>,
    connected: watch::Receiver<BTreeMap<String, usize>>,
    offers: mpsc::Receiver<Offer>,
    accept_task: JoinHandle<()>,
}

impl Server {
    /// Listens at `path` and replaces the socket of an earlier agent. The owner and the group of the directory (the
    /// pod's `fsGroup`, if the directory hands its group on) may connect.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// Any error of creating the socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
        let (sockets, sockets_receiver) = watch::channel(None);
        let (secret, secret_receiver) = watch::channel(CookieSecret::random());
        let (connected_sender, connected) = watch::channel(BTreeMap::new());
        let (offer_sender, offers) = mpsc::channel(MAX_CONNECTIONS);
        let channels = Channels {
            sockets: sockets_receiver,
            secret: secret_receiver,
            connected: Arc::new(connected_sender),
            offers: offer_sender,
        };
        let accept_task = tokio::spawn(accept(listener, channels));
        Ok(Self { path: path.to_owned(), sockets, secret, connected, offers, accept_task })
    }

    /// Waits for the next instance that connects and returns what it offers. At most 16 offers wait; further ones are
    /// dropped.
    pub async fn next_offer(&mut self) -> Option<Offer> {
        self.offers.recv().await
    }

    /// Sends these sockets to every instance, to later ones when they connect. Instances receive nothing before the
    /// first call.
    pub fn publish(&self, sockets: Vec<HeldSocket>) {
        self.sockets.send_replace(Some(Arc::new(sockets)));
    }

    /// Sends a new DNS cookie secret to every instance. Instances accept cookies of the previous one until the next
    /// call.
    pub fn renew_secret(&self) {
        self.secret.send_replace(CookieSecret::random());
    }

    /// Returns the names of the connected instances, each with its number of connections.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<BTreeMap<String, usize>> {
        self.connected.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept_task.abort();
        // A socket file that is left after a crash is removed by the next agent.
        let _ = fs::remove_file(&self.path);
    }
}

/// Channels between the [`Server`] and its connections.
#[derive(Clone)]
struct Channels {
    sockets: watch::Receiver<Option<Arc<Vec<HeldSocket>>>>,
    secret: watch::Receiver<CookieSecret>,
    connected: Arc<watch::Sender<BTreeMap<String, usize>>>,
    offers: mpsc::Sender<Offer>,
}

async fn accept(listener: UnixListener, channels: Channels) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                    tracing::warn!(limit = MAX_CONNECTIONS, "instance rejected: too many connections");
                }
                Ok((stream, _)) => {
                    connections.spawn(handle_connection(stream, channels.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an instance");
                    sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn handle_connection(stream: UnixStream, channels: Channels) {
    match serve_instance(&stream, channels).await {
        Ok(()) => {}
        Err(ConnectionError::Rejected(reason)) => {
            tracing::warn!(%reason, "instance rejected");
            let refused = Message::Refused { version: VERSION, reason };
            let _ = timeout(FRAME_TIMEOUT, frame::send(&stream, &refused, &[])).await;
        }
        Err(ConnectionError::Frame(error)) => tracing::info!(%error, "connection of an instance ended"),
    }
}

/// Failure that ends the connection of an instance.
enum ConnectionError {
    /// Violation of the protocol, whose reason is sent to the instance.
    Rejected(String),
    Frame(FrameError),
}

impl From<FrameError> for ConnectionError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// Receives Hello, then sends the sockets and the secret, again at each change, until the instance disconnects.
async fn serve_instance(stream: &UnixStream, mut channels: Channels) -> Result<(), ConnectionError> {
    let Some(offer) = receive_hello(stream).await? else { return Ok(()) };
    let _guard = ConnectedGuard::new(offer.instance.clone(), &channels.connected);
    // The agent receives no more offers once it has bound the sockets.
    let _ = channels.offers.try_send(offer);
    loop {
        let sockets = channels.sockets.borrow_and_update().clone();
        let secret = *channels.secret.borrow_and_update();
        if let Some(sockets) = sockets {
            let message = Message::Sockets { version: VERSION, sockets: socket_names(&sockets), secret };
            timeout(FRAME_TIMEOUT, frame::send(stream, &message, &socket_fds(&sockets)))
                .await
                .map_err(|_| FrameError::Io(io::ErrorKind::TimedOut.into()))??;
        }
        tokio::select! {
            changed = channels.sockets.changed() => if changed.is_err() { return Ok(()) },
            changed = channels.secret.changed() => if changed.is_err() { return Ok(()) },
            // An instance sends nothing after Hello: this is the end of the stream, or a violation of the protocol.
            received = frame::receive(stream) => return match received? {
                None => Ok(()),
                Some(_) => Err(ConnectionError::Rejected("one Hello is enough".to_owned())),
            },
        }
    }
}

/// Receives Hello and returns what the instance offers; `None` when it disconnects first.
async fn receive_hello(stream: &UnixStream) -> Result<Option<Offer>, ConnectionError> {
    let received = timeout(FRAME_TIMEOUT, frame::receive(stream))
        .await
        .map_err(|_| FrameError::Io(io::ErrorKind::TimedOut.into()));
    let (message, fds) = match received {
        Ok(Ok(Some(received))) => received,
        Ok(Ok(None)) => return Ok(None),
        Ok(Err(error @ FrameError::Syntax(_))) => return Err(ConnectionError::Rejected(error.to_string())),
        Ok(Err(error)) | Err(error) => return Err(error.into()),
    };
    match message {
        Message::Hello { version, .. } if version != VERSION => Err(ConnectionError::Rejected(format!(
            "the instance speaks version {version} of the handover and the agent version {VERSION}; \
             use one image for both"
        ))),
        Message::Hello { instance, .. } if instance.is_empty() || instance.len() > MAX_INSTANCE_NAME_LEN => Err(
            ConnectionError::Rejected(format!("the name of an instance has 1 to {MAX_INSTANCE_NAME_LEN} characters")),
        ),
        Message::Hello { instance, held, .. } => Ok(Some(Offer { instance, sockets: received_sockets(&held, fds) })),
        _ => Err(ConnectionError::Rejected("the first message of an instance is Hello".to_owned())),
    }
}

/// Entry of a connection in the count of connected instances. Dropping it removes the entry.
struct ConnectedGuard {
    instance: String,
    connected: Arc<watch::Sender<BTreeMap<String, usize>>>,
}

impl ConnectedGuard {
    fn new(instance: String, connected: &Arc<watch::Sender<BTreeMap<String, usize>>>) -> Self {
        connected.send_modify(|counts| *counts.entry(instance.clone()).or_default() += 1);
        Self { instance, connected: Arc::clone(connected) }
    }
}

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        self.connected.send_modify(|counts| {
            if let Some(count) = counts.get_mut(&self.instance) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.instance);
                }
            }
        });
    }
}

//! The agent's side: takes in the instances, gathers what they offer, and sends all of them the same sockets.

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

use super::{FrameError, HeldSocket, Message, VERSION, borrowed, frame, held, names};
use crate::dns::cookie_secret::Secret;

/// The most connections at one time: eight instances, and as many that were just replaced.
const MAX_CONNECTIONS: usize = 16;
/// The longest name of an instance, in bytes.
const MAX_NAME: usize = 63;
/// How long an instance may take for a frame before its connection is closed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an instance held when it connected.
#[derive(Debug)]
pub struct Offer {
    /// Its name.
    pub instance: String,
    /// Sockets of an earlier agent, nothing of them checked; empty for an instance that has just been started.
    pub sockets: Vec<HeldSocket>,
}

/// The Unix socket and everything connected to it; all of that is closed when this is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    sockets: watch::Sender<Option<Arc<Vec<HeldSocket>>>>,
    secret: watch::Sender<Secret>,
    connected: watch::Receiver<BTreeMap<String, usize>>,
    offers: mpsc::Receiver<Offer>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens at `path`, in the place of an agent that is gone. The owner and the group of the directory (the pod's
    /// `fsGroup`, if the directory hands its group on) may connect.
    ///
    /// # Errors
    ///
    /// The socket cannot be made there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o660))?;
        let (sockets, published) = watch::channel(None);
        let (secret, secrets) = watch::channel(Secret::random());
        let (counting, connected) = watch::channel(BTreeMap::new());
        let (offering, offers) = mpsc::channel(MAX_CONNECTIONS);
        let shared = Shared { published, secrets, counting: Arc::new(counting), offering };
        let accepting = tokio::spawn(accept(listener, shared));
        Ok(Self { path: path.to_owned(), sockets, secret, connected, offers, accepting })
    }

    /// Waits for the next instance that connects. Not more than a few wait unread; the rest of them is let go.
    pub async fn offer(&mut self) -> Option<Offer> {
        self.offers.recv().await
    }

    /// Sends these to every instance, those of the future included. Before the first call they get nothing.
    pub fn publish(&self, sockets: Vec<HeldSocket>) {
        self.sockets.send_replace(Some(Arc::new(sockets)));
    }

    /// Sends every instance a new secret for cookies; the one before it counts until the next.
    pub fn renew_secret(&self) {
        self.secret.send_replace(Secret::random());
    }

    /// Names of the connected instances and the number of connections of each.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<BTreeMap<String, usize>> {
        self.connected.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        // What is left after a crash is removed by the next agent.
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Clone)]
struct Shared {
    published: watch::Receiver<Option<Arc<Vec<HeldSocket>>>>,
    secrets: watch::Receiver<Secret>,
    counting: Arc<watch::Sender<BTreeMap<String, usize>>>,
    offering: mpsc::Sender<Offer>,
}

async fn accept(listener: UnixListener, shared: Shared) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                    tracing::warn!("an instance was turned away: {MAX_CONNECTIONS} are connected already");
                }
                Ok((stream, _)) => {
                    connections.spawn(attend(stream, shared.clone()));
                }
                Err(error) => {
                    tracing::warn!("the socket for instances cannot accept: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn attend(stream: UnixStream, shared: Shared) {
    match converse(&stream, shared).await {
        Ok(()) => {}
        Err(Parting::Refused(reason)) => {
            tracing::warn!("an instance was refused: {reason}");
            let _ = timeout(PATIENCE, frame::send(&stream, &Message::Refused { version: VERSION, reason }, &[])).await;
        }
        Err(Parting::Frame(error)) => tracing::info!("an instance went: {error}"),
    }
}

enum Parting {
    Refused(String),
    Frame(FrameError),
}

impl From<FrameError> for Parting {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

async fn converse(stream: &UnixStream, mut shared: Shared) -> Result<(), Parting> {
    let Some((instance, sockets)) = greet(stream).await? else { return Ok(()) };
    let _counted = Counted::new(instance.clone(), &shared.counting);
    // Nobody reads offers any more once the sockets are decided.
    let _ = shared.offering.try_send(Offer { instance, sockets });
    loop {
        let sockets = shared.published.borrow_and_update().clone();
        let secret = *shared.secrets.borrow_and_update();
        if let Some(sockets) = sockets {
            let message = Message::Sockets { version: VERSION, sockets: names(&sockets), secret };
            timeout(PATIENCE, frame::send(stream, &message, &borrowed(&sockets)))
                .await
                .map_err(|_| FrameError::Io(io::ErrorKind::TimedOut.into()))??;
        }
        tokio::select! {
            changed = shared.published.changed() => if changed.is_err() { return Ok(()) },
            changed = shared.secrets.changed() => if changed.is_err() { return Ok(()) },
            // An instance has nothing more to say; what can be read here is the end.
            closed = frame::receive(stream) => return match closed? {
                None => Ok(()),
                Some(_) => Err(Parting::Refused("one Hello is enough".to_owned())),
            },
        }
    }
}

async fn greet(stream: &UnixStream) -> Result<Option<(String, Vec<HeldSocket>)>, Parting> {
    let received =
        timeout(PATIENCE, frame::receive(stream)).await.map_err(|_| FrameError::Io(io::ErrorKind::TimedOut.into()));
    let (message, fds) = match received {
        Ok(Ok(Some(received))) => received,
        Ok(Ok(None)) => return Ok(None),
        Ok(Err(FrameError::Syntax(error))) => return Err(Parting::Refused(FrameError::Syntax(error).to_string())),
        Ok(Err(error)) | Err(error) => return Err(error.into()),
    };
    match message {
        Message::Hello { version, .. } if version != VERSION => Err(Parting::Refused(format!(
            "the instance speaks version {version} of the handover and the agent version {VERSION}; \
             use one image for both"
        ))),
        Message::Hello { instance, .. } if instance.is_empty() || instance.len() > MAX_NAME => {
            Err(Parting::Refused(format!("the name of an instance has 1 to {MAX_NAME} characters")))
        }
        Message::Hello { instance, held: offered, .. } => Ok(Some((instance, held(&offered, fds)))),
        _ => Err(Parting::Refused("the first message of an instance is Hello".to_owned())),
    }
}

/// Keeps an instance among the connected ones for as long as its connection lives.
struct Counted {
    instance: String,
    counting: Arc<watch::Sender<BTreeMap<String, usize>>>,
}

impl Counted {
    fn new(instance: String, counting: &Arc<watch::Sender<BTreeMap<String, usize>>>) -> Self {
        counting.send_modify(|connected| *connected.entry(instance.clone()).or_default() += 1);
        Self { instance, counting: Arc::clone(counting) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counting.send_modify(|connected| {
            if let Some(count) = connected.get_mut(&self.instance) {
                *count -= 1;
                if *count == 0 {
                    connected.remove(&self.instance);
                }
            }
        });
    }
}

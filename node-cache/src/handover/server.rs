//! Agent side of the handover: accepts the instances, collects the sockets that they offer, and sends all of them the
//! same sockets.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::frame::{self, Descriptors, FrameError};
use super::message::{Message, VERSION, received_sockets, socket_fds, socket_names};
use super::socket::HeldSocket;
use crate::dns::cookie_secret::CookieSecret;
use crate::unix_socket::{self, printable};

/// Connections at one time that have not said Hello. One more takes the place of the oldest of them.
const MAX_UNNAMED_CONNECTIONS: usize = 16;
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
    offers: Mutex<mpsc::Receiver<Offer>>,
    accept_task: JoinHandle<()>,
}

impl Server {
    /// Listens at `path` for the instances `cache-0` to `cache-(instances - 1)` and replaces the socket of an earlier
    /// agent. The owner and the group of the directory (the pod's `fsGroup`, if the directory hands its group on) may
    /// connect.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// Any error of creating the socket.
    pub fn bind(path: &Path, instances: usize) -> io::Result<Self> {
        let listener = unix_socket::bind(path)?;
        let (sockets, sockets_receiver) = watch::channel(None);
        let (secret, secret_receiver) = watch::channel(CookieSecret::random());
        let (connected_sender, connected) = watch::channel(BTreeMap::new());
        let (offer_sender, offers) = mpsc::channel(instances.max(1));
        let channels = Channels {
            sockets: sockets_receiver,
            secret: secret_receiver,
            connected: Arc::new(connected_sender),
            offers: offer_sender,
            places: Arc::new((0..instances).map(|_| Mutex::default()).collect()),
        };
        let accept_task = tokio::spawn(accept(listener, channels));
        Ok(Self { path: path.to_owned(), sockets, secret, connected, offers: Mutex::new(offers), accept_task })
    }

    /// Waits for the next instance that connects and returns what it offers. At most one offer for each instance waits;
    /// further ones are dropped. There are none after the first [`Server::publish`].
    pub async fn next_offer(&mut self) -> Option<Offer> {
        self.offers.get_mut().ok()?.recv().await
    }

    /// Sends these sockets to every instance, to later ones when they connect. Instances receive nothing before the
    /// first call. What they offer from then on is closed.
    pub fn publish(&self, sockets: Vec<HeldSocket>) {
        if let Ok(mut offers) = self.offers.lock() {
            offers.close();
            while offers.try_recv().is_ok() {}
        }
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
    places: Arc<Vec<Place>>,
}

/// Place of one instance: dropping the sender ends the connection that has it.
type Place = Mutex<Option<oneshot::Sender<()>>>;

/// Connection that has not said Hello yet.
struct UnnamedConnection {
    /// Closed when the instance has said Hello, and when the connection ends.
    unnamed: oneshot::Receiver<()>,
    task: AbortHandle,
}

async fn accept(listener: UnixListener, channels: Channels) {
    let mut connections = JoinSet::new();
    let mut unnamed: VecDeque<UnnamedConnection> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    unnamed.retain_mut(|other| matches!(other.unnamed.try_recv(), Err(TryRecvError::Empty)));
                    if unnamed.len() >= MAX_UNNAMED_CONNECTIONS && let Some(oldest) = unnamed.pop_front() {
                        tracing::warn!(limit = MAX_UNNAMED_CONNECTIONS, "closed a connection that says nothing");
                        oldest.task.abort();
                    }
                    let (while_unnamed, receiver) = oneshot::channel();
                    let task = connections.spawn(handle_connection(stream, channels.clone(), while_unnamed));
                    unnamed.push_back(UnnamedConnection { unnamed: receiver, task });
                    // An instance says Hello at once: it is heard before a flood of others can push it out.
                    yield_now().await;
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

async fn handle_connection(stream: UnixStream, channels: Channels, while_unnamed: oneshot::Sender<()>) {
    match serve_instance(&stream, channels, while_unnamed).await {
        Ok(()) => {}
        Err(ConnectionError::Rejected(reason)) => {
            tracing::warn!(reason = printable(&reason), user = peer_user(&stream), "instance rejected");
            let refused = Message::Refused { version: VERSION, reason };
            let _ = timeout(FRAME_TIMEOUT, frame::send(&stream, &refused, &[])).await;
        }
        Err(ConnectionError::Frame(error)) => {
            let error = printable(&error.to_string());
            tracing::info!(error, user = peer_user(&stream), "connection of an instance ended");
        }
    }
}

/// Returns the user ID of the process at the other side (`SO_PEERCRED`).
fn peer_user(stream: &UnixStream) -> Option<u32> {
    stream.peer_cred().ok().map(|peer| peer.uid())
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

/// Receives Hello, then sends the sockets and the secret, again at each change, until the instance disconnects or
/// connects anew.
async fn serve_instance(
    stream: &UnixStream,
    mut channels: Channels,
    while_unnamed: oneshot::Sender<()>,
) -> Result<(), ConnectionError> {
    // The agent wants no more offers once it has bound the sockets.
    let is_adopting = channels.sockets.borrow().is_none();
    let descriptors = if is_adopting { Descriptors::Take } else { Descriptors::Drop };
    let Some(Hello { place, instance, sockets }) = receive_hello(stream, descriptors, &channels.places).await? else {
        return Ok(());
    };
    drop(while_unnamed);
    let (while_newest, mut replaced) = oneshot::channel::<()>();
    if let Some(Ok(mut newest)) = channels.places.get(place).map(Mutex::lock) {
        *newest = Some(while_newest);
    }
    let _guard = ConnectedGuard::new(instance.clone(), &channels.connected);
    let _ = channels.offers.try_send(Offer { instance, sockets });
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
            _ = &mut replaced => return Ok(()),
            // An instance sends nothing after Hello: this is the end of the stream, or a violation of the protocol.
            more = frame::has_more(stream) => return match more? {
                false => Ok(()),
                true => Err(ConnectionError::Rejected("one Hello is enough".to_owned())),
            },
        }
    }
}

/// Content of a valid Hello.
struct Hello {
    /// Index of the instance's place.
    place: usize,
    instance: String,
    sockets: Vec<HeldSocket>,
}

/// Receives Hello; `None` when the instance disconnects first.
async fn receive_hello(
    stream: &UnixStream,
    descriptors: Descriptors,
    places: &[Place],
) -> Result<Option<Hello>, ConnectionError> {
    let received = timeout(FRAME_TIMEOUT, frame::receive_hello(stream, descriptors))
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
        Message::Hello { instance, held, .. } => match place_of(&instance, places.len()) {
            Some(place) => Ok(Some(Hello { place, instance, sockets: received_sockets(&held, fds) })),
            None => Err(ConnectionError::Rejected(format!(
                "the name of an instance is cache- with a number below {}",
                places.len()
            ))),
        },
        _ => Err(ConnectionError::Rejected("the first message of an instance is Hello".to_owned())),
    }
}

/// Returns the index in an instance's name, `cache-0` to `cache-(instances - 1)`; `None` for any other name.
fn place_of(instance: &str, instances: usize) -> Option<usize> {
    let index: usize = instance.strip_prefix("cache-")?.parse().ok()?;
    (index < instances && instance == format!("cache-{index}")).then_some(index)
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

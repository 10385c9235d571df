//! Those who answer: caches that are handed the node's sockets, and the cluster DNS behind the Service.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use node_cache::handover::client::Client;
use node_cache::handover::{HeldSocket, Protocol, socket_path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::dns;
use crate::network::Network;

/// How a server answers.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) pod_uid: String,
    pub(crate) rcode: u8,
    /// It answers the root with SERVFAIL.
    pub(crate) outside_is_dead: Arc<AtomicBool>,
}

impl Behaviour {
    fn answer(&self, question: &[u8]) -> Vec<u8> {
        if dns::asks_for_identity(question) {
            return dns::identity(question, &["instance=x", "node=n", &format!("pod={}", self.pod_uid)]);
        }
        if dns::asks_for_root(question) && self.outside_is_dead.load(Ordering::Relaxed) {
            return dns::answer(question, dns::SERVFAIL);
        }
        dns::answer(question, self.rcode)
    }
}

/// A cache: connected to the agent and answering on what it is handed.
pub(crate) struct Cache {
    pub(crate) behaviour: Behaviour,
    /// It holds its sockets and reads none of them.
    paused: watch::Sender<bool>,
    _background: Background,
}

impl Cache {
    pub(crate) fn start(run_dir: &Path, instance: &str, pod_uid: &str) -> Self {
        let behaviour =
            Behaviour { pod_uid: pod_uid.to_owned(), rcode: dns::FROM_CACHE, outside_is_dead: Arc::default() };
        let paused = watch::Sender::new(false);
        let (path, instance) = (socket_path(run_dir), instance.to_owned());
        let (answering, pausing) = (behaviour.clone(), paused.subscribe());
        let background = Background::run(move || follow(path, instance, answering, pausing));
        Self { behaviour, paused, _background: background }
    }

    pub(crate) fn pause(&self, yes: bool) {
        self.paused.send_replace(yes);
    }
}

async fn follow(path: PathBuf, instance: String, behaviour: Behaviour, mut paused: watch::Receiver<bool>) {
    let client = Client::start(&path, &instance);
    let mut sockets = client.sockets();
    loop {
        let mut reading = JoinSet::new();
        let held = sockets.borrow_and_update().clone();
        if !*paused.borrow_and_update() {
            for socket in &held {
                reading.spawn(read(socket.clone(), behaviour.clone()));
            }
        }
        tokio::select! {
            changed = sockets.changed() => changed.unwrap(),
            changed = paused.changed() => if changed.is_err() { return },
        }
        reading.shutdown().await;
    }
}

async fn read(socket: HeldSocket, behaviour: Behaviour) {
    let fd = socket.fd.try_clone().unwrap();
    match socket.protocol {
        Protocol::Udp => udp(UdpSocket::from_std(fd.into()).unwrap(), behaviour).await,
        Protocol::Tcp => tcp(TcpListener::from_std(fd.into()).unwrap(), behaviour).await,
    }
}

async fn udp(socket: UdpSocket, behaviour: Behaviour) {
    let mut bytes = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut bytes).await else { continue };
        let _ = socket.send_to(&behaviour.answer(&bytes[..length]), from).await;
    }
}

async fn tcp(listener: TcpListener, behaviour: Behaviour) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(converse(stream, behaviour.clone()));
    }
}

async fn converse(mut stream: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await?;
        let answer = behaviour.answer(&bytes);
        stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).await?;
    }
}

/// The server behind the Service.
pub(crate) struct ClusterDns {
    _background: Background,
}

impl ClusterDns {
    pub(crate) fn start(network: &Network) -> Self {
        let behaviour = Behaviour {
            pod_uid: "somebody-else".to_owned(),
            rcode: dns::FROM_CLUSTER_DNS,
            outside_is_dead: Arc::default(),
        };
        let sockets: Vec<_> = ["10.9.2.2", "fd09:2::2"].map(|address| bound(network, address.parse().unwrap())).into();
        let background = Background::run(move || async move {
            let mut serving = JoinSet::new();
            for (datagrams, connections) in sockets {
                serving.spawn(udp(UdpSocket::from_std(datagrams).unwrap(), behaviour.clone()));
                serving.spawn(tcp(TcpListener::from_std(connections).unwrap(), behaviour.clone()));
            }
            serving.join_all().await;
        });
        Self { _background: background }
    }
}

fn bound(network: &Network, address: IpAddr) -> (std::net::UdpSocket, std::net::TcpListener) {
    network.cluster_dns.inside(move || {
        let datagrams = std::net::UdpSocket::bind((address, 53)).unwrap();
        let connections = std::net::TcpListener::bind((address, 53)).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        connections.set_nonblocking(true).unwrap();
        (datagrams, connections)
    })
}

/// A thread with a runtime; work and thread end when this is dropped.
struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn run<F: Future>(work: impl FnOnce() -> F + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    _ = work() => {}
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

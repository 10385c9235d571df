//! Scripted servers: caches that receive the node's sockets, and the cluster DNS behind the Service.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use node_cache::admin::{self, Command, CommandHandler};
use node_cache::handover::client::Client;
use node_cache::handover::{HeldSocket, Protocol, socket_path};
use node_cache_config::figures::{Figures, ScopeResponses};
use node_cache_config::status::{Instance, UpstreamState, UpstreamStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::dns;
use crate::network::Network;

/// Responses of a server.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) pod_uid: String,
    pub(crate) rcode: u8,
    /// Whether the root is answered with SERVFAIL, and a cache reports no response of a zone resolver.
    pub(crate) outside_is_down: Arc<AtomicBool>,
}

impl CommandHandler for Behaviour {
    async fn handle(&self, command: Command) -> String {
        let upstream = |scope: &str, responded| UpstreamStatus {
            scope: scope.to_owned(),
            address: "10.9.2.2:53".parse().unwrap(),
            healthy: true,
            state: UpstreamState::default(),
            responded,
            sent: 1,
            timeouts: 0,
            in_flight: 0,
            near_misses: 0,
            detection: None,
        };
        let outside = !self.outside_is_down.load(Ordering::Relaxed);
        let upstreams = vec![upstream("cluster", true), upstream("zone/", outside)];
        match command {
            Command::Status => {
                let responses = vec![ScopeResponses { noerror: 7, ..ScopeResponses::new("cluster") }];
                let figures = Some(Box::new(Figures { responses, ..Figures::default() }));
                let instance = Instance { upstreams, alive: true, started: Some(5), figures, ..Instance::default() };
                serde_json::to_string(&instance).unwrap()
            }
            Command::Probe(_) => r#"{"rcode":3,"microseconds":9,"digest":"0aff"}"#.to_owned(),
            _ => String::new(),
        }
    }
}

impl Behaviour {
    fn respond(&self, query: &[u8]) -> Vec<u8> {
        if dns::is_identity_query(query) {
            return dns::identity_response(query, &["instance=x", "node=n", &format!("pod={}", self.pod_uid)]);
        }
        if dns::is_root_query(query) && self.outside_is_down.load(Ordering::Relaxed) {
            return dns::empty_response(query, dns::SERVFAIL);
        }
        dns::empty_response(query, self.rcode)
    }
}

/// Scripted cache: connected to the agent, serving on the sockets it receives.
pub(crate) struct Cache {
    pub(crate) behaviour: Behaviour,
    /// Whether it holds its sockets without reading them.
    paused: watch::Sender<bool>,
    _background: Background,
}

impl Cache {
    pub(crate) fn start(run_dir: &Path, instance: &str, pod_uid: &str) -> Self {
        let behaviour =
            Behaviour { pod_uid: pod_uid.to_owned(), rcode: dns::FROM_CACHE, outside_is_down: Arc::default() };
        let paused = watch::Sender::new(false);
        let path = socket_path(run_dir);
        let control_path = admin::socket_path(run_dir, instance);
        let instance = instance.to_owned();
        let answering = behaviour.clone();
        let pausing = paused.subscribe();
        let background = Background::run(move || async move {
            let reporting = admin::serve(&control_path, Arc::new(answering.clone()));
            let _ = tokio::join!(run_cache(path, instance, answering, pausing), reporting);
        });
        Self { behaviour, paused, _background: background }
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }
}

async fn run_cache(path: PathBuf, instance: String, behaviour: Behaviour, mut paused: watch::Receiver<bool>) {
    let client = Client::start(&path, &instance);
    let mut sockets = client.sockets();
    loop {
        let mut reading = JoinSet::new();
        let held = sockets.borrow_and_update().clone();
        if !*paused.borrow_and_update() {
            for socket in &held {
                reading.spawn(serve(socket.clone(), behaviour.clone()));
            }
        }
        tokio::select! {
            changed = sockets.changed() => changed.unwrap(),
            changed = paused.changed() => if changed.is_err() { return },
        }
        reading.shutdown().await;
    }
}

async fn serve(socket: HeldSocket, behaviour: Behaviour) {
    let fd = socket.fd.try_clone().unwrap();
    match socket.protocol {
        Protocol::Udp => serve_udp(UdpSocket::from_std(fd.into()).unwrap(), behaviour).await,
        Protocol::Tcp => serve_tcp(TcpListener::from_std(fd.into()).unwrap(), behaviour).await,
    }
}

async fn serve_udp(socket: UdpSocket, behaviour: Behaviour) {
    let mut bytes = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut bytes).await else { continue };
        let _ = socket.send_to(&behaviour.respond(&bytes[..length]), from).await;
    }
}

async fn serve_tcp(listener: TcpListener, behaviour: Behaviour) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve_connection(stream, behaviour.clone()));
    }
}

async fn serve_connection(mut stream: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await?;
        let response = behaviour.respond(&bytes);
        stream.write_all(&[&(response.len() as u16).to_be_bytes()[..], &response].concat()).await?;
    }
}

/// Server behind the Service.
pub(crate) struct ClusterDns {
    pub(crate) behaviour: Behaviour,
    _background: Background,
}

impl ClusterDns {
    pub(crate) fn start(network: &Network) -> Self {
        let behaviour = Behaviour {
            pod_uid: "somebody-else".to_owned(),
            rcode: dns::FROM_CLUSTER_DNS,
            outside_is_down: Arc::default(),
        };
        let answering = behaviour.clone();
        let sockets: Vec<_> = ["10.9.2.2", "fd09:2::2"].map(|address| bind(network, address.parse().unwrap())).into();
        let background = Background::run(move || async move {
            let mut serving = JoinSet::new();
            for (datagrams, connections) in sockets {
                serving.spawn(serve_udp(UdpSocket::from_std(datagrams).unwrap(), answering.clone()));
                serving.spawn(serve_tcp(TcpListener::from_std(connections).unwrap(), answering.clone()));
            }
            serving.join_all().await;
        });
        Self { behaviour, _background: background }
    }
}

fn bind(network: &Network, address: IpAddr) -> (std::net::UdpSocket, std::net::TcpListener) {
    network.cluster_dns.inside(move || {
        let datagrams = std::net::UdpSocket::bind((address, 53)).unwrap();
        let connections = std::net::TcpListener::bind((address, 53)).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        connections.set_nonblocking(true).unwrap();
        (datagrams, connections)
    })
}

/// Thread with a runtime; work and thread end on drop.
pub(crate) struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn run<F: Future>(work: impl FnOnce() -> F + Send + 'static) -> Self {
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

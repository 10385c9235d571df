//! A resolver of a zone: it listens on its pod's addresses, its questions go to the upstreams of the configuration.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use node_cache_config::names::{CONFIG_DIR, RESOLVER_DNS_PORT, RESOLVER_METRICS_PORT, RUN_DIR};
use node_cache_sys::malloc::share_one_arena;
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use super::config::{self, Role};
use super::logging;
use super::readiness::{Stage, ZoneReadiness, resolve_first_name};
use super::shutdown::Shutdown;
use super::status_reporter::StatusReporter;
use super::tap::Tap;
use super::{Inspect, Probe, ProcessError, answer_bytes, block_on, bytes, seconds, status_server, workers};
use crate::dns::cookie_secret::Secrets;
use crate::handover::{HeldSocket, Protocol};
use crate::identity::{Identity, pod_addresses};
use crate::resolver::Resolver;
use crate::server::{Server, TcpLimits};
use crate::{admin, dnstap, revision};

/// Its name among processes, and that of its control socket.
const NAME: &str = "zone-resolver";
/// Datagrams that wait to be read, in bytes; the kernel gives as much of it as it is allowed to.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The most workers that it has unless it is told a number.
const MOST_USUAL_WORKERS: usize = 4;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A resolver of a zone.
#[derive(Clone, Debug, Parser)]
#[command(name = "zone-resolver", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Answer questions until told to stop
    Run(Run),
    /// Ask the running resolver of this pod how it is
    Probe(Probe),
    /// Ask the running resolver of this pod about its answers
    #[command(flatten)]
    Inspect(Inspect),
    /// Write samples of the questions and answers of the running resolver of this pod to standard output, as dnstap
    Tap(Tap),
}

/// How a zone resolver runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// Where the projected volume with the revisions is mounted
    #[arg(long, default_value = CONFIG_DIR)]
    pub config_dir: PathBuf,
    /// Directory of the control socket
    #[arg(long, default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// Bytes that the cache may hold; workers beyond 16 take their room from it
    #[arg(long, value_parser = bytes)]
    pub cache_size: u64,
    /// Threads that each read every socket, 1 to 64 [default: as many as it may use processors, 4 at the most]
    #[arg(long, value_parser = workers)]
    pub workers: Option<usize>,
    /// Address and port to answer on, over UDP and TCP; may be given several times [default: POD_IPS, port 1053]
    #[arg(long)]
    pub listen: Vec<SocketAddr>,
    /// Address and port of /status and /metrics; may be given several times [default: POD_IPS, port 9153]
    #[arg(long)]
    pub http: Vec<SocketAddr>,
    /// How long questions are answered after being told to stop
    #[arg(long, default_value = "10s", value_parser = seconds)]
    pub drain: Duration,
}

impl Args {
    /// Does what was asked for.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] when it cannot start, or when a probe fails.
    pub fn run(self) -> Result<(), ProcessError> {
        match self.command {
            Command::Run(run) => {
                share_one_arena();
                logging::start();
                block_on(run.until_told_to_stop())
            }
            Command::Probe(probe) => block_on(async move { probe.ask(NAME).await }),
            Command::Inspect(inspect) => {
                block_on(async move { inspect.ask(RUN_DIR.as_ref(), &[NAME.to_owned()]).await })
            }
            Command::Tap(tap) => block_on(async move { tap.write(&[NAME.to_owned()]).await }),
        }
    }
}

impl Run {
    async fn until_told_to_stop(self) -> Result<(), ProcessError> {
        let mut termination = Shutdown::listen().map_err(ProcessError::Start)?;
        let listen = or_of_pod(&self.listen, RESOLVER_DNS_PORT)?;
        let (sockets, listening) = bind_all(&listen)?;
        let workers = self.workers.unwrap_or_else(usual_workers);
        let cache_bytes = answer_bytes(self.cache_size, workers)?;
        let resolver = Arc::new(Resolver::new(Identity::of(NAME), cache_bytes, Arc::default()));
        let in_force = revision::watch(&self.config_dir);
        let (_sockets, handed) = watch::channel(sockets);
        // Caches of nodes send no cookies, and which pod they reach changes: there is no secret to share.
        let (_, no_secrets) = watch::channel(Secrets::default());
        let serving = Server::start(workers, resolver.clone(), TcpLimits::default(), handed, no_secrets)
            .map_err(ProcessError::Start)?;
        let (stage, seen_stage) = watch::channel(Stage::Starting);
        let readiness = ZoneReadiness { resolver: resolver.clone(), stage: seen_stage, listening };
        let (in_force_now, workers) = (in_force.clone(), serving.workers().clone());
        let account =
            Arc::new(StatusReporter { resolver: resolver.clone(), in_force: in_force_now, readiness, workers });
        for address in or_of_pod(&self.http, RESOLVER_METRICS_PORT)? {
            let listener = status_server::listen(address).await?;
            tokio::spawn(status_server::serve(listener, account.clone()));
        }
        let path = admin::socket_path(&self.run_dir, NAME);
        let tap_path = dnstap::socket_path(&self.run_dir, NAME);
        let living = async {
            tokio::select! {
                () = become_ready(&resolver, &stage) => {}
                () = termination.asked() => {}
            }
            tracing::info!("told to stop: answering on for {:?}", self.drain);
            stage.send_replace(Stage::Draining);
            tokio::time::sleep(self.drain).await;
            serving.drain().await;
        };
        tokio::select! {
            () = config::keep(resolver.clone(), in_force, Role::ZoneResolver) => {}
            served = admin::serve(&path, account) => {
                served.map_err(|source| ProcessError::Control { path, source })?;
            }
            served = dnstap::serve(&tap_path, resolver.tap().clone()) => {
                served.map_err(|source| ProcessError::Control { path: tap_path, source })?;
            }
            () = living => {}
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// One for each processor that it may use, by its affinity and its share of time.
fn usual_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |number| number.get().min(MOST_USUAL_WORKERS))
}

/// Says so once a first name was resolved, and does not end.
async fn become_ready(resolver: &Resolver, stage: &watch::Sender<Stage>) {
    resolve_first_name(resolver).await;
    stage.send_replace(Stage::Resolving);
    tracing::info!("a first name was resolved");
    std::future::pending().await
}

/// The addresses given, else those of the pod with this port.
fn or_of_pod(given: &[SocketAddr], port: u16) -> Result<Vec<SocketAddr>, ProcessError> {
    let addresses: Vec<SocketAddr> = match given {
        [] => pod_addresses().into_iter().map(|address| SocketAddr::new(address, port)).collect(),
        given => given.to_vec(),
    };
    if addresses.is_empty() { Err(ProcessError::NoAddress) } else { Ok(addresses) }
}

/// Binds UDP and TCP at each address, and tells where questions over UDP arrive.
fn bind_all(addresses: &[SocketAddr]) -> Result<(Vec<HeldSocket>, Vec<SocketAddr>), ProcessError> {
    let mut sockets = Vec::new();
    let mut listening = Vec::new();
    for address in addresses {
        let failed = |source| ProcessError::Listen { address: *address, source };
        let udp = bind_udp(*address).map_err(failed)?;
        let bound = udp.local_addr().map_err(failed)?;
        let tcp = bind_tcp(bound).map_err(failed)?;
        listening.push(bound);
        for (fd, protocol) in [(OwnedFd::from(udp), Protocol::Udp), (OwnedFd::from(tcp), Protocol::Tcp)] {
            sockets.push(HeldSocket { address: bound.ip(), protocol, fd: Arc::new(fd) });
        }
    }
    Ok((sockets, listening))
}

fn bind_udp(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    only_v6(&socket, address)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    // A listener of a process that has just ended leaves connections in TIME-WAIT behind.
    socket.set_reuse_address(true)?;
    only_v6(&socket, address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn only_v6(socket: &Socket, address: SocketAddr) -> std::io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

//! Program `zone-resolver`: a resolver of a zone, which the caches of the zone's nodes query.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use clap::{Parser, Subcommand};
use node_cache_config::names::{RESOLVER_DNS_PORT, RESOLVER_METRICS_PORT, RUN_DIR};
use node_cache_sys::malloc::share_one_arena;
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use super::args::{Directories, bytes, seconds, workers};
use super::config::{Role, apply_revisions};
use super::inspect::Inspect;
use super::logging::LogArgs;
use super::probe::Probe;
use super::prober::Prober;
use super::readiness::{Readiness, Stage, ZoneReadiness, query_silent_upstreams, wait_for_upstream};
use super::shutdown::Shutdown;
use super::status_http::{HttpClient, ProbeParameters};
use super::status_reporter::StatusReporter;
use super::tap::Tap;
use super::{ProgramError, block_on, raise_descriptor_limit, status_http, usable_cache_bytes};
use crate::dns::cookie_secret::CookieSecrets;
use crate::handover::{HeldSocket, Protocol};
use crate::identity::{Identity, pod_addresses};
use crate::resolver::{Resolver, Room};
use crate::server::{Server, TcpLimits};
use crate::{admin, dnstap, revision};

/// Name of the process, and of its control socket.
const NAME: &str = "zone-resolver";
/// Time that a resolver has to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
/// Receive buffer of a UDP socket in bytes; the kernel caps it at `net.core.rmem_max`.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Most workers where no number is given.
const MAX_DEFAULT_WORKERS: usize = 4;
/// TCP connections that wait to be accepted.
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
    /// Answer queries until SIGTERM
    Run(RunArgs),
    /// Ask the running resolver of this pod whether it is live or ready
    Probe(Probe),
    /// Ask the running resolver of this pod about its cached responses
    #[command(flatten)]
    Inspect(Inspect),
    /// Write samples of the queries and responses of the running resolver of this pod to standard output, as dnstap
    Tap(Tap),
}

/// Arguments of a running zone resolver.
#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    directories: Directories,
    /// Bytes that the cache may hold; workers beyond 16, and queries in flight beyond 1,024, take their room from it
    #[arg(long, value_parser = bytes)]
    cache_size: u64,
    /// Threads that each read every socket, 1 to 64 [default: as many as it may use processors, 4 at the most]
    #[arg(long, value_parser = workers)]
    workers: Option<usize>,
    /// Address and port to answer on, over UDP and TCP; may be given several times [default: POD_IPS, port 1053]
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// Address and port of /status and /metrics; may be given several times [default: POD_IPS, port 9153]
    #[arg(long)]
    http: Vec<SocketAddr>,
    /// How long queries are answered after SIGTERM
    #[arg(long, default_value = "10s", value_parser = seconds)]
    drain: Duration,
    #[command(flatten)]
    log: LogArgs,
}

impl Args {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] when the resolver cannot start, or when a probe fails.
    pub fn run(self) -> Result<(), ProgramError> {
        let names = [NAME.to_owned()];
        match self.command {
            Command::Run(args) => {
                share_one_arena();
                args.log.start();
                block_on(run(args))
            }
            Command::Probe(probe) => block_on(probe.run(NAME, PROBE_TIMEOUT)),
            Command::Inspect(inspect) => block_on(inspect.run(RUN_DIR.as_ref(), &names)),
            Command::Tap(tap) => block_on(tap.run(&names)),
        }
    }
}

/// Runs a resolver until SIGTERM, and on for the drain time.
async fn run(args: RunArgs) -> Result<(), ProgramError> {
    let mut shutdown = Shutdown::listen().map_err(ProgramError::Start)?;
    let listen = given_or_pod_addresses(&args.listen, RESOLVER_DNS_PORT)?;
    let BoundSockets { sockets, addresses } = bind_all(&listen)?;
    let workers = args.workers.unwrap_or_else(default_workers);
    let (room, cache_bytes) = Room::of_zone_resolver(usable_cache_bytes(args.cache_size, workers)?);
    raise_descriptor_limit();
    let resolver = Arc::new(Resolver::with_room(Identity::from_env(NAME), cache_bytes, Arc::default(), room));
    let active = revision::watch(&args.directories.config);
    let (_sockets, sockets) = watch::channel(sockets);
    // Caches of nodes send no cookies, and which pod they reach changes: there is no secret to share.
    let (_secrets, no_secrets) = watch::channel(CookieSecrets::default());
    let server = Server::start(workers, resolver.clone(), TcpLimits::default(), sockets, no_secrets)
        .map_err(ProgramError::Start)?;
    let (stage, current_stage) = watch::channel(Stage::Starting);
    let reporter = Arc::new(StatusReporter {
        resolver: resolver.clone(),
        revision: active.clone(),
        readiness: ZoneReadiness { resolver: resolver.clone(), stage: current_stage, addresses },
        workers: server.workers().clone(),
        prober: Prober::new(resolver.clone(), active.clone()),
    });
    for address in given_or_pod_addresses(&args.http, RESOLVER_METRICS_PORT)? {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ProgramError::Listen { address, source })?;
        tokio::spawn(status_http::serve(listener, routes(&reporter)));
    }
    let control_path = admin::socket_path(&args.directories.run, NAME);
    let tap_path = dnstap::socket_path(&args.directories.run, NAME);
    let until_drained = async {
        tokio::select! {
            () = become_ready(&resolver, &stage) => {}
            () = shutdown.requested() => {}
        }
        tracing::info!(drain = ?args.drain, "shutdown requested; answering for the drain time");
        stage.send_replace(Stage::Draining);
        tokio::time::sleep(args.drain).await;
        server.drain().await;
    };
    tokio::select! {
        () = apply_revisions(resolver.clone(), active, Role::ZoneResolver) => {}
        served = admin::serve(&control_path, reporter) => {
            served.map_err(|source| ProgramError::UnixSocket { path: control_path, source })?;
        }
        served = dnstap::serve(&tap_path, resolver.tap().clone()) => {
            served.map_err(|source| ProgramError::UnixSocket { path: tap_path, source })?;
        }
        () = until_drained => {}
    }
    tracing::info!("stopped");
    Ok(())
}

/// Returns the number of workers where none is given: one for each processor that the process may use, by its affinity
/// and its cgroup's quota.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |number| number.get().min(MAX_DEFAULT_WORKERS))
}

/// Moves to [`Stage::Serving`] once an upstream has responded, or all were silent for long; does not return.
async fn become_ready(resolver: &Resolver, stage: &watch::Sender<Stage>) {
    tokio::select! {
        () = query_silent_upstreams(resolver) => {}
        () = wait_for_upstream(resolver) => {}
    }
    stage.send_replace(Stage::Serving);
    std::future::pending().await
}

/// Returns the addresses given, else those of the pod with this port.
fn given_or_pod_addresses(given: &[SocketAddr], port: u16) -> Result<Vec<SocketAddr>, ProgramError> {
    let addresses: Vec<SocketAddr> = match given {
        [] => pod_addresses().into_iter().map(|address| SocketAddr::new(address, port)).collect(),
        given => given.to_vec(),
    };
    if addresses.is_empty() { Err(ProgramError::NoAddress) } else { Ok(addresses) }
}

/// Router of a zone resolver: `/status`, `/metrics`, `/probe?name=`, and the kubelet's `/live` and `/ready`.
fn routes<R: Readiness>(reporter: &Arc<StatusReporter<R>>) -> Router {
    status_http::routes::<StatusReporter<R>>()
        .route("/live", get(live::<R>))
        .route("/ready", get(ready::<R>))
        .route("/probe", get(probe::<R>))
        .with_state(reporter.clone())
}

async fn live<R: Readiness>(State(reporter): State<Arc<StatusReporter<R>>>) -> (StatusCode, String) {
    check_response(reporter.not_live().await, "it answers\n")
}

async fn ready<R: Readiness>(State(reporter): State<Arc<StatusReporter<R>>>) -> (StatusCode, String) {
    check_response(reporter.readiness.missing().await, "ready\n")
}

async fn probe<R: Readiness>(
    State(reporter): State<Arc<StatusReporter<R>>>,
    ConnectInfo(HttpClient(client)): ConnectInfo<HttpClient>,
    parameters: Result<Query<ProbeParameters>, QueryRejection>,
) -> Response {
    let Ok(Query(ProbeParameters { name, rtype })) = parameters else { return ProbeParameters::usage() };
    status_http::probe_response(reporter.prober.probe(&name, rtype.as_deref(), Some(client)).await)
}

fn check_response(problem: Option<String>, success: &str) -> (StatusCode, String) {
    match problem {
        None => (StatusCode::OK, success.to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem + "\n"),
    }
}

/// Sockets that were bound, and the addresses at which queries over UDP arrive.
struct BoundSockets {
    sockets: Vec<HeldSocket>,
    addresses: Vec<SocketAddr>,
}

/// Binds UDP and TCP at each address.
fn bind_all(addresses: &[SocketAddr]) -> Result<BoundSockets, ProgramError> {
    let mut bound = BoundSockets { sockets: Vec::new(), addresses: Vec::new() };
    for address in addresses {
        let failed = |source| ProgramError::Listen { address: *address, source };
        let udp = bind_udp(*address).map_err(failed)?;
        let local = udp.local_addr().map_err(failed)?;
        let tcp = bind_tcp(local).map_err(failed)?;
        bound.addresses.push(local);
        for (fd, protocol) in [(OwnedFd::from(udp), Protocol::Udp), (OwnedFd::from(tcp), Protocol::Tcp)] {
            bound.sockets.push(HeldSocket { address: local.ip(), protocol, fd: Arc::new(fd) });
        }
    }
    Ok(bound)
}

fn bind_udp(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    set_only_v6(&socket, address)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    // Connections of a process that has just ended may still be in TIME-WAIT.
    socket.set_reuse_address(true)?;
    set_only_v6(&socket, address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn set_only_v6(socket: &Socket, address: SocketAddr) -> std::io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use node_cache_config::names::RESOLVER_DRAIN;

    use super::*;

    #[test]
    fn a_resolver_answers_after_sigterm_for_as_long_as_node_caches_count_on() {
        let Command::Run(args) = Args::parse_from(["zone-resolver", "run", "--cache-size", "1048576"]).command else {
            panic!("no resolver is run");
        };
        assert_eq!(args.drain, RESOLVER_DRAIN);
    }
}

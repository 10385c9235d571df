//! The real programs: configuration, readiness, shutdown.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use node_cache::admin;
use node_cache::handover::server::Server;
use node_cache::handover::{self, HeldSocket, Protocol};
use node_cache_config::probes::ProbeName;
use node_cache_config::status::{Instance, ResolverStatus};
use node_cache_config::{Config, PrivateAnswers, Upstream, UpstreamSource};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::require::{program, require};
use crate::support::{
    Action, Authority, address_record, config, empty_response, exchange, exchange_from, query_for, response_with,
    route, wait_until, zone,
};

/// Address of the node on which the processes believe to run.
pub(crate) const NODE_ADDRESS: &str = "127.0.8.1";

/// Process with its directories, killed on drop.
struct Process {
    child: Child,
    dir: TempDir,
}

impl Process {
    fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    async fn control(&self, name: &str, command: admin::Command) -> Option<String> {
        let path = admin::socket_path(self.run_dir(), name);
        admin::send_command(&path, command, Duration::from_secs(2)).await.ok()
    }

    async fn instance(&self, name: &str) -> Option<Instance> {
        serde_json::from_str(&self.control(name, admin::Command::Status).await?).ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Installs a revision the way the kubelet does: a new directory, and a link that is swapped to it.
fn install_revision(dir: &Path, revision: &str, content: &[u8]) {
    install_version(dir, revision, content, &[]);
}

/// Installs a revision, with further files of annotations.
fn install_version(dir: &Path, revision: &str, content: &[u8], files: &[(&str, &str)]) {
    let version = format!("..{revision}");
    std::fs::create_dir(dir.join(&version)).unwrap();
    std::fs::write(dir.join(&version).join("revision"), revision).unwrap();
    std::fs::write(dir.join(&version).join("zone"), "zone-a").unwrap();
    files.iter().for_each(|(name, text)| std::fs::write(dir.join(&version).join(name), text).unwrap());
    std::fs::write(dir.join(&version).join(format!("{revision}.json")), content).unwrap();
    std::os::unix::fs::symlink(&version, dir.join("..tmp")).unwrap();
    std::fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
}

fn json(config: &Config) -> Vec<u8> {
    serde_json::to_vec(config).unwrap()
}

fn start(program: &str, dir: TempDir, arguments: &[&str]) -> Process {
    start_on_node(NODE_ADDRESS, program, dir, arguments)
}

fn start_on_node(node_address: &str, program: &str, dir: TempDir, arguments: &[&str]) -> Process {
    let path = dir.path().to_str().unwrap().to_owned();
    // The kernel kills the process when the test ends, however it ends.
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", program, "run", "--config-dir", &path, "--run-dir", &path])
        .args(if arguments.contains(&"--cache-size") { &[][..] } else { &["--cache-size", "4194304"] })
        .args(arguments)
        .env("POD_UID", "uid-7")
        .env("NODE_NAME", "node-a")
        .env("HOST_IPS", node_address)
        .env("DNSTIER_LOG", std::env::var("DNSTIER_LOG").unwrap_or_else(|_| "warn".to_owned()))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Process { child, dir }
}

/// Returns an address of the loopback network that no other test uses.
fn unused_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let run = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, run[2] | 1, run[3], NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// Process of a zone resolver.
pub(crate) struct ZoneResolver {
    process: Process,
    pub(crate) dns: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl ZoneResolver {
    pub(crate) async fn start(upstream: SocketAddr, drain: &str) -> Self {
        Self::with_arguments(upstream, &["--drain", drain]).await
    }

    async fn with_arguments(upstream: SocketAddr, args: &[&str]) -> Self {
        let mut config = config("127.0.0.1:9".parse().unwrap());
        config.resolver.upstreams = UpstreamSource::Servers(vec![upstream.into()]);
        Self::configured(&config, args).await
    }

    pub(crate) async fn configured(config: &Config, args: &[&str]) -> Self {
        Self::configured_on(unused_address(), NODE_ADDRESS.parse().unwrap(), config, args).await
    }

    /// Starts a zone resolver on this address of a node that has this other address.
    pub(crate) async fn configured_on(address: IpAddr, node: IpAddr, config: &Config, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        install_revision(dir.path(), "r1", &json(config));
        let dns = SocketAddr::new(address, 1053);
        let http = SocketAddr::new(address, 9153);
        let listen = dns.to_string();
        let on = http.to_string();
        let arguments = [&["--listen", &listen, "--http", &on], args].concat();
        let process = start_on_node(&node.to_string(), env!("CARGO_BIN_EXE_zone-resolver"), dir, &arguments);
        let resolver = Self { process, dns, http };
        wait_until("it lives", Duration::from_secs(5), async || resolver.probe("live")).await;
        resolver
    }

    /// Returns the process ID while the process runs.
    pub(crate) fn pid(&mut self) -> Option<u32> {
        self.process.is_running().then(|| self.process.child.id())
    }

    /// Tells the resolver how many are on its node, as the pod's annotation does.
    pub(crate) fn set_resolvers_on_node(&self, revision: &str, config: &Config, number: usize) {
        let number = number.to_string();
        install_version(self.process.run_dir(), revision, &json(config), &[("resolvers-on-node", &number)]);
    }

    /// Runs the program's own probe and returns whether it succeeded.
    pub(crate) fn probe(&self, check: &str) -> bool {
        let run_dir = self.process.run_dir().to_str().unwrap();
        Command::new(env!("CARGO_BIN_EXE_zone-resolver"))
            .args(["probe", check, "--run-dir", run_dir])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200"), "{text}");
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    async fn status(&self) -> ResolverStatus {
        serde_json::from_str(&self.get("/status").await).unwrap()
    }
}

#[tokio::test]
async fn a_zone_resolver_is_ready_once_it_has_resolved_a_name_and_a_dead_upstream_is_told_but_changes_nothing() {
    let upstream = Authority::start(|_| Action::Ignore).await;
    let resolver = ZoneResolver::start(upstream.address, "0s").await;
    assert!(!resolver.probe("ready"));
    assert!(!resolver.status().await.ready);
    upstream.set_script(|query| Action::Respond(query.default_response(300, 1)));
    wait_until("it is ready", Duration::from_secs(8), async || resolver.probe("ready")).await;
    let status = resolver.status().await;
    assert!(status.ready && status.instance.alive);
    assert_eq!(
        (status.pod_uid.as_str(), status.node.as_str(), status.zone.as_deref()),
        ("uid-7", "node-a", Some("zone-a"))
    );
    assert_eq!(status.instance.revision.in_force.as_deref(), Some("r1"));

    let failed_before = status.instance.traffic.servfail;
    upstream.stop_responding();
    for number in 0..2 {
        exchange(resolver.dns, &query_for(&format!("n{number}.example"), RecordType::A)).await;
    }
    let status = resolver.status().await;
    assert!(status.ready && resolver.probe("ready"));
    assert_eq!(status.instance.upstreams.len(), 1);
    assert!(!status.instance.upstreams[0].healthy && status.instance.upstreams[0].timeouts >= 3);
    assert_eq!(status.instance.traffic.servfail - failed_before, 2);
    let metrics = resolver.get("/metrics").await;
    assert!(
        metrics.contains("dnstier_cache_upstream_healthy{process=\"zone-resolver\",scope=\"forward\""),
        "{metrics}"
    );
}

#[tokio::test]
async fn any_response_to_any_name_makes_a_zone_resolver_ready_whatever_its_rcode() {
    let codes = [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NXDomain, ResponseCode::NotImp];
    join_all(codes.map(async |rcode| {
        let upstream = Authority::start(move |query| {
            let root = query.name().is_root();
            Action::Respond(if root { empty_response(query, rcode) } else { query.default_response(300, 1) })
        })
        .await;
        let resolver = ZoneResolver::start(upstream.address, "0s").await;
        wait_until(&rcode.to_string(), Duration::from_secs(8), async || resolver.probe("ready")).await;
        let response = exchange(resolver.dns, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.answers.len(), 1);
        let status = resolver.status().await;
        assert!(status.ready && status.instance.upstreams[0].responded);
        assert_eq!(status.instance.traffic.queries, 1, "own queries are no traffic");
        assert_eq!((status.instance.traffic.servfail, status.instance.traffic.hits), (0, 0));
    }))
    .await;
}

#[tokio::test]
async fn a_zone_resolver_is_ready_with_one_upstream_of_two() {
    for silent_first in [true, false] {
        let silent = Authority::start(|_| Action::Ignore).await;
        let refusing = Authority::start(|query| Action::Respond(empty_response(query, ResponseCode::Refused))).await;
        let mut servers = [silent.address, refusing.address];
        if !silent_first {
            servers.reverse();
        }
        let mut config = config("127.0.0.1:9".parse().unwrap());
        config.resolver.upstreams = UpstreamSource::Servers(servers.map(Upstream::from).to_vec());
        let resolver = ZoneResolver::configured(&config, &["--drain", "0s"]).await;
        wait_until("it is ready", Duration::from_secs(8), async || resolver.probe("ready")).await;
    }
}

#[tokio::test]
async fn a_zone_resolver_whose_upstreams_are_silent_is_ready_in_the_end_and_answers_what_they_answer() {
    // A server for one top-level domain, silent for all others.
    let upstream = Authority::start(|query| {
        let is_known = query.name().to_ascii().to_ascii_lowercase().ends_with("corp.");
        if is_known { Action::Respond(query.default_response(300, 1)) } else { Action::Ignore }
    })
    .await;
    let resolver = ZoneResolver::start(upstream.address, "0s").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!resolver.probe("ready"), "it may still respond");
    wait_until("it is ready", Duration::from_secs(60), async || resolver.probe("ready")).await;
    let response = exchange(resolver.dns, &query_for("www.corp", RecordType::A)).await;
    assert_eq!(response.answers.len(), 1);
}

#[tokio::test]
async fn slow_and_talkative_http_clients_cost_neither_dns_nor_the_kubelet_anything() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let resolver = ZoneResolver::start(upstream.address, "0s").await;
    let from = async |last_octet: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 77, last_octet], 0))).unwrap();
        socket.connect(resolver.http).await.unwrap()
    };
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = from(1).await;
        // Connections above the limit of one address are closed already.
        let _ = stream.write_all(b"GET /live HTTP/1.1\r\nx: ").await;
        slow.push(stream);
    }
    let mut talkative = from(2).await;
    let _ = talkative.write_all(&[b"GET /metrics HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat()).await;
    let mut received = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), talkative.read_to_end(&mut received))
        .await
        .expect("it is closed");
    assert!(!received.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&received));
    assert_eq!(resolver.get("/live").await, "it answers\n");
    assert_eq!(exchange(resolver.dns, &query_for("www.example", RecordType::A)).await.answers.len(), 1);
}

#[tokio::test]
async fn a_dead_upstream_is_known_to_be_well_again_although_nobody_asks() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let resolver = ZoneResolver::start(upstream.address, "0s").await;
    wait_until("it is ready", Duration::from_secs(8), async || resolver.probe("ready")).await;
    upstream.stop_responding();
    for number in 0..2 {
        exchange(resolver.dns, &query_for(&format!("n{number}.example"), RecordType::A)).await;
    }
    let healthy = async || resolver.status().await.instance.upstreams[0].healthy;
    assert!(!healthy().await);
    upstream.clear_queries();
    upstream.set_script(|query| Action::Respond(query.default_response(300, 1)));
    wait_until("it is well again", Duration::from_secs(5), healthy).await;
    assert_eq!(upstream.queries().len(), 1, "one question was enough to know");
}

#[tokio::test]
async fn a_zone_resolver_that_is_told_to_stop_is_unready_and_answers_on() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut resolver = ZoneResolver::start(upstream.address, "2s").await;
    wait_until("it is ready", Duration::from_secs(5), async || resolver.probe("ready")).await;
    resolver.process.terminate();
    let terminated = Instant::now();
    wait_until("it is unready", Duration::from_secs(1), async || !resolver.probe("ready")).await;
    assert!(resolver.probe("live"));
    while terminated.elapsed() < Duration::from_millis(1800) {
        let name = format!("n{}.example", terminated.elapsed().as_micros());
        assert_eq!(exchange(resolver.dns, &query_for(&name, RecordType::A)).await.answers.len(), 1);
    }
    let limit = Instant::now() + Duration::from_secs(2);
    while resolver.process.is_running() {
        assert!(Instant::now() < limit, "it ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(terminated.elapsed() >= Duration::from_secs(2));
    assert!(resolver.process.child.wait().unwrap().success());
}

#[tokio::test]
async fn memory_stays_near_the_size_of_the_cache() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let resolver = ZoneResolver::start(upstream.address, "0s").await;
    wait_until("it is ready", Duration::from_secs(5), async || resolver.probe("ready")).await;
    let before = resident_memory(&resolver.process.child);
    for number in 0..36_000 {
        upstream.clear_queries();
        exchange(resolver.dns, &query_for(&format!("a-rather-long-name-{number}.of-no-use.example"), RecordType::A))
            .await;
    }
    let grown = resident_memory(&resolver.process.child) - before;
    let traffic = resolver.status().await.instance.traffic;
    assert!(traffic.cache_bytes <= 4 << 20 && traffic.cache_entries > 18_000, "{traffic:?}");
    assert!(traffic.cache_entries < 35_000, "nothing had to be evicted: {traffic:?}");
    assert!(grown < 7 << 20, "{grown} bytes for {traffic:?}");
}

#[tokio::test]
async fn many_workers_share_the_room_that_there_is_beside_the_cache() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let resolver = ZoneResolver::with_arguments(
        upstream.address,
        &["--drain", "0s", "--workers", "64", "--cache-size", "16777216"],
    )
    .await;
    let workers = workers_of(&resolver.process.child);
    assert_eq!(workers.len(), 64, "{workers:?}");
    wait_until("it is ready", Duration::from_secs(5), async || resolver.probe("ready")).await;
    let load = || async {
        let queries: Vec<_> = (0..500).map(|number| query_for(&format!("n{number}.example"), RecordType::A)).collect();
        join_all(queries.iter().map(|query| exchange(resolver.dns, query))).await;
        resolver.get("/metrics").await
    };
    // Until every worker has used its buffers.
    wait_until("all have read", Duration::from_secs(60), async || {
        let page = load().await;
        let of_workers = page.lines().filter(|line| line.contains("worker_datagrams_total{"));
        let counts = of_workers.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).collect::<Vec<_>>();
        // Sixteen have a count of their own, 48 one together.
        counts.len() == 17 && counts.iter().all(|count| *count > 0) && counts.last().is_some_and(|sum| *sum > 2_000)
    })
    .await;
    let bytes = anonymous_memory(&resolver.process.child);
    assert!(bytes < 32 << 20, "{bytes} bytes");
}

#[test]
fn a_number_of_workers_that_makes_no_sense_is_refused_with_a_sentence() {
    for (program, other_args) in [
        (env!("CARGO_BIN_EXE_node-cache"), ["--instance", "cache-0"]),
        (env!("CARGO_BIN_EXE_zone-resolver"), ["--drain", "0s"]),
    ] {
        for workers in ["0", "65", "some"] {
            let arguments = ["run", "--cache-size", "4194304", "--workers", workers];
            let output = Command::new(program).args(arguments).args(other_args).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success());
            assert!(stderr.contains(&format!("{workers:?} is not a number of workers from 1 to 64")), "{stderr}");
        }
    }
}

/// Returns the names of the worker threads.
fn workers_of(child: &Child) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
    let names = tasks.flat_map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("worker-")).collect()
}

/// Returns the anonymous memory of a process in bytes: all but mapped files, such as its program.
fn anonymous_memory(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Returns the resident memory of a process in bytes.
fn resident_memory(child: &Child) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Process of a node cache, with the agent's side of its sockets.
pub(crate) struct NodeCache {
    process: Process,
    agent: Option<Server>,
    pub(crate) dns: SocketAddr,
}

impl NodeCache {
    pub(crate) async fn start(config: &Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        install_revision(dir.path(), "r1", &json(config));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dns = socket.local_addr().unwrap();
        let agent = Server::bind(&handover::socket_path(dir.path()), 2).unwrap();
        let fd = Arc::new(OwnedFd::from(socket));
        agent.publish(vec![HeldSocket { address: dns.ip(), protocol: Protocol::Udp, fd }]);
        let process = start(env!("CARGO_BIN_EXE_node-cache"), dir, &["--instance", "cache-0"]);
        let cache = Self { process, agent: Some(agent), dns };
        wait_until("it is ready", Duration::from_secs(5), async || {
            cache.process.control("cache-0", admin::Command::Ready).await.as_deref() == Some(admin::OK)
        })
        .await;
        cache
    }

    /// Returns the status of the process.
    pub(crate) async fn instance(&self) -> Instance {
        self.process.instance("cache-0").await.unwrap()
    }

    /// Probes the process over its control socket, as the agent does.
    pub(crate) async fn control_probe(&self, name: &str, rtype: &str) -> String {
        let command = admin::Command::Probe(ProbeName::new(name, rtype));
        self.process.control("cache-0", command).await.unwrap()
    }

    async fn answers(&self, name: &str) -> Vec<hickory_proto::rr::RData> {
        let response: Message = exchange(self.dns, &query_for(name, RecordType::A)).await;
        response.answers.into_iter().map(|record| record.data).collect()
    }
}

async fn outside_and_corp() -> (Authority, Authority, Config) {
    let outside = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let corp = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    let mut config = config(outside.address);
    config.zones = vec![zone("zone-a", outside.address)];
    (outside, corp, config)
}

#[tokio::test]
async fn a_route_added_is_in_force_within_two_seconds_in_the_same_process_and_a_bad_revision_is_kept_out_and_told() {
    let (_outside, corp, mut config) = outside_and_corp().await;
    let mut cache = NodeCache::start(&config).await;
    let outside = address_record("x", 0, "192.0.2.1").data;
    let routed = address_record("x", 0, "192.0.2.2").data;
    assert_eq!(cache.answers("a.corp.example").await, [outside]);

    config.routes = vec![route("corp.example", &[corp.address])];
    install_revision(cache.process.run_dir(), "r2", &json(&config));
    wait_until("the route is in force", Duration::from_secs(2), async || {
        cache.answers("a.corp.example").await == [routed.clone()]
    })
    .await;
    assert!(cache.process.is_running());

    let mut bad = config.clone();
    bad.routes[0].upstreams.clear();
    install_revision(cache.process.run_dir(), "r3", &json(&bad));
    wait_until("the refusal is told", Duration::from_secs(2), async || {
        cache.process.instance("cache-0").await.is_some_and(|instance| instance.revision.refusal.is_some())
    })
    .await;
    let revision = cache.process.instance("cache-0").await.unwrap().revision;
    assert_eq!((revision.asked.as_deref(), revision.in_force.as_deref()), (Some("r3"), Some("r2")));
    assert!(revision.refusal.unwrap().contains("routes[0].upstreams"));
    assert_eq!(cache.answers("b.corp.example").await, [routed]);
}

#[tokio::test]
async fn private_answers_are_refused_and_allowed_again_in_the_same_process_and_an_old_revision_allows_them() {
    let private = address_record("www.example", 300, "10.0.0.1").data;
    let outside = Authority::start({
        let records = vec![address_record("www.example", 300, "10.0.0.1")];
        move |query| Action::Respond(response_with(query, records.clone()))
    })
    .await;
    let mut config = config(outside.address);
    config.zones = vec![zone("zone-a", outside.address)];
    config.node_cache.cache.negative_max_ttl = 3600;
    let mut cache = NodeCache::start(&config).await;
    config.node_cache.private_answers = PrivateAnswers::Refuse;
    let refusing = json(&config);
    // As operators wrote it before the field existed.
    let mut old: serde_json::Value = serde_json::from_slice(&refusing).unwrap();
    old["nodeCache"].as_object_mut().unwrap().remove("privateAnswers").unwrap();
    let old = serde_json::to_vec(&old).unwrap();
    for (revision, content, expected) in
        [("r2", &refusing, vec![]), ("r3", &old, vec![private.clone()]), ("r4", &refusing, vec![])]
    {
        install_revision(cache.process.run_dir(), revision, content);
        wait_until(revision, Duration::from_secs(10), async || {
            let instance = cache.process.instance("cache-0").await;
            instance.is_some_and(|instance| instance.revision.in_force.as_deref() == Some(revision))
        })
        .await;
        wait_until("it is applied", Duration::from_secs(10), async || cache.answers("www.example").await == expected)
            .await;
    }
    assert!(cache.process.is_running());
    let metrics = cache.process.control("cache-0", admin::Command::Metrics).await.unwrap();
    let counter = "dnstier_cache_private_answers_refused_total{process=\"cache-0\"} 1";
    assert!(metrics.contains(counter), "{metrics}");
    let name = node_cache::dns::Name::from_text("www.example").unwrap();
    let explain = admin::Command::Inspect(admin::Inspection::Explain { name, rtype: 1 });
    let explanation = cache.process.control("cache-0", explain).await.unwrap();
    assert!(explanation.contains("this query: NOERROR (EDE 15)"), "{explanation}");
}

#[tokio::test]
async fn a_cache_that_is_told_to_stop_answers_until_the_agent_has_left() {
    let (_outside, _corp, config) = outside_and_corp().await;
    let mut cache = NodeCache::start(&config).await;
    cache.process.terminate();
    let terminated = Instant::now();
    while terminated.elapsed() < Duration::from_secs(2) {
        let name = format!("n{}.example", terminated.elapsed().as_micros());
        assert_eq!(cache.answers(&name).await.len(), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(cache.process.is_running());
    drop(cache.agent.take());
    let agent_left = Instant::now();
    while cache.process.is_running() {
        assert!(agent_left.elapsed() < Duration::from_secs(2), "it ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(cache.process.child.wait().unwrap().success());
}

#[tokio::test]
async fn a_socket_that_the_agent_takes_back_is_closed_and_a_new_one_is_read() {
    let (_outside, _corp, config) = outside_and_corp().await;
    let cache = NodeCache::start(&config).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let new = socket.local_addr().unwrap();
    let fd = Arc::new(OwnedFd::from(socket));
    cache.agent.as_ref().unwrap().publish(vec![HeldSocket { address: new.ip(), protocol: Protocol::Udp, fd }]);
    let www = query_for("www.example", RecordType::A);
    let soon = Duration::from_millis(200);
    wait_until("the new one is read", Duration::from_secs(2), async || {
        exchange_from("127.0.0.1:0", new, &www, soon).await.is_some()
    })
    .await;
    wait_until("the old one is closed", Duration::from_secs(2), async || UdpSocket::bind(cache.dns).is_ok()).await;
}

/// Returns the head and the body of a metrics page that is asked for with this line of `Accept`.
async fn metrics_page(server: SocketAddr, accept: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: resolver\r\nConnection: close\r\n{accept}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn the_metrics_page_is_in_the_format_that_the_scraper_asks_for() {
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let resolver = ZoneResolver::start(upstream.address, "0s").await;
    let open_metrics = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
    let (head, body) = metrics_page(resolver.http, open_metrics).await;
    assert!(head.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(body.ends_with("# EOF\n") && body.contains("\n# TYPE dnstier_cache_hits counter\n"), "{body}");
    assert!(body.contains("\n# UNIT process_cpu_seconds seconds\n"), "{body}");
    for accept in ["", "Accept: */*\r\n", "Accept: nonsense\r\n", "Accept: text/plain\r\nAccept: \u{ff}\r\n"] {
        let (head, body) = metrics_page(resolver.http, accept).await;
        assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8"), "{accept}: {head}");
        assert!(head.contains("\r\nvary: accept"), "{head}");
        assert!(!body.contains("# EOF") && !body.contains("# UNIT"), "{body}");
        assert!(body.contains("\n# TYPE dnstier_cache_hits_total counter\n"), "{body}");
        assert!(body.contains("\ndnstier_build_info{process=\"zone-resolver\",version=\""), "{body}");
    }
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_of_in_the_metrics_of_a_resolver() {
    require!(program("promtool"));
    let upstream = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let resolver = ZoneResolver::start(upstream.address, "0s").await;
    exchange(resolver.dns, &query_for("www.example", RecordType::A)).await;
    let (_, page) = metrics_page(resolver.http, "").await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && report.trim().is_empty(), "{report}\n{page}");
}

#[tokio::test]
async fn a_cache_shows_who_it_is_and_what_it_counts() {
    let (_outside, _corp, config) = outside_and_corp().await;
    let cache = NodeCache::start(&config).await;
    cache.answers("www.example").await;
    cache.answers("www.example").await;
    let refused = exchange(cache.dns, &query_for("x", RecordType::AXFR)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    let instance = cache.process.instance("cache-0").await.unwrap();
    assert_eq!((instance.name.as_str(), instance.alive), ("cache-0", true));
    assert_eq!((instance.traffic.queries, instance.traffic.hits), (3, 1));
    assert!(instance.upstreams.iter().any(|upstream| upstream.scope == "zone/zone-a" && upstream.sent > 0));
    let metrics = cache.process.control("cache-0", admin::Command::Metrics).await.unwrap();
    assert!(metrics.contains("dnstier_cache_answers_total{process=\"cache-0\",scope=\"outside\",rcode=\"NOERROR\"} 2"));
    let run_dir = cache.process.run_dir().to_str().unwrap();
    let probe = Command::new(env!("CARGO_BIN_EXE_node-cache"))
        .args(["probe", "live", "--instance", "cache-0", "--run-dir", run_dir])
        .status()
        .unwrap();
    assert!(probe.success());
}

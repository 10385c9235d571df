//! Upper bound of a process's memory in a container of 128 MiB, under load from all sides.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use node_cache_config::{Config, UpstreamSource};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::processes::ZoneResolver;
use crate::require::{open_files, require};
use crate::support::{Action, Authority, ReceivedQuery, config, exchange, query_for, response_with, unknown_record};

const CONTAINER_BYTES: u64 = 128 << 20;
/// Limit of a process's memory in bytes beside its cache.
pub(crate) const MAX_BESIDE_CACHE: u64 = if cfg!(debug_assertions) { 24 << 20 } else { 16 << 20 };
/// Limit of a process's memory in bytes: a cache of 4 MiB and 16 MiB beside it. An optimized process took 15 MB with
/// one worker and 18 with four. Unoptimized code is twice as long and takes more memory: 21 and 23 MB.
const MAX_MEMORY_BYTES: u64 = (4 << 20) + MAX_BESIDE_CACHE;
const LONG_RTYPE: RecordType = RecordType::Unknown(65_280);

/// Memory cgroup (version 1), removed on drop.
pub(crate) struct Container(PathBuf);

impl Container {
    /// Puts a process into a new cgroup; `None` where there is no cgroup version 1. Removes the cgroups that killed
    /// tests have left.
    pub(crate) fn hold(process: u32) -> Option<Self> {
        let cgroups = Path::new("/sys/fs/cgroup/memory");
        for leftover in std::fs::read_dir(cgroups).ok()?.flatten() {
            let name = leftover.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix("dnstier-test-"));
            if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                let _ = std::fs::remove_dir(leftover.path());
            }
        }
        let container = Self(cgroups.join(format!("dnstier-test-{process}")));
        std::fs::create_dir(&container.0).ok()?;
        std::fs::write(container.0.join("memory.limit_in_bytes"), CONTAINER_BYTES.to_string()).unwrap();
        std::fs::write(container.0.join("cgroup.procs"), process.to_string()).unwrap();
        Some(container)
    }

    /// Returns the bytes that the kernel keeps for the process.
    pub(crate) fn kernel_bytes(&self) -> u64 {
        let usage = std::fs::read_to_string(self.0.join("memory.kmem.usage_in_bytes")).unwrap_or_default();
        usage.trim().parse().unwrap_or(0)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The process has ended, or is about to.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Resolver in its container. The resolver is dropped first.
struct ContainedResolver {
    resolver: ZoneResolver,
    _container: Option<Container>,
}

/// Ignores queries for unique names, answers 63 KiB over TCP to long ones and an address to all others.
fn upstream(query: &ReceivedQuery) -> Action {
    let name = query.name().to_ascii().to_ascii_lowercase();
    match name.as_bytes()[0] {
        b'n' => Action::Ignore,
        b'l' if query.rtype() == LONG_RTYPE => {
            let count = if query.tcp { 63 } else { 1 };
            let mut message =
                response_with(query, (0..count).map(|_| unknown_record(&name, 65_280, &[7; 1000])).collect());
            message.metadata.truncation = !query.tcp;
            Action::Respond(message)
        }
        _ => Action::Respond(query.default_response(3600, 1)),
    }
}

fn open_config(upstream: SocketAddr) -> Config {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream.into()]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

/// Returns a field of `/proc/PID/status` in kB.
pub(crate) fn status_kb(process: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.trim_start_matches(':').trim_end_matches("kB").trim().parse::<u64>().unwrap()
}

/// Sends octets to the resolver over a new connection from this source and reads nothing.
async fn send_unread(source: &str, resolver: SocketAddr, octets: &[u8]) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(source.parse().unwrap()).ok()?;
    let mut stream = socket.connect(resolver).await.ok()?;
    stream.write_all(octets).await.ok()?;
    Some(stream)
}

/// Loads a resolver with this many workers for this long: unique names, long responses, connections.
async fn load(workers: &str, duration: Duration) {
    let authority = Authority::start(upstream).await;
    let mut resolver =
        ZoneResolver::configured(&open_config(authority.address), &["--drain", "0s", "--workers", workers]).await;
    let process = resolver.pid().unwrap();
    let started = Instant::now();
    while !resolver.probe("ready") {
        assert!(started.elapsed() < Duration::from_secs(10), "it is ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut contained = ContainedResolver { resolver, _container: Container::hold(process) };
    let resolver = &mut contained.resolver;
    let cached = query_for("www.example", RecordType::A);
    assert_eq!(exchange(resolver.dns, &cached).await.answers.len(), 1);
    let mut number = 0_usize;
    let mut connections = Vec::new();
    let mut max_anon = 0;
    let sockets = [2, 3, 4, 5].map(|host| std::net::UdpSocket::bind((format!("127.0.0.{host}"), 0)).unwrap());
    let sockets = sockets.map(|socket| {
        socket.set_nonblocking(true).unwrap();
        UdpSocket::from_std(socket).unwrap()
    });
    while started.elapsed() < duration || number == 0 {
        for _ in 0..600 {
            number += 1;
            for socket in &sockets {
                let unique = query_for(&format!("n{number}.{}.example", socket.local_addr().unwrap().ip()), LONG_RTYPE);
                let _ = socket.try_send_to(&unique.to_vec().unwrap(), resolver.dns);
            }
            if number.is_multiple_of(20) {
                tokio::task::yield_now().await;
            }
        }
        for part in 0..40 {
            let source = format!("127.0.0.{}:0", 10 + part % 20);
            let long = query_for(&format!("l{number}-{part}.example"), LONG_RTYPE).to_vec().unwrap();
            let framed = [&u16::try_from(long.len()).unwrap().to_be_bytes()[..], &long].concat().repeat(32);
            connections.extend(send_unread(&source, resolver.dns, &framed).await);
            for _ in 0..8 {
                connections.extend(send_unread(&source, resolver.dns, &[&[0xff, 0xff][..], &[0; 3000]].concat()).await);
            }
        }
        let excess = connections.len().saturating_sub(800);
        connections.drain(..excess);
        authority.clear_queries();
        assert_eq!(exchange(resolver.dns, &cached).await.answers.len(), 1, "what is in memory is said");
        assert_eq!(resolver.pid(), Some(process), "nobody ended it");
        max_anon = max_anon.max(status_kb(process, "RssAnon"));
    }
    let peak = status_kb(process, "VmHWM");
    assert!(1024 * peak <= MAX_MEMORY_BYTES, "{peak} kB, {max_anon} kB of its own");
}

#[tokio::test]
async fn names_of_no_use_long_answers_and_connections_leave_most_of_a_container_of_128_mib() {
    require!(open_files(8192));
    load("1", Duration::from_secs(10)).await;
}

#[tokio::test]
async fn four_workers_leave_as_much_of_it() {
    require!(open_files(8192));
    load("4", Duration::from_secs(10)).await;
}

#[tokio::test]
#[ignore = "half an hour; run by make test-long"]
async fn half_an_hour_of_them_leaves_most_of_the_container_too() {
    require!(open_files(8192));
    load("2", Duration::from_secs(1800)).await;
}

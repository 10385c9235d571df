//! Subjects of the benchmark: the released program `zone-resolver` with a configuration directory and sockets of its
//! own, and the peers.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::config::configuration;
use super::peers::{PEERS, Peer};
use super::process::ServerProcess;
use super::programs;
use super::upstream::Upstream;
use crate::host::loopback::free_address;
use crate::host::processors::server_command;
use crate::load::flow::Flow;
use crate::load::queries;
use crate::report::labels::OURS;

/// Time that a server has until its first response.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Queries per second until then.
const READY_QUERY_RATE: f64 = 500.0;
/// Set of names that only these queries use.
const READY_SET: u8 = b'z' - b'a';
/// Smallest number of names that a peer is given room for.
const MIN_NAMES: usize = 200;

/// Size of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheSize {
    /// Bytes, for servers that count in them.
    pub(crate) bytes: u64,
    /// Names with five records each at most, for servers that count in names or records.
    pub(crate) names: usize,
}

/// Size for everything that is queried, where cache size is not what is measured.
pub(crate) const AMPLE_CACHE: CacheSize = CacheSize { bytes: 256 << 20, names: 200_000 };

/// Server that can be started.
#[derive(Clone, Copy)]
pub(crate) enum Subject {
    Ours,
    Peer(Peer),
}

impl Subject {
    /// Returns all installed servers whose name begins with `prefix`, ours first. Prints which peers are missing.
    pub(crate) fn installed(prefix: Option<&str>) -> Vec<Self> {
        let subjects = std::iter::once(Self::Ours).chain(PEERS.into_iter().map(Self::Peer));
        let selected = subjects.filter(|subject| prefix.is_none_or(|prefix| subject.name().starts_with(prefix)));
        selected.filter(Self::is_installed).collect()
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Ours => OURS,
            Self::Peer(peer) => peer.name,
        }
    }

    pub(crate) fn version(&self) -> String {
        match self {
            Self::Ours => env!("CARGO_PKG_VERSION").into(),
            Self::Peer(peer) => peer.version(),
        }
    }

    /// Returns whether its cache is not that of another subject, from which it differs by its sockets only.
    pub(crate) fn has_distinct_cache(&self) -> bool {
        !self.name().starts_with("dnsdist,")
    }

    /// Returns whether it allocates its whole cache at its start.
    pub(crate) fn allocates_cache_at_start(&self) -> bool {
        self.name() == "dnsmasq"
    }

    /// Returns its resident memory in bytes with a cache for nothing; `None` where it does not answer.
    pub(crate) fn resident_bytes_without_cache(&self, folder: &Path, upstream: &mut Upstream) -> Option<u64> {
        Some(self.spawn_ready(folder, upstream, CacheSize { bytes: 1 << 20, names: 0 })?.resident_bytes())
    }

    /// Returns a cache size of this many bytes, or of this many responses where it counts in them.
    pub(crate) fn cache_size(&self, bytes: u64, responses: usize) -> CacheSize {
        // Each is configured for five records per name. dnsdist and CoreDNS take this for a number of responses;
        // dnsmasq counts records, of which a response has four here.
        let names = match self.name() {
            name if name.starts_with("dnsdist") || name.starts_with("CoreDNS") => responses / 5,
            "dnsmasq" => responses / 5 * 4,
            _ => responses,
        };
        CacheSize { bytes, names: names.max(MIN_NAMES) }
    }

    /// Starts it on the servers' processor, and does not wait until it answers.
    pub(crate) fn spawn(&self, folder: &Path, upstream: SocketAddr, cache: CacheSize) -> ServerProcess {
        let address = free_address();
        match self {
            Self::Ours => {
                let metrics = free_address();
                let child = spawn_zone_resolver(folder, address, metrics, upstream, cache.bytes);
                ServerProcess { child, address, metrics: Some(metrics) }
            }
            Self::Peer(peer) => {
                let peer = peer.with_names(cache.names).with_cache_bytes(cache.bytes);
                let child = peer.spawn(&[], folder, address, upstream);
                ServerProcess { child, address, metrics: None }
            }
        }
    }

    /// Starts it and waits until it answers from an upstream that this thread serves; `None` where it does not in time.
    pub(crate) fn spawn_ready(
        &self,
        folder: &Path,
        upstream: &mut Upstream,
        cache: CacheSize,
    ) -> Option<ServerProcess> {
        let server = self.spawn(folder, upstream.address(), cache);
        self.wait_until_ready(&server, || upstream.serve_pending()).then_some(server)
    }

    /// Waits until a server answers; prints that it is left out, and returns false, where it does not in time.
    pub(crate) fn wait_until_ready(&self, server: &ServerProcess, meanwhile: impl FnMut()) -> bool {
        let mut source = |number, out: &mut Vec<u8>| queries::append_of_set(READY_SET, number, out);
        let mut client = Flow::new(server.address, 1);
        let is_ready = client.run_until_answered(READY_QUERY_RATE, READY_TIMEOUT, &mut source, meanwhile);
        if !is_ready {
            println!("{} does not answer and is left out", self.name());
        }
        is_ready
    }

    fn is_installed(&self) -> bool {
        let is_installed = match self {
            Self::Ours => true,
            Self::Peer(peer) => peer.is_installed(),
        };
        if !is_installed {
            println!("{} is not installed and is left out", self.name());
        }
        is_installed
    }
}

fn spawn_zone_resolver(
    folder: &Path,
    address: SocketAddr,
    metrics: SocketAddr,
    upstream: SocketAddr,
    cache_bytes: u64,
) -> Child {
    let folder = folder.join(format!("ours-{}", address.port()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("stable.json"), serde_json::to_string(&configuration(upstream, 3600, 86400)).unwrap())
        .unwrap();
    server_command()
        .arg(programs::find("zone-resolver"))
        .arg("run")
        .args(["--cache-size", &cache_bytes.to_string()])
        .args(["--listen", &address.to_string(), "--http", &metrics.to_string()])
        .arg("--config-dir")
        .arg(&folder)
        .arg("--run-dir")
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("errors")).unwrap())
        .spawn()
        .unwrap()
}

#[cfg(test)]
mod tests {
    use super::{PEERS, Subject};

    fn peer(name: &str) -> Subject {
        Subject::Peer(PEERS.into_iter().find(|peer| peer.name == name).unwrap())
    }

    #[test]
    fn each_peer_is_given_room_for_as_many_responses_in_its_own_unit() {
        let names = ["unbound", "dnsdist", "CoreDNS", "dnsmasq", "hickory-server"];
        let sizes = names.map(|name| peer(name).cache_size(1 << 20, 10_000).names);
        assert_eq!(sizes, [10_000, 2_000, 2_000, 8_000, 10_000]);
        assert_eq!(peer("CoreDNS").cache_size(1 << 20, 0).names, 200);
    }

    #[test]
    fn dnsdist_has_one_cache_under_two_names() {
        let variants = PEERS.into_iter().map(Subject::Peer).filter(|subject| !subject.has_distinct_cache());
        assert_eq!(variants.map(|subject| subject.name()).collect::<Vec<_>>(), ["dnsdist, 32 datagrams per call"]);
    }
}

//! What is measured: the program that is released, with a configuration directory and sockets of its own, and the peers.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::load::flow::Flow;
use crate::load::queries as names;
pub(crate) use crate::report::hits::page::OURS;
use crate::servers::peers::{PEERS, Peer};
use crate::servers::process::Running;
use crate::servers::programs;
use crate::servers::upstream::Upstream;

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(20);

/// Questions a second, until it does.
const FIRST: f64 = 500.0;

/// How much a cache may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes, for servers that count in them.
    pub(crate) bytes: u64,
    /// Names with five records each at the most, for those that count in names or records.
    pub(crate) names: usize,
}

/// Room for everything that is asked here, where memory is not what is measured.
pub(crate) const AMPLE: Room = Room { bytes: 256 << 20, names: 200_000 };

/// A server that can be started.
#[derive(Clone, Copy)]
pub(crate) enum Subject {
    Ours,
    Peer(Peer),
}

impl Subject {
    /// All that are installed and whose name begins like this, ours first.
    pub(crate) fn all(only: Option<&str>) -> Vec<Self> {
        let subjects = std::iter::once(Self::Ours).chain(PEERS.into_iter().map(Self::Peer));
        let meant = subjects.filter(|subject| only.is_none_or(|only| subject.name().starts_with(only)));
        meant.filter(Self::is_there).collect()
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Ours => OURS,
            Self::Peer(peer) => peer.name,
        }
    }

    /// Whether its memory is not that of another one, with other sockets.
    pub(crate) fn has_memory_of_its_own(&self) -> bool {
        !self.name().starts_with("dnsdist,")
    }

    /// Whether it takes all memory of its cache when it starts.
    pub(crate) fn takes_all_at_once(&self) -> bool {
        self.name() == "dnsmasq"
    }

    /// Bytes that it has with no room for anything.
    pub(crate) fn empty(&self, folder: &Path, upstream: &mut Upstream) -> Option<u64> {
        Some(self.started(folder, upstream, Room { bytes: 1 << 20, names: 0 })?.memory())
    }

    /// Room for this many bytes, or this many answers.
    pub(crate) fn room(&self, bytes: u64, answers: usize) -> Room {
        // Each is told five records for a name. Some take that for a number of answers; dnsmasq takes it for what it is, and
        // an answer here has four.
        let names = match self.name() {
            name if name.starts_with("dnsdist") || name.starts_with("CoreDNS") => answers / 5,
            "dnsmasq" => answers / 5 * 4,
            _ => answers,
        };
        Room { bytes, names: names.max(200) }
    }

    pub(crate) fn version(&self) -> String {
        match self {
            Self::Ours => env!("CARGO_PKG_VERSION").into(),
            Self::Peer(peer) => peer.version(),
        }
    }

    fn is_there(&self) -> bool {
        let there = match self {
            Self::Ours => true,
            Self::Peer(peer) => peer.is_installed(),
        };
        if !there {
            println!("{} is not installed and left out", self.name());
        }
        there
    }

    /// Starts it on the first processor, and does not wait until it answers.
    pub(crate) fn start(&self, folder: &Path, upstream: SocketAddr, room: Room) -> Running {
        let address = free();
        match self {
            Self::Ours => {
                let metrics = free();
                let child = ours(folder, address, metrics, upstream, room.bytes);
                Running { child, address, metrics: Some(metrics) }
            }
            Self::Peer(peer) => {
                let child = peer.with_room(room.names).with_bytes(room.bytes).start(folder, address, upstream);
                Running { child, address, metrics: None }
            }
        }
    }

    /// Starts it and waits until it answers out of an upstream that this thread serves; none when it does not.
    pub(crate) fn started(&self, folder: &Path, upstream: &mut Upstream, room: Room) -> Option<Running> {
        let running = self.start(folder, upstream.address(), room);
        let ready = is_ready(running.address, || upstream.serve());
        if !ready {
            println!("{} does not answer and is left out", self.name());
        }
        ready.then_some(running)
    }
}

/// Whether a server answers before it is too late.
pub(crate) fn is_ready(server: SocketAddr, meanwhile: impl FnMut()) -> bool {
    Flow::new(server, 1).until_answered(
        FIRST,
        START,
        &mut |number, out| names::of_set(b'z' - b'a', number, out),
        meanwhile,
    )
}

fn ours(folder: &Path, address: SocketAddr, metrics: SocketAddr, upstream: SocketAddr, cache: u64) -> Child {
    let folder = folder.join(format!("ours-{}", address.port()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("stable.json"), config(upstream).to_string()).unwrap();
    Command::new("taskset")
        .args(["-c", "0"])
        .arg(programs::find("zone-resolver"))
        .arg("run")
        .args(["--cache-size", &cache.to_string()])
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

fn config(upstream: SocketAddr) -> serde_json::Value {
    let cache = serde_json::json!({ "maxTtl": 86400, "negativeMaxTtl": 3600, "serveStale": 86400 });
    serde_json::json!({
        "tier": "default",
        "clusterDomain": "cluster.local",
        "clusterDns": { "bootstrap": ["127.0.0.1:9"], "service": "pods.kube-system.svc.cluster.local" },
        "nodeCache": {
            "captured": [{ "address": "169.254.20.10", "service": false }],
            "cache": cache,
            "allowFrom": ["127.0.0.0/8"],
        },
        "zones": [],
        "resolver": {
            "upstreams": { "servers": [{ "address": upstream }] },
            "cache": cache,
            "allowFrom": ["127.0.0.0/8"],
        },
    })
}

fn free() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

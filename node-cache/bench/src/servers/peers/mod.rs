//! Other resolvers, each as fast as its manual says it can be made for one processor. Each forwards to our own engine, so
//! that it learns the same answers, and is asked only for what it has in memory.

mod coredns;
mod dnsdist;
mod dnsmasq;
mod hickory;
mod kresd;
mod unbound;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::servers::hit_server::on_the_first_processor;

/// All of them.
pub(crate) const PEERS: [Peer; 8] = [
    unbound::UNBOUND,
    dnsdist::DNSDIST,
    dnsdist::DNSDIST_32,
    dnsmasq::DNSMASQ,
    kresd::KRESD,
    coredns::COREDNS,
    coredns::NODE_LOCAL,
    hickory::HICKORY,
];

/// A resolver of somebody else. In its arguments and its configuration some words stand for what they say: `PORT`, where
/// it answers, and `UPSTREAM`, whom it asks, both at 127.0.0.1; `CONFIG` and `FOLDER`, its file and its folder; `NAMES`,
/// for how many it has to have room, and `RECORDS`, which they have together; `MESSAGE_BYTES` and `RRSET_BYTES`, a third
/// and two thirds of `CACHE_BYTES`, for those that count in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    origin: Origin,
    arguments: &'static [&'static str],
    configuration: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// More than this it cannot keep.
    pub(crate) most_names: usize,
    names: usize,
    bytes: u64,
}

/// Where its program comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// A package and its program.
    Debian(&'static str, &'static str),
    /// `make bench` builds it, and says where it is in this variable of the environment.
    Built(&'static str),
}

/// Records of each name, with some to spare.
const RECORDS: usize = 5;
/// The number of names for which there is room, if nothing else is said.
const NAMES: usize = 1_000;
/// The bytes of a cache, if nothing else is said: more than anything here needs.
const BYTES: u64 = 3 << 29;

impl Peer {
    /// The same with room for this many names.
    pub(crate) const fn with_room(self, names: usize) -> Self {
        Self { names, ..self }
    }

    /// The same for an upstream that knows only the names that are asked for, and nothing above them.
    pub(crate) fn for_those_names(self) -> Self {
        if self.name == kresd::KRESD.name { Self { configuration: kresd::AS_A_STUB, ..self } } else { self }
    }

    /// The same with a cache of this many bytes, if it counts in bytes.
    pub(crate) const fn with_bytes(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// What Debian, or else its own program, calls its version.
    pub(crate) fn version(&self) -> String {
        let output = match self.origin {
            Origin::Debian(package, _) => Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output(),
            Origin::Built(_) => Command::new(self.program()).arg("-version").output(),
        };
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let first = said.lines().next().unwrap_or_default();
        first.trim().trim_start_matches("CoreDNS-").to_owned()
    }

    /// Whether its program is there.
    pub(crate) fn is_installed(&self) -> bool {
        self.program().is_file()
    }

    /// Starts it on the first processor, as a program that its folder and its port are its own.
    pub(crate) fn start(&self, folder: &Path, address: SocketAddr, upstream: SocketAddr) -> Child {
        self.start_under(&[], folder, address, upstream)
    }

    /// The same below a program that runs it, such as a tracer.
    pub(crate) fn start_under(
        &self,
        runner: &[&str],
        folder: &Path,
        address: SocketAddr,
        upstream: SocketAddr,
    ) -> Child {
        let folder = folder.join(format!("{}-{}", self.name.replace([' ', ','], "-"), address.port()));
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("conf");
        let fill = |text: &str| {
            text.replace("CONFIG", config.to_str().unwrap())
                .replace("FOLDER", folder.to_str().unwrap())
                .replace("PORT", &address.port().to_string())
                .replace("UPSTREAM", &upstream.port().to_string())
                .replace("NAMES", &self.names.to_string())
                .replace("RECORDS", &(self.names * RECORDS).to_string())
                .replace("MESSAGE_BYTES", &(self.bytes / 3).to_string())
                .replace("RRSET_BYTES", &(self.bytes / 3 * 2).to_string())
                .replace("CACHE_BYTES", &self.bytes.to_string())
        };
        fs::write(&config, fill(self.configuration)).unwrap();
        on_the_first_processor()
            .args(runner)
            .arg(self.program())
            .args(self.arguments.iter().map(|argument| fill(argument)))
            .envs(self.environment.iter().copied())
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("errors")).unwrap())
            .spawn()
            .unwrap()
    }

    fn program(&self) -> PathBuf {
        match self.origin {
            Origin::Debian(_, program) => program.into(),
            Origin::Built(variable) => std::env::var_os(variable).unwrap_or_default().into(),
        }
    }
}

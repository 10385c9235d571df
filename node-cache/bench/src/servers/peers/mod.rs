//! Peers: other resolvers, each as fast as its manual says it can be made for one processor. In the part `hits` each
//! forwards to our own resolver, so that it learns the responses that DnsTier holds, and is queried only for what it
//! has in its cache.

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

use crate::host::processors::server_command;

/// All peers, in the order of the tables.
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

/// Resolver of another project. Its arguments and its configuration are templates with these placeholders: `PORT`, at
/// which it answers, and `UPSTREAM`, the port that it forwards to, both at 127.0.0.1; `CONFIG` and `FOLDER`, its file
/// and its folder; `NAMES`, the names that its cache has to hold, and `RECORDS`, the records that they have together;
/// `MESSAGE_BYTES` and `RRSET_BYTES`, a third and two thirds of `CACHE_BYTES`, for servers that count in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    origin: Origin,
    arguments: &'static [&'static str],
    configuration: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// Most names that its cache can be configured for.
    pub(crate) max_names: usize,
    names: usize,
    cache_bytes: u64,
}

/// Origin of a peer's program.
#[derive(Clone, Copy)]
enum Origin {
    /// Debian package, and the path of its program.
    Debian(&'static str, &'static str),
    /// Built by `make bench`, which passes its path in this environment variable.
    Built(&'static str),
}

/// Records of each name, with some to spare.
const RECORDS_PER_NAME: usize = 5;
/// Default number of names.
const NAMES: usize = 1_000;
/// Default size of a cache in bytes, more than any part needs.
const CACHE_BYTES: u64 = 3 << 29;

impl Peer {
    /// Configures its cache for this number of names.
    pub(crate) const fn with_names(self, names: usize) -> Self {
        Self { names, ..self }
    }

    /// Configures its cache for this number of bytes, if it counts in bytes.
    pub(crate) const fn with_cache_bytes(self, cache_bytes: u64) -> Self {
        Self { cache_bytes, ..self }
    }

    /// Configures it for an upstream that knows only the names that are queried, and none of their ancestors.
    pub(crate) fn for_queried_names_only(self) -> Self {
        if self.name == kresd::KRESD.name { Self { configuration: kresd::STUB_CONFIGURATION, ..self } } else { self }
    }

    /// Returns its version: that of its Debian package, or else what its program prints.
    pub(crate) fn version(&self) -> String {
        let output = match self.origin {
            Origin::Debian(package, _) => Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output(),
            Origin::Built(_) => Command::new(self.program()).arg("-version").output(),
        };
        let stdout = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let first_line = stdout.lines().next().unwrap_or_default();
        first_line.trim().trim_start_matches("CoreDNS-").to_owned()
    }

    /// Returns whether its program is there.
    pub(crate) fn is_installed(&self) -> bool {
        self.program().is_file()
    }

    /// Starts it on the servers' processor with a folder of its own, below a program that runs it, such as a tracer,
    /// where `runner` names one.
    pub(crate) fn spawn(&self, runner: &[&str], folder: &Path, address: SocketAddr, upstream: SocketAddr) -> Child {
        let folder = folder.join(format!("{}-{}", self.name.replace([' ', ','], "-"), address.port()));
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("conf");
        let fill = |template: &str| self.fill(template, &folder, &config, address.port(), upstream.port());
        fs::write(&config, fill(self.configuration)).unwrap();
        server_command()
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

    /// Replaces the placeholders of a template.
    fn fill(&self, template: &str, folder: &Path, config: &Path, port: u16, upstream_port: u16) -> String {
        template
            .replace("CONFIG", config.to_str().unwrap())
            .replace("FOLDER", folder.to_str().unwrap())
            .replace("PORT", &port.to_string())
            .replace("UPSTREAM", &upstream_port.to_string())
            .replace("NAMES", &self.names.to_string())
            .replace("RECORDS", &(self.names * RECORDS_PER_NAME).to_string())
            .replace("MESSAGE_BYTES", &(self.cache_bytes / 3).to_string())
            .replace("RRSET_BYTES", &(self.cache_bytes / 3 * 2).to_string())
            .replace("CACHE_BYTES", &self.cache_bytes.to_string())
    }

    /// Returns the path of its program.
    pub(crate) fn program(&self) -> PathBuf {
        match self.origin {
            Origin::Debian(_, program) => program.into(),
            Origin::Built(variable) => std::env::var_os(variable).unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::PEERS;

    #[test]
    fn no_placeholder_is_left_in_a_configuration() {
        const PLACEHOLDERS: [&str; 9] =
            ["CONFIG", "FOLDER", "PORT", "UPSTREAM", "NAMES", "RECORDS", "MESSAGE_BYTES", "RRSET_BYTES", "CACHE_BYTES"];
        for peer in PEERS {
            for peer in [peer, peer.for_queried_names_only().with_names(123_456).with_cache_bytes(1 << 26)] {
                let templates = peer.arguments.iter().chain([&peer.configuration]);
                let filled = templates.map(|text| peer.fill(text, Path::new("/f"), Path::new("/f/conf"), 1053, 2053));
                let filled: String = filled.collect::<Vec<_>>().join("\n");
                assert!(PLACEHOLDERS.iter().all(|placeholder| !filled.contains(placeholder)), "{filled}");
                assert!(filled.contains("1053") && filled.contains("2053"), "{filled}");
            }
        }
    }
}

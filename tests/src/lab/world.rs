//! Small internet of a lab: authoritative servers for a root, three top-level domains and the zones below, and the
//! provider's resolver in the nodes' resolv.conf.
//!
//! The zones are the files of `tests/world`, which show what a response must be.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::fabric::{CONTROL_PLANE, ip};
use super::layout::{Layout, WORLD};
use super::node::fill;
use super::process::{Daemon, Record, Signal, command, inside, run, run_with_input, wait_until};

/// Address of the provider's resolver in the nodes' resolv.conf.
pub const PROVIDER: &str = "169.254.169.253";

/// Address of a public resolver, which a fallback may name.
pub const PUBLIC_RESOLVER: &str = "192.0.2.8";

/// Table of packet rules that limits the provider.
const LIMIT: &str = "provider_limit";

/// Authoritative server: its name, the last parts of its addresses (192.0.2.x, 2001:db8:53::x) and its zones.
struct Server {
    name: &'static str,
    addresses: &'static [u8],
    zones: &'static [(&'static str, &'static str)],
}

macro_rules! zone {
    ($name:literal) => {
        ($name, include_str!(concat!("../../world/", $name, ".zone")))
    };
}

/// One server could answer for all zones; with three, a resolver follows delegations from the root as on the internet.
const SERVERS: [Server; 3] = [
    Server { name: "nsd-root", addresses: &[1], zones: &[zone!("root")] },
    Server { name: "nsd-tld", addresses: &[2], zones: &[zone!("example"), zone!("many"), zone!("test")] },
    Server {
        name: "nsd-zones",
        addresses: &[3, 4],
        zones: &[
            zone!("mail.example"),
            zone!("shop.example"),
            zone!("wild.example"),
            zone!("big.example"),
            zone!("signed.example"),
            zone!("short.example"),
            zone!("bare.example"),
            zone!("cdn.test"),
            zone!("partner.test"),
            zone!("corp.test"),
            zone!("list.test"),
            zone!("loop.test"),
            zone!("v6.test"),
            zone!("2.0.192.in-addr.arpa"),
            zone!("100.51.198.in-addr.arpa"),
            zone!("113.0.203.in-addr.arpa"),
            zone!("8.b.d.0.1.0.0.2.ip6.arpa"),
        ],
    },
];

/// Zone that is signed when the world starts.
const SIGNED: &str = "signed.example";

/// World of a running lab.
#[derive(Clone, Debug)]
pub struct World {
    layout: Layout,
}

impl World {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// Stops the provider's resolver: queries arrive and get no response, as when it throttles.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_provider(&self) -> Result<()> {
        self.provider()?.identity.signal(Signal::STOP)
    }

    /// Continues the provider's resolver.
    ///
    /// # Errors
    /// When it does not run.
    pub fn start_provider(&self) -> Result<()> {
        self.provider()?.identity.signal(Signal::CONT)
    }

    fn provider(&self) -> Result<Record> {
        Record::read(&self.layout, "unbound")
    }

    /// Runs a command in the world's network namespace, which sends from an address that the provider answers.
    ///
    /// # Errors
    /// When it fails; the error carries its standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut inside(&self.layout, WORLD, arguments))
    }

    /// Limits the provider to this many packets a second of each node, as clouds do: what is above is dropped without a
    /// word. Replaces an earlier limit and its counters.
    ///
    /// # Errors
    /// When the kernel takes no such rule.
    pub fn limit_provider(&self, packets_per_second: u32) -> Result<()> {
        let rules = format!(
            "table inet {LIMIT} {{}}
            delete table inet {LIMIT}
            table inet {LIMIT} {{
                counter offered {{}}
                counter dropped {{}}
                set nodes {{ type ipv4_addr; flags dynamic; }}
                chain queries {{
                    type filter hook prerouting priority raw;
                    ip daddr {PROVIDER} meta l4proto {{ tcp, udp }} th dport 53 counter name offered jump of_a_node
                }}
                chain of_a_node {{
                    update @nodes {{ ip saddr limit rate over {packets_per_second}/second burst 16 packets }} \
                        counter name dropped drop
                }}
            }}"
        );
        run_with_input(&mut inside(&self.layout, WORLD, &["nft", "-f", "-"]), &rules).map(drop)
    }

    /// Removes the limit of [`Self::limit_provider`], if there is one.
    ///
    /// # Errors
    /// When the kernel does not take the command.
    pub fn unlimit_provider(&self) -> Result<()> {
        let rules = format!("table inet {LIMIT} {{}}\ndelete table inet {LIMIT}");
        run_with_input(&mut inside(&self.layout, WORLD, &["nft", "-f", "-"]), &rules).map(drop)
    }

    /// Returns the packets that were sent to the provider since [`Self::limit_provider`], and those that it dropped.
    ///
    /// # Errors
    /// When there is no limit.
    pub fn limited_packets(&self) -> Result<[u64; 2]> {
        let count = |name: &str| -> Result<u64> {
            let text = self.run(&["nft", "list", "counter", "inet", LIMIT, name])?;
            let packets = text.split("packets ").nth(1).and_then(|rest| rest.split_whitespace().next());
            packets.with_context(|| format!("no packets in {text}"))?.parse().context("a number of packets")
        };
        Ok([count("offered")?, count("dropped")?])
    }

    /// Starts the servers and the provider's resolver.
    pub(super) fn start(&self) -> Result<()> {
        let folder = self.layout.file("world");
        fs::create_dir_all(&folder)?;
        ip(&self.layout, WORLD, &addresses())?;
        for server in &SERVERS {
            for (zone, content) in server.zones {
                fs::write(folder.join(format!("{zone}.zone")), content)?;
            }
        }
        self.sign()?;
        for server in &SERVERS {
            let config = folder.join(format!("{}.conf", server.name));
            fs::write(&config, server.configuration(&folder.display().to_string()))?;
            self.daemon(server.name, &["/usr/sbin/nsd", "-d", "-c", &config.display().to_string()])?;
        }
        fs::write(folder.join("root.hints"), include_str!("../../world/root.hints"))?;
        let config = folder.join("unbound.conf");
        let template = include_str!("../../world/unbound.conf");
        fs::write(&config, fill(template, &[("folder", &folder.display().to_string())]))?;
        self.daemon("unbound", &["/usr/sbin/unbound", "-d", "-c", &config.display().to_string()])?;
        fs::write(self.layout.file("resolv.conf"), format!("nameserver {PROVIDER}\n"))?;
        Ok(())
    }

    fn daemon(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let command = arguments.iter().map(|&word| word.to_owned()).collect();
        let daemon = Daemon { name: name.to_owned(), network: WORLD.to_owned(), mounts: None, path: None, command };
        let identity = daemon.start(&self.layout)?;
        // A server that rejects its configuration ends within a moment.
        let ended = wait_until(Duration::from_millis(300), || (!identity.is_alive()).then_some(()));
        let log = self.layout.log(name);
        ended.map_or(Ok(()), |()| {
            let log_text = fs::read_to_string(&log).unwrap_or_default();
            Err(anyhow::anyhow!("{name} ended: {}", log_text.trim()))
        })
    }

    /// Signs one zone with fresh keys.
    fn sign(&self) -> Result<()> {
        let folder = self.layout.file("world");
        let keygen = |args: &[&str]| -> Result<String> {
            let mut keygen = command(&self.layout, "ldns-keygen");
            keygen.current_dir(&folder).args(["-r", "/dev/urandom", "-a", "ECDSAP256SHA256"]).args(args).arg(SIGNED);
            Ok(run(&mut keygen)?.trim().to_owned())
        };
        let zone_signing_key = keygen(&[])?;
        let key_signing_key = keygen(&["-k"])?;
        let file = format!("{SIGNED}.zone");
        let mut signzone = command(&self.layout, "ldns-signzone");
        signzone.current_dir(&folder).args(["-f", "signed", &file, &zone_signing_key, &key_signing_key]);
        run(&mut signzone)?;
        fs::rename(folder.join("signed"), folder.join(file)).context("ldns-signzone wrote nothing")
    }
}

impl Server {
    fn configuration(&self, folder: &str) -> String {
        let addresses: String = self
            .addresses
            .iter()
            .map(|last| format!("    ip-address: 192.0.2.{last}\n    ip-address: 2001:db8:53::{last}\n"))
            .collect();
        let zones: String = self
            .zones
            .iter()
            .map(|(zone, _)| {
                let name = if *zone == "root" { "." } else { zone };
                format!("zone:\n    name: \"{name}\"\n    zonefile: \"{zone}.zone\"\n")
            })
            .collect();
        let template = include_str!("../../world/nsd.conf");
        fill(template, &[("addresses", &addresses), ("zones", &zones), ("server", self.name), ("folder", folder)])
    }
}

/// Returns the `ip` commands for the addresses of all servers, and the routes to nodes.
fn addresses() -> String {
    let servers = SERVERS.iter().flat_map(|server| server.addresses);
    let mut lines: String = servers
        .map(|last| format!("address add 192.0.2.{last}/32 dev lo\naddress add 2001:db8:53::{last}/128 dev lo nodad\n"))
        .collect();
    for resolver in [PROVIDER, PUBLIC_RESOLVER] {
        lines += &format!("address add {resolver}/32 dev lo\n");
    }
    let [ipv4, ipv6] = CONTROL_PLANE;
    lines + &format!("route add default via {ipv4}\nroute add default via {ipv6}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_is_delegated_to_the_server_that_has_it() {
        let text = |name: &str| {
            let zones = SERVERS.iter().flat_map(|server| server.zones);
            zones.filter(|(zone, _)| *zone == name).map(|(_, text)| *text).next().unwrap()
        };
        for (zone, _) in SERVERS[2].zones {
            let (parent, line) = match zone.split_once('.').unwrap() {
                (label, "example") => (text("example"), label.to_owned()),
                (label, "test") => (text("test"), label.to_owned()),
                _ => (text("root"), format!("{zone}.")),
            };
            let delegated = parent.lines().any(|row| {
                let words: Vec<&str> = row.split_ascii_whitespace().collect();
                words.first() == Some(&line.as_str()) && words.get(1) == Some(&"NS")
            });
            assert!(delegated, "{zone}");
        }
    }
}

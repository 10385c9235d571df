//! Network namespace of a test's own, in which clients may have any address of some IPv6 networks.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::require::{self, Requirement};

/// IPv6 networks of which every address is one of the namespace.
const LOCAL_NETWORKS: [&str; 2] = ["fd09:0:0:1::/64", "fd09:0:0:2::/64"];

/// Requires what [`in_own_namespace`] needs.
pub(crate) fn own_namespace() -> Requirement {
    require::network_namespaces()?;
    require::program("unshare")
}

/// Counts the packets to a port of this thread's namespace in every second of the clock, as the kernel receives them.
pub(crate) fn count_packets(port: u16) {
    let rules = format!(
        "table inet counted {{
            set seconds {{ typeof meta hour; size 65535; flags dynamic; counter; }}
            chain input {{
                type filter hook input priority 0;
                udp dport {port} update @seconds {{ meta hour }};
                tcp dport {port} update @seconds {{ meta hour }};
            }}
        }}"
    );
    run_nft(&rules);
}

/// Lets the kernel track the connections of this thread's namespace.
pub(crate) fn track_connections() {
    run("nft", &["add table inet tracked"]);
    run("nft", &["add chain inet tracked output { type filter hook output priority 0; ct state new counter; }"]);
}

/// Returns the number of flows to a port that connection tracking knows, since [`track_connections`].
pub(crate) fn tracked_flows(port: u16) -> usize {
    let arguments = ["-L", "-p", "udp", "--dport", &port.to_string()];
    let output = Command::new("conntrack").args(arguments).output().expect("the program can be run");
    String::from_utf8_lossy(&output.stdout).lines().count()
}

/// Returns the packets of each second since [`count_packets`], the first one first.
pub(crate) fn packets_by_second() -> Vec<u64> {
    let arguments = ["-j", "list", "set", "inet", "counted", "seconds"];
    let output = Command::new("nft").args(arguments).output().expect("the program can be run");
    let listing: serde_json::Value = serde_json::from_slice(&output.stdout).expect("nft writes JSON");
    let sets = listing["nftables"].as_array().unwrap().iter().filter_map(|object| object["set"]["elem"].as_array());
    let mut seconds: Vec<(String, u64)> = sets
        .flatten()
        .map(|element| {
            let second = element["elem"]["val"].as_str().unwrap().to_owned();
            // What is zero at the end is left out.
            let second = if second.len() == 5 { second + ":00" } else { second };
            (second, element["elem"]["counter"]["packets"].as_u64().unwrap())
        })
        .collect();
    seconds.sort();
    seconds.into_iter().map(|(_, packets)| packets).collect()
}

/// Drops UDP packets to a port of this thread's namespace silently: those of each source above this many a second, or
/// all.
pub(crate) fn limit_packets(port: u16, packets_per_second: Option<u32>) {
    let rule = match packets_per_second {
        Some(rate) => {
            let burst = (rate / 10).max(1);
            format!("update @sources {{ ip saddr limit rate over {rate}/second burst {burst} packets }} drop")
        }
        None => "drop".to_owned(),
    };
    let rules = format!(
        "table inet limited {{
            set sources {{ type ipv4_addr; size 64; flags dynamic; timeout 1h; }}
            chain input {{
                type filter hook input priority -10;
                udp dport {port} {rule};
            }}
        }}"
    );
    run_nft(&rules);
}

/// Notes the flows of UDP packets to a port of this thread's namespace, each for 20 s after its last packet.
pub(crate) fn note_flows(port: u16) {
    run_nft(&format!(
        "table inet limited {{
            set flows {{ type inet_service; size 65535; flags dynamic, timeout; timeout 20s; }}
            chain seen {{ update @flows {{ udp sport }}; }}
            chain input {{ type filter hook input priority -10; udp dport {port} jump seen; }}
        }}"
    ));
}

/// Drops packets of flows that are not known silently, but for this many new flows a second, as a full table does whose
/// places become free. After [`note_flows`].
pub(crate) fn limit_new_flows(flows_per_second: u32) {
    run_nft(&format!(
        "flush chain inet limited seen
        table inet limited {{
            chain seen {{
                udp sport @flows update @flows {{ udp sport }} accept;
                limit rate {flows_per_second}/second burst 5 packets update @flows {{ udp sport }} accept;
                drop;
            }}
        }}"
    ));
}

/// Applies packet rules in this thread's namespace.
fn run_nft(rules: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    run("nft", &["-f", file.path().to_str().unwrap()]);
}

/// Ends [`limit_packets`] and [`limit_new_flows`].
pub(crate) fn end_limit() {
    run("nft", &["delete", "table", "inet", "limited"]);
}

/// Adds an address to this thread's namespace.
pub(crate) fn add_address(address: &str) {
    run("ip", &["address", "add", address, "dev", "lo"]);
}

/// Runs a test in a network namespace of its own, on threads of its own. All addresses of 127.0.0.0/8 and of
/// [`LOCAL_NETWORKS`] are local there. The namespace ends with the threads and sockets in it.
pub(crate) fn in_own_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        enter_new_namespace();
        run("ip", &["link", "set", "lo", "up"]);
        std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
        for network in LOCAL_NETWORKS {
            run("ip", &["-6", "route", "add", "local", network, "dev", "lo"]);
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread into a new network namespace. The program that makes it ends when this process does.
fn enter_new_namespace() {
    let mut maker: Child = Command::new("unshare")
        .args(["--net", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare can be run");
    // What comes back comes from inside.
    let mut input = maker.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    maker.stdout.as_mut().unwrap().read_exact(&mut [0]).expect("a namespace can be made");
    let namespace = File::open(format!("/proc/{}/ns/net", maker.id())).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("the test is run by root");
    drop(input);
    maker.wait().unwrap();
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the program can be run");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

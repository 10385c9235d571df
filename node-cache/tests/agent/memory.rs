//! Peak memory of the agent while everybody who can make it grow does so.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache::admin::{self, Command, CommandHandler};

use crate::flood;
use crate::process::{METRICS_PORT, Node};
use crate::require::{network_namespaces, require};
use crate::servers::Background;
use crate::{SERVICE4, SERVICE6, wait_until_captured};

/// Memory limit of the agent's container.
const MEMORY_LIMIT_KIB: u64 = 64 * 1024;
/// Memory that is to stay free.
const RESERVE_KIB: u64 = 16 * 1024;
/// Time for which all of them go on.
const DURATION: Duration = Duration::from_secs(5);

/// Cache that was taken over: its metrics have 4 MiB, and its status has as many bytes as are read of one, which stand
/// for a much longer one.
struct Flooding(&'static str);

impl CommandHandler for Flooding {
    async fn handle(&self, command: Command) -> String {
        let name = self.0;
        match command {
            Command::Metrics => {
                let line = |number| format!("dnstier_cache_q_total{{process=\"{name}\",label=\"{number:08}\"}} 7\n");
                std::iter::once("# TYPE dnstier_cache_q counter\n".to_owned()).chain((0..64_000).map(line)).collect()
            }
            _ => {
                let upstream = r#""scope":"cluster","address":"10.9.2.2:53","healthy":true,"sent":0,"timeouts":0"#;
                let many = ["{}"; 85_000].join(",");
                // What is cut from a list leaves its memory behind, and what goes with it does not.
                let episodes = if name == "cache-0" { format!(r#"{{"seconds":[{many}]}}"#) } else { many };
                let detection = format!(r#""detection":{{"episodes":[{episodes}]}}"#);
                format!(r#"{{"name":"{name}","alive":true,"upstreams":[{{{upstream},{detection}}}]}}"#)
            }
        }
    }
}

#[test]
fn caches_that_flood_the_agent_and_all_who_ask_it_leave_a_quarter_of_its_memory() {
    require!(network_namespaces());
    let node = Node::start(&[(SERVICE4, true), (SERVICE6, true)]);
    wait_until_captured(&node, &[SERVICE4, SERVICE6]);
    let idle = node.agent.peak_kib();
    let _floods = ["cache-0", "cache-1"].map(|name| {
        let path = admin::socket_path(node.run_dir.path(), name);
        Background::run(move || async move { admin::serve(&path, Arc::new(Flooding(name))).await })
    });
    let silent = |name: &str| {
        let path = node.run_dir.path().join(name);
        (0..200).map(|_| UnixStream::connect(&path).unwrap()).collect::<Vec<_>>()
    };
    let silent = [silent("sockets.sock"), silent("agent.sock")];
    let server = SocketAddr::new("10.9.1.1".parse().unwrap(), METRICS_PORT);
    let longest = node.network.pod.inside(move || {
        let ask = move |path: &'static str| {
            let start = Instant::now();
            let mut longest = 0;
            while start.elapsed() < DURATION {
                longest = longest.max(get(server, path).unwrap_or_default());
            }
            longest
        };
        let askers: Vec<_> = (0..48)
            .map(|number| std::thread::spawn(move || ask(["/metrics", "/status", "/metrics"][number % 3])))
            .collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).max().unwrap()
    });
    assert!(longest > 256 * 1024, "the flood has reached those who ask: {longest} octets");
    drop(silent);
    let peak = node.agent.peak_kib();
    println!("peak of the agent: {peak} KiB, {idle} KiB when idle");
    assert!(peak <= MEMORY_LIMIT_KIB - RESERVE_KIB, "{peak} KiB, {idle} KiB when idle");
    assert!(flood::query_rcode(&node.network.pod, SERVICE4).is_some() && node.is_captured(SERVICE4));
}

/// Fetches a path and returns the octets of the response; `None` when the connection is refused or reset.
fn get(server: SocketAddr, path: &str) -> Option<usize> {
    use std::io::Write;
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).ok()?;
    Some(response.len())
}

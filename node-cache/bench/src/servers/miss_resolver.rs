//! DnsTier's resolver with an empty cache, so that every query is a miss, and the upstream that answers it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use node_cache::dns::codes::rtype;
use node_cache::identity::Identity;
use node_cache::resolver::Resolver;
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;

use super::own_server::{print_port, spawn_program};
use super::process::ServerProcess;
use super::resolver::{self, serve};

/// Service by which the resolvers of the zone are discovered.
const SERVICE: &str = "zone-a.dnstier-system.svc.cluster.local";
const CACHE_BYTES: u64 = 64 << 20;
/// Time in which the resolver of the zone has to be discovered.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(30);
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(10);

/// Server to which misses are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissTarget {
    /// Upstream outside of the tier: a new socket, and so a new port, for each query.
    Upstream,
    /// Resolver of the zone, ours: sockets are reused.
    ZoneResolver,
}

impl MissTarget {
    pub(crate) const ALL: [Self; 2] = [Self::Upstream, Self::ZoneResolver];

    /// Returns the name in arguments and on the terminal.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::ZoneResolver => "zone-resolver",
        }
    }

    /// Finds a target by its name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }
}

/// Starts a resolver in a child process, on the servers' processor.
pub(crate) fn spawn(target: MissTarget, upstream: SocketAddr) -> ServerProcess {
    spawn_program(&[], &["serve-misses", target.name(), &upstream.port().to_string()])
}

/// Serves until the process is killed. Prints its port as the first line.
pub(crate) fn run(target: MissTarget, upstream_port: u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    resolver::block_on(async {
        let resolver = create(target, (Ipv4Addr::LOCALHOST, upstream_port).into()).await;
        print_port(&socket);
        let _serving = serve(socket, resolver);
        std::future::pending::<()>().await;
    });
}

/// Starts a resolver and its upstream on threads of this process; returns the resolver's address.
pub(crate) fn start_in_process(target: MissTarget) -> SocketAddr {
    let upstream = start_upstream();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        resolver::block_on(async {
            let resolver = create(target, upstream).await;
            let _serving = serve(socket, resolver);
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    is_ready.recv().unwrap();
    address
}

/// Starts an upstream on a thread of this process; returns its address.
pub(crate) fn start_upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1232];
        loop {
            let Ok((_, client)) = socket.recv_from(&mut buffer) else { continue };
            let _ = socket.send_to(&response(&buffer, address.port()), client);
        }
    });
    address
}

/// Creates a resolver with an empty cache that has discovered its target.
async fn create(target: MissTarget, upstream: SocketAddr) -> Arc<Resolver> {
    let mut config = resolver::config();
    let mut book = Box::new(GroupRegistry::default());
    let resolver = Arc::new(Resolver::new(Identity::default(), CACHE_BYTES, Arc::default()));
    match target {
        MissTarget::Upstream => {
            let servers = serde_json::json!({ "servers": [{ "address": upstream }] });
            config.resolver.upstreams = serde_json::from_value(servers).unwrap();
            resolver.apply(Snapshot::for_zone_resolver(&config, "", &mut book));
        }
        MissTarget::ZoneResolver => {
            config.cluster_dns.bootstrap = vec![upstream];
            let zone = serde_json::json!([{ "name": "zone-a", "bootstrap": [upstream], "service": SERVICE }]);
            config.zones = serde_json::from_value(zone).unwrap();
            resolver.apply(Snapshot::for_node(&config, Some("zone-a"), &mut book));
            let deadline = Instant::now() + DISCOVERY_TIMEOUT;
            let snapshot = resolver.snapshot().unwrap();
            let is_discovered = || {
                let mut groups = snapshot.scopes().iter().flat_map(|scope| scope.pool.groups());
                groups.any(|group| group.scope() == "zone/zone-a" && !group.discovered().is_empty())
            };
            while !is_discovered() {
                assert!(Instant::now() < deadline, "the resolver of the zone was not discovered");
                tokio::time::sleep(DISCOVERY_INTERVAL).await;
            }
        }
    }
    // Discovery of servers stops when this is dropped.
    Box::leak(book);
    resolver
}

/// Returns the response to a query: for SRV this very upstream, at its port, for all other types four addresses.
fn response(query: &[u8], port: u16) -> Vec<u8> {
    let name_end = 13 + query[12..].iter().position(|octet| *octet == 0).unwrap();
    let is_srv = query[name_end..name_end + 2] == rtype::SRV.to_be_bytes();
    let counts: [u8; 8] = if is_srv { [0, 1, 0, 1, 0, 0, 0, 1] } else { [0, 1, 0, 4, 0, 0, 0, 0] };
    let mut response = query[..name_end + 4].to_vec();
    response[2..4].copy_from_slice(&[0x81, 0x80]);
    response[4..12].copy_from_slice(&counts);
    if is_srv {
        response.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 11, 0, 0, 0, 0]);
        response.extend(port.to_be_bytes());
        response.extend(*b"\x03pod\0\x03pod\0\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01");
    } else {
        for last in 0..4 {
            response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 203, 0, 113, last]);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use node_cache::dns::Response;
    use node_cache::dns::codes::rtype;
    use node_cache::dns::question::Question;

    use super::{MissTarget, response};
    use crate::load::queries::host_question;
    use crate::servers::resolver::RESPONSE_LEN;

    #[test]
    fn the_upstream_answers_with_addresses_or_with_itself() {
        let host = host_question(3);
        let addresses = response(&host.to_wire(7, true), 5353);
        assert_eq!(addresses.len(), RESPONSE_LEN);
        assert!(Response::read(&addresses, 7, &host).is_ok());
        let service = Question { rtype: rtype::SRV, ..host };
        assert!(Response::read(&response(&service.to_wire(7, false), 5353), 7, &service).is_ok());
    }

    #[test]
    fn a_child_process_reads_the_target_that_was_written() {
        assert_eq!(MissTarget::ALL.map(|target| MissTarget::from_name(target.name())), MissTarget::ALL.map(Some));
        assert_eq!(MissTarget::from_name("foreign"), None);
    }
}

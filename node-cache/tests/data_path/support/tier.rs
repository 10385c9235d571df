//! Node cache or zone resolver in this process, on a port of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_cache::dns::cookie_secret::CookieSecrets;
use node_cache::handover::{HeldSocket, Protocol};
use node_cache::identity::Identity;
use node_cache::resolver::{Resolver, Room};
use node_cache::server::{Server, TcpLimits};
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;
use node_cache_config::{
    Cache, Config, LastResort, Protocol as UpstreamProtocol, Route, Upstream, UpstreamSource, Zone,
};
use tokio::sync::watch;

/// Node cache or zone resolver in this process.
pub(crate) struct Tier {
    pub(crate) address: SocketAddr,
    pub(crate) resolver: Arc<Resolver>,
    /// CookieSecrets of DNS cookies; none at the start.
    pub(crate) secrets: watch::Sender<CookieSecrets>,
    pub(crate) serving: Server,
    /// Listening sockets; one for UDP and one for TCP at the start.
    pub(crate) sockets: watch::Sender<Vec<HeldSocket>>,
    book: Mutex<GroupRegistry>,
}

impl Tier {
    /// Starts a zone resolver that forwards to these servers.
    pub(crate) async fn forwarding_to(servers: &[SocketAddr]) -> Self {
        let tier = Self::start(TcpLimits::default());
        tier.apply_forwarding(&forwarding(servers));
        tier
    }

    /// Starts the cache of a node in this zone.
    pub(crate) async fn on_node(config: &Config, zone: Option<&str>) -> Self {
        let tier = Self::start(TcpLimits::default());
        tier.apply_on_node(config, zone);
        tier
    }

    /// Starts one worker without a configuration.
    pub(crate) fn start(limits: TcpLimits) -> Self {
        Self::with_workers(1, limits)
    }

    /// Starts a zone resolver on this address, for all loopback clients, that forwards to these servers.
    pub(crate) fn resolver_on(ip: IpAddr, servers: &[SocketAddr], protocol: UpstreamProtocol) -> Self {
        let mut config = config("127.0.0.1:9".parse().unwrap());
        config.resolver.upstreams = servers_over(servers, protocol);
        allow_loopback(&mut config);
        let tier = Self::start_on(ip, TcpLimits::default());
        tier.apply_forwarding(&config);
        tier
    }

    /// Starts the cache of a node on this address, for all loopback clients, whose zone has these resolvers.
    pub(crate) fn node_on(ip: IpAddr, resolvers: &[SocketAddr]) -> Self {
        let mut config = config("127.0.0.1:9".parse().unwrap());
        config.zones = vec![Zone { bootstrap: resolvers.to_vec(), ..zone("zone-a", resolvers[0]) }];
        allow_loopback(&mut config);
        let tier = Self::start_on(ip, TcpLimits::default());
        tier.apply_on_node(&config, Some("zone-a"));
        tier
    }

    /// Starts this many workers without a configuration.
    pub(crate) fn with_workers(workers: usize, limits: TcpLimits) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), workers, limits)
    }

    /// Starts one worker on this address without a configuration.
    pub(crate) fn start_on(ip: IpAddr, limits: TcpLimits) -> Self {
        Self::at(ip, 1, limits)
    }

    /// Starts this many workers at an address without a configuration.
    pub(crate) fn at(address: IpAddr, workers: usize, limits: TcpLimits) -> Self {
        Self::with_room(address, workers, limits, Room::NODE_CACHE)
    }

    /// Starts this many workers at an address without a configuration, with this room.
    pub(crate) fn with_room(address: IpAddr, workers: usize, limits: TcpLimits, room: Room) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((address, 0)).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let held = |fd: OwnedFd, protocol| HeldSocket { address: address.ip(), protocol, fd: Arc::new(fd) };
        let (sender, sockets) = watch::channel(vec![held(udp.into(), Protocol::Udp), held(tcp.into(), Protocol::Tcp)]);
        let identity = Identity { instance: "cache-0".into(), node: "node-a".into(), pod_uid: "uid-1".into() };
        let resolver = Arc::new(Resolver::with_room(identity, 4 << 20, Arc::default(), room));
        let book = Mutex::new(GroupRegistry::new(resolver.tap().clone(), resolver.metrics().clone()));
        let (secrets, known) = watch::channel(CookieSecrets::default());
        let serving = Server::start(workers, resolver.clone(), limits, sockets, known).unwrap();
        Self { address, resolver, secrets, serving, sockets: sender, book }
    }

    /// Waits until the metrics count every response sent so far. A worker counts a batch after sending its responses,
    /// and reports that it has read everything only after that.
    pub(crate) async fn wait_until_counted(&self) {
        self.serving.workers().check_readers(Duration::from_secs(10)).await.unwrap();
    }

    pub(crate) fn apply_forwarding(&self, config: &Config) {
        config.validate().unwrap();
        self.resolver.apply(Snapshot::for_zone_resolver(config, "", &mut self.book.lock().unwrap()));
    }

    pub(crate) fn apply_on_node(&self, config: &Config, zone: Option<&str>) {
        config.validate().unwrap();
        self.resolver.apply(Snapshot::for_node(config, zone, &mut self.book.lock().unwrap()));
    }
}

fn forwarding(servers: &[SocketAddr]) -> Config {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = UpstreamSource::Servers(upstreams(servers));
    config
}

/// Builds a configuration without zones, routes and a last resort, whose cluster DNS is this server.
pub(crate) fn config(cluster_dns: SocketAddr) -> Config {
    // The tests of stale responses know when the window of an hour ends.
    let cache = Cache { serve_stale: 3600, ..Cache::default() };
    let mut config = Config::example();
    config.cluster_dns.bootstrap = vec![cluster_dns];
    config.node_cache.cache = cache.clone();
    config.node_cache.last_resort = LastResort::Disabled;
    config.resolver.cache = cache;
    config
}

pub(crate) fn zone(name: &str, bootstrap: SocketAddr) -> Zone {
    Zone { name: name.into(), bootstrap: vec![bootstrap], service: format!("{name}.dnstier-system.svc.cluster.local") }
}

pub(crate) fn route(suffix: &str, servers: &[SocketAddr]) -> Route {
    Route { suffix: suffix.into(), upstreams: upstreams(servers), packet_budgets: Vec::new() }
}

fn upstreams(servers: &[SocketAddr]) -> Vec<Upstream> {
    servers.iter().copied().map(Upstream::from).collect()
}

/// Returns these servers as upstreams of a zone resolver.
pub(crate) fn servers_over(servers: &[SocketAddr], protocol: UpstreamProtocol) -> UpstreamSource {
    UpstreamSource::Servers(upstreams(servers).into_iter().map(|server| Upstream { protocol, ..server }).collect())
}

/// Lets every loopback client query a node or a zone resolver, and every client of the documentation's IPv6 network.
pub(crate) fn allow_loopback(config: &mut Config) {
    let networks = ["127.0.0.0/8", "::1/128", "2001:db8::/32"].map(|network| network.parse().unwrap());
    config.node_cache.allow_from = networks.to_vec();
    config.resolver.allow_from = networks.to_vec();
}

//! The servers that are ours: the engine with its memory full, the same as everybody's upstream, and the echoes.

use std::io::Write;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Instant;

use node_cache::cache::Key;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::cookie_secret::Secrets;
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response};
use node_cache::handover::{HeldSocket, Protocol};
use node_cache::identity::Identity;
use node_cache::resolver::Resolver;
use node_cache::server::{Server, TcpLimits};
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;
use node_cache_config::Config;
use tokio::sync::watch;

use crate::echo;

/// Octets of an answer to one of the names.
pub(crate) const ANSWER: usize = 118;

/// Every name has the same length, so that every answer has.
pub(crate) fn question(number: usize) -> Question {
    let name = format!("host-{number:07}.department.shop.example");
    Question::plain(&Name::from_text(&name).unwrap(), rtype::A)
}

/// The answer to it, as a server sends it: four addresses.
fn response(question: &Question) -> Response {
    let records: Vec<_> = (0..4).map(|last| (rtype::A, 3600, vec![203, 0, 113, last])).collect();
    let sent = Response::with_records(question, rcode::NOERROR, &records);
    Response::read(sent.wire(), 0, question).unwrap()
}

/// A resolver that knows this many names, and with two variants also what to say to those who want DNSSEC records.
pub(crate) fn resolver(names: usize, variants: usize, bytes: u64) -> Arc<Resolver> {
    let identity = Identity { instance: "cache-0".into(), node: "node-a".into(), pod_uid: "uid".into() };
    let resolver = Arc::new(Resolver::new(identity, bytes, Arc::default()));
    resolver.apply(Snapshot::for_node(&config(), None, &mut GroupRegistry::default()));
    let snapshot = resolver.snapshot().unwrap();
    for number in 0..names {
        let question = question(number);
        let scope = snapshot.routes.find(&question.name).id;
        let response = Arc::new(response(&question));
        // Some forwarders ask for DNSSEC records, whoever asks them.
        for question in [&question, &Question { dnssec_ok: true, ..question.clone() }].into_iter().take(variants) {
            resolver.cache().insert(&Key::new(scope, question), &response, Instant::now());
        }
    }
    resolver
}

pub(crate) fn config() -> Config {
    let cache = serde_json::json!({ "maxTtl": 86400, "negativeMaxTtl": 30, "serveStale": 3600 });
    serde_json::from_value(serde_json::json!({
        "tier": "default",
        "clusterDomain": "cluster.local",
        "clusterDns": { "bootstrap": ["127.0.0.1:9"], "service": "pods.kube-system.svc.cluster.local" },
        "nodeCache": {
            "captured": [{ "address": "169.254.20.10", "service": false }],
            "cache": cache,
            "allowFrom": ["127.0.0.0/8"],
        },
        "zones": [],
        "resolver": { "upstreams": { "servers": [{ "address": "127.0.0.1:9" }] }, "cache": cache, "allowFrom": ["127.0.0.0/8"] },
    }))
    .unwrap()
}

/// Serves until it is killed; the first line that it prints is its port. The number is the one of names that it knows, or of
/// octets that an echo sends.
pub(crate) fn run(which: &str, number: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    println!("{}", socket.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
    match which {
        "echo" => echo::blocking(&socket, number),
        "echo-with-epoll" => echo::polling(&socket, number),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let variants = if which == "upstream" { 2 } else { 1 };
            let resolver = resolver(number, variants, (number as u64 * 400 * variants as u64).max(16 << 20));
            let _serving = serve(socket, resolver);
            std::future::pending::<()>().await;
        }),
    }
}

/// The engine at a socket.
pub(crate) fn serve(socket: UdpSocket, resolver: Arc<Resolver>) -> (Server, watch::Sender<Vec<HeldSocket>>) {
    let address = socket.local_addr().unwrap().ip();
    let held = HeldSocket { address, protocol: Protocol::Udp, fd: Arc::new(socket.into()) };
    let (sender, sockets) = watch::channel(vec![held]);
    let (_, no_secrets) = watch::channel(Secrets::default());
    (Server::start(1, resolver, TcpLimits::default(), sockets, no_secrets).unwrap(), sender)
}

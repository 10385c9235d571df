//! DnsTier's resolver in this process, with a full cache.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Instant;

use node_cache::cache::Key;
use node_cache::dns::Response;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::cookie_secret::CookieSecrets;
use node_cache::dns::question::Question;
use node_cache::handover::{HeldSocket, Protocol};
use node_cache::identity::Identity;
use node_cache::resolver::Resolver;
use node_cache::server::{Server, TcpLimits};
use node_cache::snapshot::Snapshot;
use node_cache::upstream::GroupRegistry;
use node_cache_config::Config;
use tokio::sync::watch;

use super::config::configuration;
use crate::load::queries::host_question;

/// Octets of the response to a query for a host.
pub(crate) const RESPONSE_LEN: usize = 118;

/// Returns the configuration of a node whose upstream does not exist.
pub(super) fn config() -> Config {
    configuration(([127, 0, 0, 1], 9).into(), 30, 3600)
}

/// Returns the response to a question as an upstream sends it: four addresses.
fn response(question: &Question) -> Response {
    let records: Vec<_> = (0..4).map(|last| (rtype::A, 3600, vec![203, 0, 113, last])).collect();
    let sent = Response::with_records(question, rcode::NOERROR, &records);
    Response::read(sent.wire(), 0, question).unwrap()
}

/// Creates a resolver whose cache, of so many bytes, holds this number of hosts. With two variants it also holds the
/// responses for clients that want DNSSEC records (DO), which some forwarders set in every query.
pub(crate) fn create(names: usize, variants: usize, cache_bytes: u64) -> Arc<Resolver> {
    let identity = Identity { instance: "cache-0".into(), node: "node-a".into(), pod_uid: "uid".into() };
    let resolver = Arc::new(Resolver::new(identity, cache_bytes, Arc::default()));
    resolver.apply(Snapshot::for_node(&config(), None, &mut GroupRegistry::default()));
    let snapshot = resolver.snapshot().unwrap();
    for number in 0..names {
        let question = host_question(number);
        let scope = snapshot.routes.find(&question.name).id;
        let response = Arc::new(response(&question));
        for question in [&question, &Question { dnssec_ok: true, ..question.clone() }].into_iter().take(variants) {
            resolver.cache().insert(&Key::new(scope, question), &response, Instant::now());
        }
    }
    resolver
}

/// Starts a server of one worker at a socket. It runs until both parts of the result are dropped.
pub(crate) fn serve(socket: UdpSocket, resolver: Arc<Resolver>) -> (Server, watch::Sender<Vec<HeldSocket>>) {
    let address = socket.local_addr().unwrap().ip();
    let held = HeldSocket { address, protocol: Protocol::Udp, fd: Arc::new(socket.into()) };
    let (sender, sockets) = watch::channel(vec![held]);
    let (_, no_secrets) = watch::channel(CookieSecrets::default());
    (Server::start(1, resolver, TcpLimits::default(), sockets, no_secrets).unwrap(), sender)
}

/// Runs a future on a runtime of its own, on the calling thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[cfg(test)]
mod tests {
    use super::{RESPONSE_LEN, block_on, create, response};
    use crate::load::queries::host_question;

    #[test]
    fn a_response_has_the_length_that_echoes_send() {
        assert_eq!(response(&host_question(7)).wire().len(), RESPONSE_LEN);
    }

    #[test]
    fn a_created_resolver_holds_every_variant_of_every_host() {
        assert_eq!(block_on(async { create(100, 2, 16 << 20).cache().entries() }), 200);
    }
}

//! Probes of a resolving process: names of its configuration, asked past its cache, bounded in rate.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use node_cache_config::probes::{ProbeName, ProbeResult};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::admin::probe_budget::ProbeClient;
use crate::admin::shared_probes::{ProbeOutcome, ProbeRefusal, SharedProbes};
use crate::dns::Name;
use crate::dns::codes::rtype;
use crate::resolver::{Resolver, UpstreamAnswer};
use crate::revision::ActiveRevision;
use crate::snapshot::Snapshot;

/// Time for one probe. The upstream query of each scope has a deadline of its own; this one is for chains of aliases.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// Prober of one process.
#[derive(Debug)]
pub(super) struct Prober {
    resolver: Arc<Resolver>,
    revision: watch::Receiver<Arc<ActiveRevision>>,
    probes: SharedProbes<ProbeKey>,
}

/// Key of a probe: the snapshot of one revision decides which upstreams are asked.
#[derive(Clone, Debug)]
struct ProbeKey {
    probe: ProbeName,
    /// Snapshot, which lives no longer for that. No other one has its address while a key refers to it.
    snapshot: Weak<Snapshot>,
}

impl PartialEq for ProbeKey {
    fn eq(&self, other: &Self) -> bool {
        self.probe == other.probe && self.snapshot.ptr_eq(&other.snapshot)
    }
}

impl Eq for ProbeKey {}

impl Hash for ProbeKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.probe.hash(hasher);
        self.snapshot.as_ptr().hash(hasher);
    }
}

impl Prober {
    /// Returns the prober of the process with this resolver and this revision.
    pub(super) fn new(resolver: Arc<Resolver>, revision: watch::Receiver<Arc<ActiveRevision>>) -> Self {
        Self { resolver, revision, probes: SharedProbes::new(1) }
    }

    /// Asks the upstreams of a name of the configuration for a client.
    ///
    /// # Errors
    ///
    /// [`ProbeRefusal`] when it is none, or when there is no room.
    pub(super) async fn probe(&self, name: &str, rtype: Option<&str>, client: ProbeClient) -> ProbeOutcome {
        let not_ready = || ProbeRefusal::Failed("there is no configuration yet".to_owned());
        let config = self.revision.borrow().config.clone().ok_or_else(not_ready)?;
        let snapshot = self.resolver.snapshot().ok_or_else(not_ready)?;
        let probe = config.find_probe(name, rtype).ok_or_else(|| {
            let names: Vec<_> = config.probes().into_iter().map(|probe| probe.name).collect();
            ProbeRefusal::Unknown(names.join(", "))
        })?;
        let name = Name::from_text(&probe.name).map_err(|_| ProbeRefusal::Unknown(probe.name.clone()))?;
        let rtype = rtype::from_text(&probe.rtype).ok_or_else(|| ProbeRefusal::Unknown(probe.rtype.clone()))?;
        let key = ProbeKey { probe: probe.clone(), snapshot: Arc::downgrade(&snapshot) };
        let resolver = self.resolver.clone();
        let ask = || async move {
            let started = Instant::now();
            let answer = timeout(PROBE_TIMEOUT, resolver.ask_upstreams(&snapshot, &name, rtype)).await;
            let answer = answer.unwrap_or_else(|_| UpstreamAnswer::none());
            Ok(ProbeResult {
                name: probe.name,
                rtype: probe.rtype,
                instance: resolver.identity().instance.clone(),
                rcode: answer.rcode,
                microseconds: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
                digest: answer.digest,
            })
        };
        self.probes.ask(key, client, ask).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use node_cache_config::{Config, Route};
    use tokio::net::UdpSocket;
    use tokio::time::sleep;

    use super::*;
    use crate::dns::codes::rcode;
    use crate::identity::Identity;
    use crate::upstream::GroupRegistry;

    const ROUTE: &str = "corp.example";

    /// Starts a server that has this response code for everything after a delay, and returns its address.
    async fn serve(code: u16, delay: Duration) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut message = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut message).await {
                sleep(delay).await;
                message[2] |= 0x80;
                message[3] = 0x80 | code as u8;
                let _ = socket.send_to(&message[..length], client).await;
            }
        });
        address
    }

    /// Process whose revisions lead a route to one server.
    struct Process {
        prober: Arc<Prober>,
        revisions: watch::Sender<Arc<ActiveRevision>>,
        registry: GroupRegistry,
    }

    impl Process {
        fn start() -> Self {
            let resolver = Arc::new(Resolver::new(Identity::default(), 1 << 20, Arc::default()));
            let (revisions, active) = watch::channel(Arc::default());
            let prober = Arc::new(Prober::new(resolver, active));
            Self { prober, revisions, registry: GroupRegistry::default() }
        }

        fn lead_to(&mut self, server: SocketAddr) {
            let upstreams = vec![server.into()];
            let route = Route { suffix: ROUTE.to_owned(), upstreams, packet_budgets: Vec::new() };
            let config = Config { routes: vec![route], ..Config::example() };
            self.prober.resolver.apply(Snapshot::for_node(&config, None, &mut self.registry));
            self.revisions
                .send_replace(Arc::new(ActiveRevision { config: Some(Arc::new(config)), ..Default::default() }));
        }
    }

    #[tokio::test]
    async fn no_revision_is_told_what_the_servers_of_another_one_say() {
        let slow = serve(rcode::NXDOMAIN, Duration::from_millis(400)).await;
        let fast = serve(rcode::NOERROR, Duration::ZERO).await;
        let mut process = Process::start();
        let prober = process.prober.clone();
        let probe = async || prober.probe(ROUTE, None, None).await.map(|result| result.rcode);
        assert!(probe().await.is_err(), "there is no configuration yet");
        process.lead_to(slow);
        let (before, after) = tokio::join!(probe(), async {
            sleep(Duration::from_millis(100)).await;
            process.lead_to(fast);
            let in_flight = probe().await;
            process.lead_to(slow);
            (in_flight, probe().await)
        });
        assert_eq!(before, Ok(rcode::NXDOMAIN));
        assert_eq!(after.0, Ok(rcode::NOERROR), "the probe of before is in flight");
        assert_eq!(after.1, Ok(rcode::NXDOMAIN), "the result of before is fresh");
        assert!(matches!(prober.probe("bank.example", None, None).await, Err(ProbeRefusal::Unknown(_))));
    }
}

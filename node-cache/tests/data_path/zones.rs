//! Selection of upstreams on a node: cluster DNS, routes, the own zone, other zones.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use node_cache_config::figures::ZoneQueries;

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, empty_response, exchange, query_for, response_with,
    route, srv_record, wait_until, zone,
};

/// Time in which discovery finds the pods of a headless Service.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(8);

/// Starts a cluster DNS with one pod behind each of these headless Services. All other names get the default response.
pub(crate) async fn cluster_dns(services: Vec<(String, SocketAddr)>) -> Authority {
    Authority::start(move |query| cluster_answer(query, &services)).await
}

fn cluster_answer(query: &ReceivedQuery, services: &[(String, SocketAddr)]) -> Action {
    let owners = |service: &str| [format!("_dns._udp.{service}"), format!("_dns-tcp._tcp.{service}")];
    let service = services.iter().find_map(|(service, pod)| {
        let owner = owners(service).into_iter().find(|owner| query.is(owner))?;
        Some((service, owner, pod))
    });
    match service {
        Some((service, owner, pod)) if query.rtype() == RecordType::SRV => {
            let target = format!("pod-0.{service}");
            let mut message = response_with(query, vec![srv_record(&owner, 5, pod.port(), &target)]);
            message.add_additional(address_record(&target, 5, &pod.ip().to_string()));
            Action::Respond(message)
        }
        _ if query.is("pods.kube-system.svc.cluster.local") || query.name().to_ascii().starts_with("_dns") => {
            Action::Respond(empty_response(query, hickory_proto::op::ResponseCode::NXDomain))
        }
        _ => Action::Respond(query.default_response(300, 53)),
    }
}

async fn resolver(last_octet: u8) -> Authority {
    Authority::start(move |query| Action::Respond(query.default_response(300, last_octet))).await
}

fn unresponsive_address() -> SocketAddr {
    // Packets to it are neither answered nor rejected.
    "127.0.0.1:9".parse().unwrap()
}

#[tokio::test]
async fn names_go_by_the_longest_suffix_and_cluster_names_to_the_cluster_dns_only() {
    let cluster = cluster_dns(vec![]).await;
    let own = resolver(1).await;
    let other = resolver(2).await;
    let corp = resolver(3).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", own.address), zone("zone-b", other.address)];
    config.routes = vec![route("corp.example", &[corp.address]), route("9.10.in-addr.arpa", &[corp.address])];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    for (query, authority) in [
        ("kubernetes.default.svc.cluster.local", &cluster),
        ("Cluster.Local", &cluster),
        ("1.0.96.10.in-addr.arpa", &cluster),
        ("1.1.168.192.in-addr.arpa", &cluster),
        ("1.0.0.9.10.in-addr.arpa", &corp),
        ("a.corp.example", &corp),
        ("corp.example", &corp),
        ("acorp.example", &own),
        ("4.3.2.1.in-addr.arpa", &own),
        ("www.example", &own),
    ] {
        exchange(tier.address, &query_for(query, RecordType::A)).await;
        for each in [&cluster, &own, &other, &corp] {
            let expected = usize::from(each.address == authority.address);
            assert_eq!(each.query_count(query), expected, "{query}");
        }
    }
}

#[tokio::test]
async fn cluster_names_fail_rather_than_leave_the_cluster() {
    let own = resolver(1).await;
    let silent = Authority::start(|_| Action::Ignore).await;
    let mut config = config(silent.address);
    config.zones = vec![zone("zone-a", own.address)];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let started = Instant::now();
    let response = exchange(tier.address, &query_for("kubernetes.default.svc.cluster.local", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, hickory_proto::op::ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(own.queries().len(), 0);
}

#[tokio::test]
async fn the_own_zone_is_asked_and_the_others_are_not() {
    let cluster = cluster_dns(vec![]).await;
    let own = resolver(1).await;
    let other = resolver(2).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", other.address), zone("zone-b", own.address)];
    let tier = Tier::on_node(&config, Some("zone-b")).await;
    for number in 0..30 {
        exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
    }
    assert_eq!((own.queries().len(), other.queries().len()), (30, 0));
    let counted = |zone| tier.resolver.snapshot().unwrap().context.zone_queries.from_zone(zone);
    assert_eq!(counted(Some("zone-b")), Some(ZoneQueries { own: 30, other: 0 }));
    assert_eq!(counted(None), None);
}

#[tokio::test]
async fn another_zone_answers_for_a_dead_one_within_a_second_and_soon_at_once() {
    let cluster = cluster_dns(vec![]).await;
    let own = resolver(1).await;
    let other = resolver(2).await;
    own.stop_responding();
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", own.address), zone("zone-b", other.address)];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    for number in 0..3 {
        let started = Instant::now();
        let response = exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        assert_eq!(response.answers.len(), 1);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    let mut fastest = Duration::MAX;
    for name in ["a.example", "b.example", "c.example"] {
        let started = Instant::now();
        exchange(tier.address, &query_for(name, RecordType::A)).await;
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(300), "{fastest:?}");
    let health = tier.resolver.snapshot().unwrap().upstreams();
    let healthy = |scope: &str| health.iter().find(|upstream| upstream.scope == scope).unwrap().healthy;
    assert!(!healthy("zone/zone-a") && healthy("zone/zone-b"));
    let sent = tier.resolver.snapshot().unwrap().context.zone_queries.from_zone(Some("zone-a")).unwrap();
    assert!(sent.other >= 6 && sent.own < 6, "health checks of the dead resolver count nowhere: {sent:?}");
    // The own zone is preferred again as soon as it responds.
    own.set_script(|query| Action::Respond(query.default_response(300, 1)));
    let recovered = Instant::now();
    for number in 100.. {
        let name = format!("n{number}.example");
        let response = exchange(tier.address, &query_for(&name, RecordType::A)).await;
        if response.answers[0].data == address_record(&name, 0, "192.0.2.1").data {
            break;
        }
        assert!(recovered.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_node_that_does_not_know_its_zone_uses_all_of_them() {
    let cluster = cluster_dns(vec![]).await;
    let one = resolver(1).await;
    let two = resolver(2).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", one.address), zone("zone-b", two.address)];
    for unknown in [None, Some("zone-x")] {
        one.clear_queries();
        two.clear_queries();
        let tier = Tier::on_node(&config, unknown).await;
        for number in 0..60 {
            exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        }
        assert!(!one.queries().is_empty() && !two.queries().is_empty(), "{unknown:?}");
    }
}

#[tokio::test]
async fn pods_are_found_through_headless_services_and_asked_in_place_of_the_bootstrap_address() {
    let pod = resolver(1).await;
    let bootstrap = resolver(2).await;
    let cluster = cluster_dns(vec![("zone-a.dnstier-system.svc.cluster.local".into(), pod.address)]).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", bootstrap.address)];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    wait_until("the pod is found", DISCOVERY_TIMEOUT, async || upstreams(&tier, "zone/zone-a") == [pod.address]).await;
    bootstrap.clear_queries();
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!((pod.query_count("www.example"), bootstrap.queries().len()), (1, 0));
}

#[tokio::test]
async fn the_last_known_pods_are_kept_when_discovery_fails_and_the_bootstrap_address_helps_when_they_die() {
    let pod = resolver(1).await;
    let bootstrap = resolver(2).await;
    let cluster = cluster_dns(vec![("zone-a.dnstier-system.svc.cluster.local".into(), pod.address)]).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", bootstrap.address)];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    wait_until("the pod is found", DISCOVERY_TIMEOUT, async || upstreams(&tier, "zone/zone-a") == [pod.address]).await;
    cluster.set_script(|query| cluster_answer(query, &[]));
    cluster.clear_queries();
    wait_until("it is looked for again", DISCOVERY_TIMEOUT, async || {
        cluster.query_count("_dns._udp.zone-a.dnstier-system.svc.cluster.local") > 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    bootstrap.clear_queries();
    exchange(tier.address, &query_for("kept.example", RecordType::A)).await;
    assert_eq!((pod.query_count("kept.example"), bootstrap.queries().len()), (1, 0));
    pod.stop_responding();
    for number in 0..4 {
        let response = exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await;
        assert!(number < 3 || response.answers.len() == 1, "{response:?}");
    }
    assert!(!bootstrap.queries().is_empty());
}

/// A node that has found the one pod of its zone, which then stops to respond, and another pod in its place.
struct Replacement {
    cluster: Authority,
    service: String,
    tier: Tier,
    old: Authority,
    new: Authority,
}

impl Replacement {
    async fn start() -> Self {
        let (old, new) = (resolver(1).await, resolver(2).await);
        let service = "zone-a.dnstier-system.svc.cluster.local".to_owned();
        let cluster = cluster_dns(vec![(service.clone(), old.address)]).await;
        let mut config = config(cluster.address);
        config.zones = vec![zone("zone-a", unresponsive_address())];
        let tier = Tier::on_node(&config, Some("zone-a")).await;
        let is_found = async || upstreams(&tier, "zone/zone-a").contains(&old.address);
        wait_until("the pod is found", DISCOVERY_TIMEOUT, is_found).await;
        old.stop_responding();
        Self { cluster, service, tier, old, new }
    }

    /// Queries the node until it has found the new pod, and returns after how long.
    async fn query_until_found(&self) -> Duration {
        let started = Instant::now();
        let queries = ["a.example", "b.example", "c.example"].map(|name| query_for(name, RecordType::A));
        let responses = queries.iter().map(|query| exchange(self.tier.address, query));
        let is_found = async || upstreams(&self.tier, "zone/zone-a").contains(&self.new.address);
        let (_, took) = tokio::join!(futures::future::join_all(responses), async {
            wait_until("the new pod is found", DISCOVERY_TIMEOUT, is_found).await;
            started.elapsed()
        });
        took
    }
}

#[tokio::test]
async fn pods_that_replace_others_are_found_at_once_when_the_old_ones_die() {
    let replacement = Replacement::start().await;
    let (service, now) = (replacement.service.clone(), replacement.new.address);
    replacement.cluster.set_script(move |query| cluster_answer(query, &[(service.clone(), now)]));
    let took = replacement.query_until_found().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// CoreDNS repeats a response from its cache for up to half a minute, and caches each way to ask apart.
#[tokio::test]
async fn pods_are_found_when_the_old_ones_die_although_the_cluster_dns_repeats_the_old_list() {
    let replacement = Replacement::start().await;
    let (service, before, now) = (replacement.service.clone(), replacement.old.address, replacement.new.address);
    replacement.cluster.set_script(move |query| {
        let pod = if query.name().to_ascii().to_lowercase().starts_with("_dns-tcp.") { now } else { before };
        cluster_answer(query, &[(service.clone(), pod)])
    });
    replacement.query_until_found().await;
}

#[tokio::test]
async fn what_is_known_of_servers_outlives_a_revision() {
    let pod = resolver(1).await;
    let bootstrap = resolver(2).await;
    let cluster = cluster_dns(vec![("zone-a.dnstier-system.svc.cluster.local".into(), pod.address)]).await;
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", bootstrap.address)];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    wait_until("the pod is found", DISCOVERY_TIMEOUT, async || upstreams(&tier, "zone/zone-a") == [pod.address]).await;
    config.zones.push(zone("zone-b", unresponsive_address()));
    tier.apply_on_node(&config, Some("zone-a"));
    assert_eq!(upstreams(&tier, "zone/zone-a"), [pod.address]);
    config.zones[0].bootstrap = vec![unresponsive_address()];
    tier.apply_on_node(&config, Some("zone-a"));
    assert_eq!(upstreams(&tier, "zone/zone-a"), [pod.address]);
}

fn upstreams(tier: &Tier, scope: &str) -> Vec<SocketAddr> {
    let status = tier.resolver.snapshot().unwrap().upstreams();
    let upstreams =
        status.iter().filter(|upstream| upstream.scope == scope && upstream.address != unresponsive_address());
    // A bootstrap server that was queried before is listed behind the discovered ones.
    upstreams.map(|upstream| upstream.address).take(1).collect()
}

//! Cardinality of metrics: no client can add time series, nor can a large cluster.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use node_cache::dns::answer::{Answer, Source};
use node_cache::dns::query::{Query, Transport};
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response};
use node_cache::metrics::{Gauges, LOCAL_SCOPE, PacketClass};
use node_cache_config::metrics_page::ProcessUsage;
use node_cache_config::{Upstream, UpstreamSource};

use crate::support::{
    Action, Authority, Tier, config, exchange, exchange_over_tcp, exchange_raw, query_for, route, zone,
};

/// Series of a node with two caches, at most. The agent has [`MAX_OF_AGENT`] of them.
const MAX_OF_NODE: usize = 300;
/// Series of an agent with four captured addresses, at most, which its own test shows.
const MAX_OF_AGENT: usize = 32;

fn series(tier: &Tier) -> Vec<String> {
    let gauges = Gauges {
        worker_datagrams: tier.serving.workers().datagrams(),
        process: ProcessUsage { cpu_seconds: Some(1.0), ..ProcessUsage::read() },
        ..tier.resolver.gauges()
    };
    let text = node_cache::metrics::render("cache-0", tier.resolver.metrics(), gauges);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[tokio::test]
async fn a_hundred_thousand_hostile_names_make_no_new_series() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut config = config(authority.address);
    config.routes = vec![route("corp.example", &[authority.address])];
    let tier = Tier::on_node(&config, None).await;
    let resolve_without_recursion = async |name: Name, number: u32| {
        let rtype = number as u16;
        let transport = [Transport::Udp, Transport::Tcp][number as usize % 2];
        let query = Query { rtype, transport, recursion_desired: false, ..Query::plain(name, 1) };
        tier.resolver.resolve(&query).await;
    };
    // One query of each kind, so that every series exists.
    let query_every_kind = async || {
        for suffix in ["corp.example", "cluster.local", "example", "localhost"] {
            for number in 2..4 {
                resolve_without_recursion(Name::from_text(&format!("n.{suffix}")).unwrap(), number).await;
            }
            for name in ["known", "other"] {
                let query = query_for(&format!("{name}.{suffix}"), RecordType::A);
                exchange(tier.address, &query).await;
                exchange(tier.address, &query).await;
                exchange_over_tcp(tier.address, &query).await;
            }
        }
        exchange_raw(tier.address, "127.0.0.1:0", &[7; 12], Duration::from_secs(5)).await;
    };
    query_every_kind().await;
    let before = series(&tier);
    for number in 0..100_000_u32 {
        let suffix = [&b"\x04corp\x07example\0"[..], b"\x07cluster\x05local\0", b"\x07example\0", b"\x09localhost\0"];
        // Labels of any octets: line ends, quotes and braces too.
        let [a, b, c, d] = number.wrapping_mul(2_654_435_761).to_be_bytes();
        let wire = [&[9, a, b, c, d, b'"', b'\n', b'}', b' ', b'1'], suffix[number as usize % 4]].concat();
        let (name, _) = Name::read_uncompressed(&wire, 0).unwrap();
        resolve_without_recursion(name, 2 + number % 240).await;
    }
    query_every_kind().await;
    assert_eq!(series(&tier), before);
}

/// Counts packets of every class over every transport in these scopes, and a budget.
fn use_every_packet_class(tier: &Tier, scopes: &[&str]) {
    let packets = tier.resolver.snapshot().unwrap().context.packets.clone();
    for scope in scopes {
        let counts = packets.of_scope(scope);
        counts.set_budget(900);
        for class in PacketClass::ALL {
            counts.count_refusal(class);
            counts.count(class, Transport::Udp, 1);
            counts.count(class, Transport::Tcp, 2);
        }
    }
}

/// Counts hedges and control queries with either end in these scopes.
fn use_hedges_and_controls(tier: &Tier, scopes: &[&str]) {
    let packets = tier.resolver.snapshot().unwrap().context.packets.clone();
    for scope in scopes {
        let counts = packets.of_scope(scope);
        counts.count_withheld_hedge();
        for outcome in [true, false] {
            counts.count_hedge(outcome);
            counts.count_control(outcome);
        }
    }
}

/// Returns 127.7.`network`.1 and the addresses after it, where nobody listens.
fn addresses(network: u8, count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|host| SocketAddr::from(([127, 7, network, host], 9))).collect()
}

/// Counts responses of every rcode in these scopes of names.
fn use_every_scope(tier: &Tier, scopes: &[String]) {
    let name = Name::from_text("www.example").unwrap();
    for scope in scopes {
        for rcode in 0..=23 {
            let response = Response::empty(&Question::plain(&name, 1), rcode);
            let answer = Answer { source: Source::Upstream, ..Answer::local(response, None) };
            for transport in [Transport::Udp, Transport::Tcp, Transport::Internal] {
                tier.resolver.metrics().count_response(scope, None, transport, &answer, Duration::from_millis(1));
            }
        }
    }
    for rcode in [1, 4, 5, 16] {
        tier.resolver.metrics().count_refusal(Transport::Udp, rcode);
    }
}

#[tokio::test]
async fn a_cache_has_its_share_of_300_series_of_a_node_whatever_the_size_of_the_cluster() {
    let tier = Tier::start(Default::default());
    let mut config = config(addresses(0, 1)[0]);
    config.cluster_dns.bootstrap = addresses(0, 30);
    config.zones = (1..=3)
        .map(|number| node_cache_config::Zone {
            bootstrap: addresses(number, 40),
            ..zone(&format!("zone-{number}"), addresses(number, 1)[0])
        })
        .collect();
    config.routes = (1..=20).map(|number| route(&format!("r{number}.example"), &addresses(100 + number, 3))).collect();
    tier.apply_on_node(&config, Some("zone-1"));
    let routes = (1..=20).map(|number| format!("route/r{number}.example"));
    let groups = ["cluster", "zone/zone-1", "zone/zone-2", "zone/zone-3", "last-resort"].map(str::to_owned);
    let scopes = ["outside", "cluster", LOCAL_SCOPE].map(str::to_owned).into_iter().chain(routes.clone());
    use_every_scope(&tier, &scopes.collect::<Vec<_>>());
    let response_times = tier.resolver.snapshot().unwrap().context.response_times.clone();
    for scope in groups.into_iter().chain(routes) {
        response_times.of_scope(&scope).observe(Duration::from_millis(1));
    }
    use_every_packet_class(&tier, &["cluster", "zone/zone-1", "zone/zone-2", "route/r1.example"]);
    use_hedges_and_controls(&tier, &["route/r1.example"]);
    let series = series(&tier);
    println!("series of a cache: {}", series.len());
    assert!(2 * series.len() + MAX_OF_AGENT <= MAX_OF_NODE, "{}:\n{}", series.len(), series.join("\n"));
    let of = |start: &str| series.iter().filter(|series| series.starts_with(start)).count();
    assert_eq!(of("dnstier_cache_upstream_queries_total{"), 3, "two, and the sum of the others");
    assert_eq!(of("dnstier_cache_upstream_packets_total{"), 10, "of routes: own servers have no budget");
    assert_eq!(of("dnstier_cache_upstream_healthy{process=\"cache-0\",scope=\"other\",upstream=\"other\"}"), 1);
    assert_eq!(of("dnstier_cache_upstream_seconds_count{"), 4, "cluster, routes, and both kinds of zones");
}

#[tokio::test]
async fn a_resolver_has_no_more_than_300_series_whatever_its_upstreams_and_workers() {
    let tier = Tier::with_workers(64, Default::default());
    let mut config = config(addresses(0, 1)[0]);
    let upstreams = [addresses(50, 60), vec![SocketAddr::from(([8, 8, 8, 8], 53))]].concat();
    config.resolver.upstreams = UpstreamSource::Servers(upstreams.into_iter().map(Upstream::from).collect());
    tier.apply_forwarding(&config);
    use_every_scope(&tier, &["forward", "inside", "private", LOCAL_SCOPE].map(str::to_owned));
    let response_times = tier.resolver.snapshot().unwrap().context.response_times.clone();
    for scope in ["forward", "inside", "fallback"] {
        response_times.of_scope(scope).observe(Duration::from_millis(1));
    }
    use_every_packet_class(&tier, &["forward", "fallback"]);
    use_hedges_and_controls(&tier, &["forward", "fallback"]);
    let series = series(&tier);
    println!("series of a resolver: {}", series.len());
    // A ceiling has a series while it is in force.
    let most = series.len() + node_cache::metrics::MAX_SHOWN_BY_A_RESOLVER;
    assert!(most <= 300, "{most}:\n{}", series.join("\n"));
    let of = |start: &str| series.iter().filter(|series| series.starts_with(start)).count();
    assert_eq!(of("dnstier_cache_upstream_queries_total{"), 17, "sixteen, and the sum of the others");
    assert_eq!(of("dnstier_cache_upstream_state{"), 16);
    assert_eq!(of("dnstier_cache_worker_datagrams_total{"), 17, "sixteen, and the sum of the others");
}

#[tokio::test]
async fn each_reason_for_a_refused_admission_has_a_series_from_the_start() {
    let tier = Tier::start(Default::default());
    let series = series(&tier);
    let refused: Vec<_> =
        series.iter().filter(|series| series.starts_with("dnstier_cache_admission_refused_total")).collect();
    let expected = ["total", "scope", "domain", "failing_domain", "client"]
        .map(|reason| format!("dnstier_cache_admission_refused_total{{process=\"cache-0\",reason=\"{reason}\"}}"));
    assert_eq!(refused, expected.iter().collect::<Vec<_>>());
}

//! Figures by which a change is judged, and probes past the cache.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache_config::figures::{CAPABILITIES, Figures, ScopeResponses};
use node_cache_config::probes::{ProbeName, ProbeResult};
use node_cache_config::status::ResolverStatus;
use node_cache_config::{Config, UpstreamSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::processes::{NodeCache, ZoneResolver};
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, config, empty_response, exchange, exchange_over_tcp,
    failure, negative_response, query_for, response_with, route, wait_until, zone,
};

/// Server whose names tell what it responds.
fn answer(query: &ReceivedQuery) -> Action {
    let name = query.name().to_ascii().to_ascii_lowercase();
    match name.split('.').next().unwrap_or_default() {
        "none" => Action::Respond(negative_response(query, ResponseCode::NXDomain, 300)),
        "refused" => Action::Respond(empty_response(query, ResponseCode::Refused)),
        "slow" => Action::RespondAfter(Duration::from_millis(600), query.default_response(0, 1)),
        label if label.starts_with("bad") => failure(query, 2),
        _ => Action::Respond(query.default_response(300, 1)),
    }
}

fn figures(tier: &Tier) -> Figures {
    tier.resolver.metrics().figures(tier.serving.workers().queries_by_address())
}

fn row(scope: &str, [noerror, nxdomain, servfail, other]: [u64; 4]) -> ScopeResponses {
    ScopeResponses { scope: scope.to_owned(), noerror, nxdomain, servfail, other }
}

#[tokio::test]
async fn responses_count_by_scope_and_rcode_slow_ones_apart_and_failing_names_once() {
    let server = Authority::start(answer).await;
    let mut config = config(server.address);
    config.zones = vec![zone("zone-a", server.address)];
    config.routes = vec![route("corp.test", &[server.address]), route("partner.test", &[server.address])];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let before = figures(&tier);
    let ask = async |name: &str| exchange(tier.address, &query_for(name, RecordType::A)).await;
    for _ in 0..3 {
        ask("www.example").await;
    }
    exchange_over_tcp(tier.address, &query_for("www.example", RecordType::A)).await;
    ask("none.corp.test").await;
    ask("slow.corp.test").await;
    ask("slow.partner.test").await;
    ask("SLOW.Partner.test").await;
    for name in ["bad-1.partner.test", "BAD-1.Partner.test", "bad-2.partner.test", "bad-1.partner.test"] {
        ask(name).await;
    }
    for identity in ["id.server", "version.bind"] {
        let mut query = query_for(identity, RecordType::TXT);
        query.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
        exchange(tier.address, &query).await;
    }
    tier.wait_until_counted().await;
    let after = figures(&tier);
    assert!(before.responses.is_empty(), "own queries are no traffic: {before:?}");
    let rows =
        [row("outside", [4, 0, 0, 0]), row("route/corp.test", [1, 1, 0, 0]), row("route/partner.test", [2, 0, 4, 0])];
    assert_eq!((after.responses.as_slice(), after.slow_misses), (rows.as_slice(), 3));
    let slow_names = after.slow_names.expect("a release that counts them");
    assert_eq!((after.servfail_names.estimate(), slow_names.estimate()), (2, 2));
    let queries = |figures: &Figures| figures.queries.iter().map(|queries| queries.queries).sum::<u64>();
    assert_eq!(queries(&after) - queries(&before), 12, "{after:?}");
    assert!(after.queries.iter().all(|queries| queries.address == tier.address.ip()));
}

/// Returns the status line and the body of a page.
async fn page(resolver: &ZoneResolver, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(resolver.http).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

async fn probe(resolver: &ZoneResolver, name: &str) -> ProbeResult {
    // The result before is kept for a second.
    sleep(Duration::from_millis(1050)).await;
    let (line, body) = page(resolver, &format!("/probe?name={name}")).await;
    assert!(line.ends_with("200 OK"), "{line}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn probed_config(server: &Authority, names: impl Iterator<Item = String>) -> Config {
    let mut config = config(server.address);
    config.resolver.upstreams = UpstreamSource::Servers(vec![server.address.into()]);
    config.node_cache.probes = names.map(|name| ProbeName::new(&name, "A")).collect();
    config
}

fn addresses(addresses: [&'static str; 2]) -> impl Fn(&ReceivedQuery) -> Action + Send + 'static {
    move |query| {
        let records = addresses.iter().map(|address| address_record("www.example", 300, address)).collect();
        Action::Respond(if query.is("www.example") {
            response_with(query, records)
        } else {
            query.default_response(9, 1)
        })
    }
}

#[tokio::test]
async fn a_probe_asks_the_upstreams_past_the_cache_and_its_failures_and_changes_no_answer() {
    let server = Authority::start(addresses(["192.0.2.1", "192.0.2.2"])).await;
    let config = probed_config(&server, std::iter::once("www.example".to_owned()));
    let resolver = ZoneResolver::configured(&config, &["--drain", "0s"]).await;
    wait_until("it is ready", Duration::from_secs(8), async || resolver.probe("ready")).await;
    let asked = async || exchange(resolver.dns, &query_for("www.example", RecordType::A)).await;

    // A failure is cached, and a probe does not care.
    server.set_script(|query| failure(query, 2));
    assert_eq!(asked().await.metadata.response_code, ResponseCode::ServFail);
    server.set_script(addresses(["192.0.2.1", "192.0.2.2"]));
    let first = probe(&resolver, "www.example").await;
    assert_eq!((first.rcode, first.name.as_str(), first.rtype.as_str()), (0, "www.example", "A"));
    assert_eq!((first.digest.len(), first.instance.as_str()), (16, "zone-resolver"));

    // The order of the records does not matter, other records do.
    wait_until("it is cached", Duration::from_secs(20), async || !asked().await.answers.is_empty()).await;
    server.set_script(addresses(["192.0.2.2", "192.0.2.1"]));
    server.clear_queries();
    assert_eq!(probe(&resolver, "www.example").await.digest, first.digest);
    assert_eq!(server.query_count("www.example"), 1, "it was asked past the cache");
    server.set_script(addresses(["192.0.2.1", "192.0.2.3"]));
    assert_ne!(probe(&resolver, "www.example").await.digest, first.digest);
    let cached: Vec<_> = asked().await.answers.into_iter().map(|record| record.data).collect();
    assert!(cached.contains(&address_record("x", 0, "192.0.2.2").data), "the cache has the answer of before");

    server.set_script(|query| failure(query, 2));
    let failed = probe(&resolver, "www.example").await;
    assert!(failed.rcode == 2 && failed.digest != first.digest);
}

#[tokio::test]
async fn nobody_chooses_the_names_of_probes_or_loads_upstreams_with_them() {
    let server = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut config = probed_config(&server, (0..16).map(|number| format!("w{number}.example")));
    let suffixes = (0..10).map(|number| format!("r{number}.test"));
    config.routes = suffixes.map(|suffix| route(&suffix, &[server.address])).collect();
    let resolver = ZoneResolver::configured(&config, &["--drain", "0s"]).await;
    wait_until("it is ready", Duration::from_secs(8), async || resolver.probe("ready")).await;
    for path in ["?name=bank.example", "?name=w1.example&type=TXT", "?name=r1.test&type=A", "?name="] {
        let (line, body) = page(&resolver, &format!("/probe{path}")).await;
        assert!(line.ends_with("404 Not Found") && body.contains("w15.example"), "{path}: {line} {body}");
    }
    for path in ["", "?type=A", "?name=.&name=w1.example", "?name=.&server=192.0.2.1"] {
        assert!(page(&resolver, &format!("/probe{path}")).await.0.ends_with("400 Bad Request"), "{path}");
    }
    server.clear_queries();
    let start = Instant::now();
    let mut refused = 0;
    for _ in 0..5 {
        for name in (0..16).map(|n| format!("w{n}.example")).chain((0..10).map(|n| format!("r{n}.test"))) {
            let (line, body) = page(&resolver, &format!("/probe?name={name}")).await;
            assert!(line.ends_with("200 OK") || line.ends_with("429 Too Many Requests"), "{line}: {body}");
            refused += usize::from(!line.ends_with("200 OK"));
        }
    }
    // A client alone has half of what may be asked for at once.
    let allowed = 10 + 4 * usize::try_from(start.elapsed().as_secs() + 1).unwrap();
    let probes = server.queries().into_iter().filter(|query| !query.name().is_root()).count();
    assert!(refused > 0 && probes >= 10 && probes <= allowed, "{probes} of {allowed}, {refused} refused");
}

#[tokio::test]
async fn the_pages_of_both_programs_have_the_figures_and_what_the_release_can_do() {
    let server = Authority::start(answer).await;
    let mut config = probed_config(&server, std::iter::once("www.example".to_owned()));
    config.zones = vec![zone("zone-a", server.address)];
    let resolver = ZoneResolver::configured(&config, &["--drain", "0s"]).await;
    wait_until("it is ready", Duration::from_secs(8), async || resolver.probe("ready")).await;
    exchange(resolver.dns, &query_for("www.example", RecordType::A)).await;
    let status: ResolverStatus = serde_json::from_str(&resolver.get("/status").await).unwrap();
    assert_eq!(status.capabilities, CAPABILITIES);
    assert_eq!(status.figures.responses, [row("forward", [1, 0, 0, 0])]);
    assert_eq!(status.figures.queries.len(), 1);
    assert_eq!((status.figures.queries[0].address, status.figures.queries[0].queries), (resolver.dns.ip(), 1));
    assert!(status.instance.started.is_some() && status.instance.figures.is_none());

    let cache = NodeCache::start(&config).await;
    exchange(cache.dns, &query_for("www.example", RecordType::A)).await;
    let instance = cache.instance().await;
    let figures = instance.figures.unwrap();
    assert_eq!(figures.responses, [row("outside", [1, 0, 0, 0])]);
    assert!(figures.zone_queries.is_some_and(|queries| queries.own > 0 && queries.other == 0), "{figures:?}");
    assert!(instance.started.is_some());
    let result = cache.control_probe("www.example", "A").await;
    let result: ProbeResult = serde_json::from_str(&result).unwrap();
    assert_eq!((result.rcode, result.instance.as_str()), (0, "cache-0"));
    assert!(cache.control_probe("bank.example", "A").await.starts_with("only names of the configuration"));
}

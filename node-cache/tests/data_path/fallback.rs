//! Fallback of a zone resolver: servers that are asked while the upstreams are silent, and never for private names.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{RData, Record};
use node_cache_config::{Config, Upstream, UpstreamSource};

use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, allow_loopback, config, ede, exchange, name,
    negative_response, query_for, response_with, route, wait_until, zone,
};

/// Time for which conditions are awaited.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Info-code by which a resolver tells its nodes that its fallback denies a name.
const DENIED_BY_FALLBACK: u16 = 49156;
/// Info-code of a stale answer.
const STALE_ANSWER: u16 = 3;

/// A zone resolver with one upstream, which answers 192.0.2.1, and a fallback, which answers 192.0.2.2.
struct Servers {
    upstream: Authority,
    fallback: Authority,
    tier: Tier,
    config: Config,
}

impl Servers {
    /// Starts both with answers of this TTL, and the suffix `corp.example` as a private one.
    async fn start(ttl: u32) -> Self {
        let upstream = Authority::start(move |query| Action::Respond(query.default_response(ttl, 1))).await;
        let fallback = Authority::start(move |query| Action::Respond(query.default_response(ttl, 2))).await;
        let mut config = config("127.0.0.1:9".parse().unwrap());
        config.resolver.upstreams = UpstreamSource::Servers(vec![Upstream::from(upstream.address)]);
        config.resolver.fallback = vec![Upstream::from(fallback.address)];
        config.resolver.private_suffixes = vec!["corp.example".into(), "block.list.example".into()];
        allow_loopback(&mut config);
        let tier = Tier::start(Default::default());
        tier.apply_forwarding(&config);
        Self { upstream, fallback, tier, config }
    }

    /// Resolves a name of type A.
    async fn resolve(&self, name: &str) -> Message {
        exchange(self.tier.address, &query_for(name, RecordType::A)).await
    }

    /// Returns whether the upstream counts as up.
    fn is_upstream_up(&self) -> bool {
        let upstreams = self.tier.resolver.snapshot().unwrap().upstreams();
        upstreams.iter().any(|upstream| upstream.address == self.upstream.address && upstream.healthy)
    }

    /// Silences the upstream, and waits until it counts as down.
    async fn silence_upstream(&self) {
        self.upstream.stop_responding();
        let mut number = 0;
        wait_until("the upstream is down", TIMEOUT, async || {
            number += 1;
            self.resolve(&format!("silent{number}.example")).await;
            !self.is_upstream_up()
        })
        .await;
    }

    /// Lets the upstream answer again with this TTL, and waits until a new name is answered by it.
    async fn revive_upstream(&self, ttl: u32) {
        self.upstream.set_script(move |query| Action::Respond(query.default_response(ttl, 1)));
        let mut number = 0;
        wait_until("the upstream is asked again", TIMEOUT, async || {
            number += 1;
            last_octets(&self.resolve(&format!("again{number}.example")).await) == [1]
        })
        .await;
    }

    /// Lets the fallback deny every name, for an hour by its word.
    fn deny_all(&self) {
        self.fallback.set_script(|query| Action::Respond(negative_response(query, ResponseCode::NXDomain, 3600)));
    }
}

/// Returns the last octet of each address in a response.
fn last_octets(response: &Message) -> Vec<u8> {
    let octet = |record: &Record| match &record.data {
        RData::A(address) => Some(address.octets()[3]),
        _ => None,
    };
    response.answers.iter().filter_map(octet).collect()
}

#[tokio::test]
async fn a_fallback_gets_no_packet_while_the_upstream_answers_however_slowly_and_whatever_it_says() {
    let servers = Servers::start(0).await;
    for number in 0..40 {
        servers.resolve(&format!("n{number}.example")).await;
    }
    // Far above the p95 latency, and within the timeout.
    servers.upstream.set_script(|query| match query.is("failing.example") {
        true => Action::Respond(crate::support::empty_response(query, ResponseCode::ServFail)),
        false => Action::RespondAfter(Duration::from_millis(150), query.default_response(0, 1)),
    });
    for number in 0..5 {
        assert_eq!(last_octets(&servers.resolve(&format!("slow{number}.example")).await), [1]);
    }
    let response = servers.resolve("failing.example").await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(servers.fallback.queries().len(), 0);
}

#[tokio::test]
async fn a_name_for_which_the_upstream_is_silent_is_answered_by_the_fallback() {
    let servers = Servers::start(300).await;
    servers.resolve("known.example").await;
    servers.upstream.set_script(|query| match query.is("silent.example") {
        true => Action::Ignore,
        false => Action::Respond(query.default_response(300, 1)),
    });
    assert_eq!(last_octets(&servers.resolve("silent.example").await), [2]);
    assert_eq!(servers.upstream.query_count("silent.example"), 1, "the second send goes to the fallback");
    assert_eq!(last_octets(&servers.resolve("other.example").await), [1]);
    assert_eq!(servers.fallback.query_count("other.example"), 0);
    assert!(servers.is_upstream_up(), "one silent name is no outage");
}

#[tokio::test]
async fn the_fallback_answers_at_once_while_the_upstream_is_down_and_nothing_goes_there_afterwards() {
    let servers = Servers::start(0).await;
    servers.resolve("known.example").await;
    servers.silence_upstream().await;
    for number in 0..20 {
        assert_eq!(last_octets(&servers.resolve(&format!("down{number}.example")).await), [2]);
    }
    servers.revive_upstream(0).await;
    servers.fallback.clear_queries();
    for number in 0..50 {
        assert_eq!(last_octets(&servers.resolve(&format!("up{number}.example")).await), [1]);
    }
    assert_eq!(servers.fallback.queries().len(), 0, "all is back");
}

#[tokio::test]
async fn a_fallback_that_was_down_is_asked_again_when_it_is_needed_and_not_before() {
    let servers = Servers::start(0).await;
    servers.resolve("known.example").await;
    servers.fallback.stop_responding();
    servers.silence_upstream().await;
    let is_up = || {
        let upstreams = servers.tier.resolver.snapshot().unwrap().upstreams();
        upstreams.iter().any(|upstream| upstream.scope == "fallback" && upstream.healthy)
    };
    let mut number = 0;
    wait_until("the fallback is down", TIMEOUT, async || {
        number += 1;
        servers.resolve(&format!("both{number}.example")).await;
        !is_up()
    })
    .await;
    servers.revive_upstream(0).await;
    // Its need ends within seconds.
    let mut seen = usize::MAX;
    wait_until("the fallback gets no packet for three seconds", TIMEOUT, async || {
        let before = servers.fallback.queries().len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        seen = servers.fallback.queries().len() - before;
        seen == 0
    })
    .await;
    servers.fallback.set_script(|query| Action::Respond(query.default_response(0, 2)));
    servers.upstream.set_script(|query| match query.is("silent.example") {
        true => Action::Ignore,
        false => Action::Respond(query.default_response(0, 1)),
    });
    assert_eq!(last_octets(&servers.resolve("silent.example").await), [2], "whatever it was before");
}

#[tokio::test]
async fn no_name_of_a_private_suffix_reaches_the_fallback() {
    let servers = Servers::start(1).await;
    let alias = |query: &ReceivedQuery| {
        let target = RData::CNAME(CNAME(name("db.corp.example")));
        let alias = Record::from_rdata(query.name().clone(), 300, target);
        response_with(query, vec![alias, address_record("db.corp.example", 300, "192.0.2.66")])
    };
    servers.fallback.set_script(move |query| match query.is("www.example") {
        true => Action::Respond(alias(query)),
        false => Action::Respond(query.default_response(1, 2)),
    });
    let private = ["db.corp.example", "CORP.example", "4.3.2.1.block.list.example", "a.b.corp.example"];
    let ask_for_private_names = async || join_all(private.map(|name| servers.resolve(name))).await;
    for response in ask_for_private_names().await {
        assert_eq!(last_octets(&response), [1]);
    }
    servers.upstream.set_script(|query| match query.is("db.corp.example") {
        true => Action::Ignore,
        false => Action::Respond(query.default_response(1, 1)),
    });
    servers.resolve("db.corp.example").await;
    servers.silence_upstream().await;
    for response in ask_for_private_names().await {
        assert_ne!(last_octets(&response), [2]);
    }
    for number in 0..3 {
        let response = servers.resolve(&format!("n{number}.corp.example")).await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    }
    // An alias of the fallback into a private suffix goes on at the upstreams alone.
    let response = servers.resolve("www.example").await;
    assert!(!last_octets(&response).contains(&66), "{response:?}");
    assert_eq!(servers.fallback.query_count("www.example"), 1);
    servers.revive_upstream(1).await;
    let response = servers.resolve("new.corp.example").await;
    assert_eq!(last_octets(&response), [1]);
    for query in servers.fallback.queries() {
        let name = query.name().to_ascii().to_ascii_lowercase();
        let is_private = ["corp.example.", "block.list.example."].iter().any(|suffix| name.ends_with(suffix));
        assert!(!is_private, "{name}");
    }
}

#[tokio::test]
async fn a_denial_of_the_fallback_takes_nothing_from_stale_data_of_the_upstream() {
    let servers = Servers::start(1).await;
    servers.resolve("kept.example").await;
    servers.deny_all();
    servers.silence_upstream().await;
    wait_until("the answer is stale", TIMEOUT, async || {
        let response = servers.resolve("kept.example").await;
        assert_eq!(last_octets(&response), [1], "{response:?}");
        ede(&response) == Some(STALE_ANSWER)
    })
    .await;
    // Another type of the name has no data that could be kept.
    let aaaa = exchange(servers.tier.address, &query_for("kept.example", RecordType::AAAA)).await;
    assert_eq!(aaaa.metadata.response_code, ResponseCode::NXDomain);
    // Asked again and again, until the fallback has denied it twice.
    wait_until("the fallback has denied it twice", TIMEOUT, async || {
        let response = servers.resolve("kept.example").await;
        assert_eq!((last_octets(&response), ede(&response)), (vec![1], Some(STALE_ANSWER)), "{response:?}");
        servers.fallback.query_count("kept.example") >= 2
    })
    .await;
}

#[tokio::test]
async fn a_denial_of_the_fallback_takes_nothing_from_fresh_data_of_the_upstream() {
    let servers = Servers::start(4).await;
    servers.silence_upstream().await;
    servers.revive_upstream(4).await;
    servers.resolve("fresh.example").await;
    servers.deny_all();
    servers.upstream.stop_responding();
    // A hit in the last tenth of the TTL refreshes the answer, and the upstream is silent.
    wait_until("the fallback has denied the refresh", TIMEOUT, async || {
        let response = servers.resolve("fresh.example").await;
        assert_eq!(last_octets(&response), [1], "{response:?}");
        servers.fallback.query_count("fresh.example") > 0
    })
    .await;
    for _ in 0..20 {
        assert_eq!(last_octets(&servers.resolve("fresh.example").await), [1]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn without_older_data_a_denial_of_the_fallback_is_answered_and_lasts_until_the_upstream_answers() {
    let servers = Servers::start(300).await;
    servers.resolve("known.example").await;
    servers.deny_all();
    servers.silence_upstream().await;
    let response = servers.resolve("new.example").await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert!(response.authorities.iter().all(|record| record.ttl <= 5), "{response:?}");
    assert_eq!(ede(&response), Some(DENIED_BY_FALLBACK), "a node is told");
    let again = servers.resolve("new.example").await;
    assert_eq!((again.metadata.response_code, ede(&again)), (ResponseCode::NXDomain, Some(DENIED_BY_FALLBACK)));
    servers.revive_upstream(300).await;
    assert_eq!(last_octets(&servers.resolve("new.example").await), [1], "its recovery ends the denial");
}

#[tokio::test]
async fn a_denial_of_the_fallback_ends_what_the_fallback_itself_has_said() {
    let servers = Servers::start(1).await;
    servers.resolve("known.example").await;
    servers.silence_upstream().await;
    assert_eq!(last_octets(&servers.resolve("moved.example").await), [2]);
    servers.deny_all();
    wait_until("its denial counts", TIMEOUT, async || {
        servers.resolve("moved.example").await.metadata.response_code == ResponseCode::NXDomain
    })
    .await;
    assert_eq!(last_octets(&servers.resolve("known.example").await), [1], "the upstream's data are kept");
}

#[tokio::test]
async fn a_denial_of_the_fallback_is_better_than_a_stale_denial_of_the_upstream() {
    let servers = Servers::start(1).await;
    let deny = |query: &ReceivedQuery| Action::Respond(negative_response(query, ResponseCode::NXDomain, 1));
    servers.upstream.set_script(deny);
    assert_eq!(servers.resolve("gone.example").await.metadata.response_code, ResponseCode::NXDomain);
    servers.deny_all();
    servers.silence_upstream().await;
    wait_until("the fallback has denied it", TIMEOUT, async || {
        let response = servers.resolve("gone.example").await;
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain, "{response:?}");
        ede(&response) == Some(DENIED_BY_FALLBACK)
    })
    .await;
}

#[tokio::test]
async fn a_node_keeps_its_stale_data_when_a_resolver_without_any_has_a_denial_of_its_fallback() {
    let servers = Servers::start(1).await;
    let mut node_config = servers.config.clone();
    let node_of = |config: &mut Config, resolver: SocketAddr| config.zones = vec![zone("zone-a", resolver)];
    node_of(&mut node_config, servers.tier.address);
    let node = Tier::on_node(&node_config, Some("zone-a")).await;
    let resolve = async |name: &str| exchange(node.address, &query_for(name, RecordType::A)).await;
    assert_eq!(last_octets(&resolve("kept.example").await), [1]);
    // The resolver is replaced by one with an empty cache.
    servers.deny_all();
    servers.upstream.stop_responding();
    let replacement = Tier::start(Default::default());
    replacement.apply_forwarding(&servers.config);
    node_of(&mut node_config, replacement.address);
    node.apply_on_node(&node_config, Some("zone-a"));
    wait_until("the answer is stale", TIMEOUT, async || {
        let response = resolve("kept.example").await;
        assert_eq!(last_octets(&response), [1], "{response:?}");
        ede(&response) == Some(STALE_ANSWER) && servers.fallback.query_count("kept.example") > 0
    })
    .await;
    assert_eq!((last_octets(&resolve("kept.example").await)), [1]);
    let response = resolve("new.example").await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::NXDomain, None), "{response:?}");
    assert!(response.authorities.iter().all(|record| record.ttl <= 5), "{response:?}");
    // Nor does a client see the code between the processes of the tier behind an alias.
    let alias = |query: &ReceivedQuery| {
        let target = RData::CNAME(CNAME(name("newer.example")));
        Action::Respond(response_with(query, vec![Record::from_rdata(query.name().clone(), 300, target)]))
    };
    let corp = Authority::start(alias).await;
    node_config.routes = vec![route("route.example", &[corp.address])];
    node.apply_on_node(&node_config, Some("zone-a"));
    let response = resolve("www.route.example").await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::NXDomain, None), "{response:?}");
}

//! Inspection commands: `explain`, `flush`, `dump`, `stats`.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{RData, Record, RecordType};
use node_cache::admin::Command;
use tokio::time::{sleep, timeout};

use crate::support::{
    Action, Authority, Tier, config, empty_response, exchange, name, negative_response, query_for, response_with, route,
};

const INSPECTION_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn inspect(tier: &Tier, line: &str) -> String {
    let Ok(Command::Inspect(inspection)) = Command::from_line(line) else { panic!("{line}") };
    tier.resolver.inspect(inspection).await
}

/// Repeats a command until its output has all of these parts: a response is stored after it was sent.
async fn inspect_until(tier: &Tier, line: &str, parts: &[&str]) -> String {
    let mut output = String::new();
    let has_all_parts = async {
        while parts.iter().any(|part| !output.contains(part)) {
            sleep(Duration::from_millis(10)).await;
            output = inspect(tier, line).await;
        }
    };
    let in_time = timeout(INSPECTION_TIMEOUT, has_all_parts).await;
    assert!(in_time.is_ok(), "{parts:?} are not all in\n{output}");
    output
}

#[tokio::test]
async fn explain_tells_the_route_the_servers_and_what_is_kept() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let mut config = config(authority.address);
    config.routes = vec![route("corp.example", &[authority.address])];
    let tier = Tier::on_node(&config, None).await;
    let before = inspect(&tier, "explain www.corp.example").await;
    assert!(before.contains("route           route/corp.example"), "{before}");
    assert!(before.contains(&format!("upstream        {} (route/corp.example) up", authority.address)), "{before}");
    assert!(before.contains("cache           no entry"), "{before}");
    let mut query = query_for("WWW.corp.example", RecordType::A);
    exchange(tier.address, &query).await;
    query.edns.as_mut().unwrap().set_dnssec_ok(true);
    exchange(tier.address, &query).await;
    let from = format!("s more, then stale for 3600 s, from {}", authority.address);
    let parts = ["this query: NOERROR, 50 octets, age ", "this query with DO: NOERROR", &from];
    inspect_until(&tier, "explain www.CORP.example A", &parts).await;
    assert!(inspect(&tier, "explain localhost").await.contains("  route           local: "));
}

#[tokio::test]
async fn explain_of_an_address_tells_how_an_upstream_is_and_names_the_upstreams_for_another_one() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    for line in [format!("explain {}", authority.address), format!("explain {}", authority.address.ip())] {
        let text = inspect_until(&tier, &line, &["1 sent, 0 timeouts, 0 in flight"]).await;
        assert!(text.starts_with(&format!("{} (forward)\n  health          up", authority.address)), "{text}");
        assert!(text.contains("  limits          well, too few queries to find a limit\n"), "{text}");
    }
    let other = inspect(&tier, "explain 192.0.2.7").await;
    assert_eq!(other, format!("192.0.2.7 is no upstream; these are: {}\n", authority.address));
}

#[tokio::test]
async fn explain_tells_of_denials_of_names_above_and_of_failures() {
    let authority = Authority::start(|query| match query.name().to_ascii().to_lowercase() {
        name if name.contains("broken") => Action::Respond(empty_response(query, ResponseCode::ServFail)),
        name if name.ends_with(".com.") => Action::Respond(query.default_response(300, 1)),
        _ => Action::Respond(negative_response(query, ResponseCode::NXDomain, 300)),
    })
    .await;
    let mut config = config(authority.address);
    config.routes = ["broken.example", "com"].map(|suffix| route(suffix, &[authority.address])).into();
    let tier = Tier::on_node(&config, None).await;
    let denied: Vec<String> = (0..20).map(|number| format!("n{number}.com.svc.cluster.local")).collect();
    for name in ["www.shop.com", "www.broken.example"].into_iter().chain(denied.iter().map(|name| &**name)) {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    inspect_until(&tier, "explain mail.com.svc.cluster.local MX", &["com.svc.cluster.local.: NXDOMAIN"]).await;
    inspect_until(&tier, "explain www.broken.example", &["failure         SERVFAIL\n"]).await;
    assert_eq!(inspect(&tier, "flush www.broken.example").await, "0 entries flushed\n");
    assert!(!inspect(&tier, "explain www.broken.example").await.contains("failure"), "a failure is forgotten too");
}

#[tokio::test]
async fn explain_tells_where_an_alias_goes_on() {
    let authority = Authority::start(|query| match query.is("www.shop.example") {
        true => {
            let alias = RData::CNAME(CNAME(name("db.corp.example")));
            let record = Record::from_rdata(query.name().clone(), 300, alias);
            Action::Respond(response_with(query, vec![record]))
        }
        false => Action::Respond(query.default_response(300, 1)),
    })
    .await;
    let mut config = config(authority.address);
    config.routes = ["shop.example", "corp.example"].map(|suffix| route(suffix, &[authority.address])).into();
    let tier = Tier::on_node(&config, None).await;
    exchange(tier.address, &query_for("www.shop.example", RecordType::A)).await;
    let parts = ["this query: NOERROR", "alias           goes on with db.corp.example. (route/corp.example)\n"];
    inspect_until(&tier, "explain www.shop.example", &parts).await;
}

#[tokio::test]
async fn flush_forgets_a_name_or_everything_below_it_and_nothing_else() {
    let authority = Authority::start(|query| match query.is("none.shop.example") {
        true => Action::Respond(negative_response(query, ResponseCode::NXDomain, 300)),
        false => Action::Respond(query.default_response(300, 1)),
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let names = ["shop.example", "www.shop.example", "none.shop.example", "workshop.example"];
    for name in names {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    inspect_until(&tier, "stats", &["  cache entries   4\n"]).await;
    let dumped = inspect(&tier, "dump shop.example").await;
    let mut lines: Vec<&str> = dumped.lines().filter_map(|line| line.split(':').next()).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["none.shop.example. (any) [forward]", "shop.example. A [forward]", "www.shop.example. A [forward]"]
    );
    assert_eq!(inspect(&tier, "flush Shop.example").await, "1 entries flushed\n");
    assert_eq!(inspect(&tier, "flush-below shop.example.").await, "2 entries flushed\n");
    assert_eq!(inspect(&tier, "dump shop.example").await, "no entries\n");
    authority.clear_queries();
    for name in names {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    assert_eq!((authority.queries().len(), authority.query_count("workshop.example")), (3, 0));
}

#[tokio::test]
async fn stats_tell_how_many_questions_were_answered_from_where() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for _ in 0..3 {
        exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    }
    // A batch is counted while its responses are sent.
    let stats = inspect_until(&tier, "stats", &["  hits            2\n", "  cache entries   1\n"]).await;
    for part in [
        "  queries         3\n",
        "  hits            2\n",
        "  misses          1\n",
        "  dropped         0\n",
        "  not admitted    0\n",
        "  cache entries   1\n",
    ] {
        assert!(stats.contains(part), "{part:?} is not in\n{stats}");
    }
    assert!(
        stats.contains(&format!("  upstream        {} (forward) up: 1 sent, 0 timeouts\n", authority.address)),
        "{stats}"
    );
}

//! Effect of a new revision on cached responses.

use hickory_proto::rr::RecordType;

use crate::support::{Action, Authority, Tier, config, exchange, query_for, route, zone};

#[tokio::test]
async fn a_revision_that_changes_something_else_keeps_every_answer_and_one_that_changes_servers_keeps_none_of_theirs() {
    let (cluster, own, corp, other) =
        (start_authority().await, start_authority().await, start_authority().await, start_authority().await);
    let mut config = config(cluster.address);
    config.zones = vec![zone("zone-a", own.address)];
    config.routes = vec![route("corp.example", &[corp.address])];
    let tier = Tier::on_node(&config, Some("zone-a")).await;
    let names = ["www.example", "www.corp.example", "web.shop.svc.cluster.local", "1.0.0.10.in-addr.arpa"];
    let counts = || names.map(|name| [&cluster, &own, &corp, &other].map(|server| server.query_count(name)));
    for name in names {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    let known = counts();

    config.routes.push(route("else.example", &[other.address]));
    config.node_cache.allow_from.push("10.0.0.0/8".parse().unwrap());
    config.node_cache.cache.max_ttl = 1800;
    // One more resolver of the same kind leads to the same data.
    config.zones.push(zone("zone-b", other.address));
    tier.apply_on_node(&config, Some("zone-a"));
    for name in names {
        assert_eq!(exchange(tier.address, &query_for(name, RecordType::A)).await.answers.len(), 1);
    }
    assert_eq!(counts(), known, "all from memory");

    config.routes[0] = route("corp.example", &[other.address]);
    tier.apply_on_node(&config, Some("zone-a"));
    for name in names {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    assert_eq!(other.query_count("www.corp.example"), 1, "other servers may know otherwise");
    assert_eq!(counts()[0], known[0], "the others are kept");
}

async fn start_authority() -> Authority {
    Authority::start(|query| Action::Respond(query.default_response(300, 1))).await
}

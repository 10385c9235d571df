//! Per-client limits: one client that floods, beside others.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use node_cache_config::{Upstream, UpstreamSource};

use crate::support::{Action, Authority, Tier, config, exchange_from, query_for};

const HOT_NAMES: usize = 200;
/// Queries in a burst of the flooding client, and the minimum number of bursts.
const BURST_LEN: usize = 50;
const MIN_BURSTS: usize = 400;
/// Queries of the flood that must reach the upstream before it ends: on a busy machine most of a burst is dropped.
const MIN_FORWARDED: usize = 5_000;
/// Tries of a stub resolver.
const MAX_TRIES: usize = 5;

#[tokio::test]
async fn a_client_that_asks_for_thousands_of_names_takes_no_answer_and_no_memory_from_others() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::start(Default::default());
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = Upstream::from(authority.address);
    config.resolver.upstreams = UpstreamSource::Servers(vec![upstream]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    tier.apply_forwarding(&config);

    let hot = |number: usize| query_for(&format!("hot-{}.example", number % HOT_NAMES), RecordType::A);
    let query_as_other = async |number: usize| {
        for _ in 0..MAX_TRIES {
            let response = exchange_from("127.0.0.2:0", tier.address, &hot(number), Duration::from_secs(1)).await;
            if let Some(response) = response {
                assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::NoError, 1));
                return;
            }
        }
        panic!("no answer for the other one after {MAX_TRIES} tries");
    };
    for number in 0..2 * HOT_NAMES {
        query_as_other(number).await;
    }
    let greedy = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    greedy.connect(tier.address).await.unwrap();
    let mut bursts = 0;
    while bursts < MIN_BURSTS || authority.queries().len() < MIN_FORWARDED {
        assert!(bursts < 20 * MIN_BURSTS, "the flood gets nowhere: {}", authority.queries().len());
        for part in 0..BURST_LEN {
            let packet = query_for(&format!("n{part}.x{bursts}.of-no-use.example"), RecordType::A).to_vec().unwrap();
            // Responses to the flood are not read.
            greedy.send(&packet).await.unwrap();
        }
        query_as_other(bursts).await;
        bursts += 1;
    }
    let queries = authority.queries();
    let for_hot = queries.iter().filter(|query| query.name().to_ascii().to_lowercase().starts_with("hot-")).count();
    // Each name was queried once as a miss. A flood may cost others 2 % of their hits.
    assert!(for_hot <= HOT_NAMES + bursts / 50, "{for_hot} in {bursts} bursts");
}

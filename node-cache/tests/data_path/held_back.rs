//! Responses that a server withholds and releases all at once (DNSBomb): a client receives no more of them than the
//! limit of its queries in flight, whoever sent the queries in its name. A resolver says to each query beyond that it
//! has no room, at once.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use node_cache::metrics::RefusalReason;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::support::{Action, Authority, Tier, config, exchange_from, query_for};

const QUERY_COUNT: usize = 5_000;
/// Limit of queries in flight for one client.
const MAX_IN_FLIGHT: usize = 1_024;

#[tokio::test]
async fn answers_that_were_held_back_come_as_no_longer_a_burst_than_one_client_may_have_in_work() {
    let released = Instant::now() + Duration::from_millis(2_000);
    let authority = Authority::start(move |query| {
        let wait = if query.is("other.example") { Duration::ZERO } else { released - Instant::now().min(released) };
        Action::RespondAfter(wait, query.default_response(300, 1))
    })
    .await;
    let tier = Tier::start(Default::default());
    let mut config = config("127.0.0.1:9".parse().unwrap());
    let upstream = node_cache_config::Upstream::from(authority.address);
    config.resolver.upstreams = node_cache_config::UpstreamSource::Servers(vec![upstream]);
    config.resolver.allow_from = vec!["127.0.0.0/8".parse().unwrap()];
    tier.apply_forwarding(&config);
    let victim = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    victim.connect(tier.address).await.unwrap();
    let started = Instant::now();
    let mut buffer = [0; 1500];
    let mut refusals = 0;
    for number in 0..QUERY_COUNT {
        victim.send(&query_for(&format!("n{number}.example"), RecordType::A).to_vec().unwrap()).await.unwrap();
        // Waits until the worker has read them; a full socket buffer would lose some.
        while number % 50 == 0 && tier.serving.workers().datagrams()[0] <= number as u64 {
            assert!(started.elapsed() < Duration::from_secs(30), "it reads on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while let Ok(length) = victim.try_recv(&mut buffer) {
            assert!(!has_answer(&buffer) && length < 64, "{length} octets");
            refusals += 1;
        }
    }
    let query = query_for("other.example", RecordType::A);
    let other = exchange_from("127.0.0.2:0", tier.address, &query, Duration::from_secs(5));
    assert_eq!(other.await.expect("others are answered meanwhile").answers.len(), 1);
    let mut burst = 0;
    while let Ok(Ok(_)) = timeout(Duration::from_secs(4), victim.recv(&mut buffer)).await {
        burst += usize::from(has_answer(&buffer));
        refusals += usize::from(!has_answer(&buffer));
    }
    assert!(burst > 0 && burst <= MAX_IN_FLIGHT, "{burst}");
    assert!(refusals <= QUERY_COUNT, "{refusals}");
    let refused = tier.resolver.metrics().refused_admissions(RefusalReason::Client);
    assert!(refused > QUERY_COUNT as u64 / 4, "{refused}");
}

fn has_answer(response: &[u8]) -> bool {
    u16::from_be_bytes([response[6], response[7]]) > 0
}

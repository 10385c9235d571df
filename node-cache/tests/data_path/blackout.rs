//! Serve-stale while no upstream responds for a long time (RFC 8767).

use std::time::{Duration, Instant};

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::support::{Action, Authority, Tier, address_record, ede, exchange, query_for};

const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Names that are queried before the server is known to be down.
const NAMES_BEFORE_DOWN: usize = 20;

/// Caches names, stops the only server for this long, and queries all names again and again.
async fn blackout(names: usize, duration: Duration) {
    let authority = Authority::start(|query| Action::Respond(query.default_response(1, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let names: Vec<String> = (0..names).map(|number| format!("n{number}.example")).collect();
    for name in &names {
        exchange(tier.address, &query_for(name, RecordType::A)).await;
    }
    authority.stop_responding();
    let started = Instant::now();
    // Entries are stale from the first query on.
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let lookups = names.iter().take(NAMES_BEFORE_DOWN).map(|name| async move {
        let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
        assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::NoError, Some(3)), "{name}");
    });
    join_all(lookups).await;
    while tier.resolver.snapshot().unwrap().upstreams()[0].healthy {
        assert!(started.elapsed() < RECOVERY_TIMEOUT, "it is known to be dead");
        exchange(tier.address, &query_for(&names[0], RecordType::A)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    authority.clear_queries();
    let down_since = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || down_since.elapsed() < duration {
        for name in &names {
            let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
            assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::NoError, 1), "{name}");
            assert!(response.answers[0].ttl <= 30 && ede(&response) == Some(3), "{name}: {response}");
        }
        rounds += 1;
    }
    // One probe a second shows whether the server is up again, and five stale names a second are queried again, with
    // three sends each. Queries sent before the server was known to be down may be retried once.
    let sent = authority.queries().len();
    let seconds = down_since.elapsed().as_secs() as usize;
    assert!(sent <= 2 * NAMES_BEFORE_DOWN + (2 + 3 * 5) * (1 + seconds), "{sent} in {seconds} s");
    for name in &names {
        let sent = authority.query_count(name);
        assert!(sent <= 2 + 3 + seconds / 3, "{name}: {sent} in {seconds} s");
    }
    authority.set_script(|query| Action::Respond(query.default_response(300, 2)));
    let up_since = Instant::now();
    for name in &names {
        while exchange(tier.address, &query_for(name, RecordType::A)).await.answers[0].data
            != address_record("x", 0, "192.0.2.2").data
        {
            assert!(up_since.elapsed() < RECOVERY_TIMEOUT, "{name} is not fresh");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn in_a_blackout_every_known_name_is_answered_no_server_is_pressed_and_all_is_fresh_when_it_ends() {
    // Long enough to see that no query is repeated every second.
    blackout(500, Duration::from_secs(5)).await;
}

#[tokio::test]
#[ignore = "ten minutes; run by make test-long"]
async fn a_blackout_of_ten_minutes_is_no_different() {
    blackout(500, Duration::from_secs(600)).await;
}

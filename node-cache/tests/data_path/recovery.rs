//! A server that was down responds again.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::support::{Action, Authority, Tier, ede, exchange, query_for};

const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_answers_again_ends_all_that_was_remembered_of_its_silence() {
    let authority = Authority::start(|_| Action::Ignore).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let query = |number: usize| query_for(&format!("n{number}.example"), RecordType::A);
    let healthy = || tier.resolver.snapshot().unwrap().upstreams()[0].healthy;
    let started = Instant::now();
    // Repeated failures, so that the failure of the first name is cached for long.
    loop {
        let response = exchange(tier.address, &query(0)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
        let before = authority.queries().len();
        let (again, other) = tokio::join!(rcode_for(&tier, 0), rcode_for(&tier, 1));
        assert_eq!((again, other), (ResponseCode::ServFail, ResponseCode::ServFail));
        if !healthy() && authority.query_count("n0.example") >= 9 && before > 0 {
            break;
        }
        assert!(started.elapsed() < RECOVERY_TIMEOUT, "it is known to be dead");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let response = exchange(tier.address, &query(0)).await;
    assert_eq!(
        (response.metadata.response_code, ede(&response)),
        (ResponseCode::ServFail, Some(22)),
        "it is remembered"
    );
    authority.set_script(|query| Action::Respond(query.default_response(300, 1)));
    while !healthy() {
        assert!(started.elapsed() < RECOVERY_TIMEOUT, "it is known to be well");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // At once, not when the cached failures expire.
    for number in [0, 1] {
        assert_eq!(rcode_for(&tier, number).await, ResponseCode::NoError, "n{number}");
    }
}

async fn rcode_for(tier: &Tier, number: usize) -> ResponseCode {
    exchange(tier.address, &query_for(&format!("n{number}.example"), RecordType::A)).await.metadata.response_code
}

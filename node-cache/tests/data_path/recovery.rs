//! A dead server answers again.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::support::{Authority, Reply, Tier, ask, ede, question};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_answers_again_ends_all_that_was_remembered_of_its_silence() {
    let authority = Authority::start(|_| Reply::Silence).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let asked = |number: usize| question(&format!("n{number}.example"), RecordType::A);
    let healthy = || tier.resolver.snapshot().unwrap().upstreams()[0].healthy;
    let started = Instant::now();
    // In a row, so that the failure of the first name is remembered for long.
    loop {
        let answer = ask(tier.address, &asked(0)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        let before = authority.asked().len();
        let (again, other) = tokio::join!(tier_asks(&tier, 0), tier_asks(&tier, 1));
        assert_eq!((again, other), (ResponseCode::ServFail, ResponseCode::ServFail));
        if !healthy() && authority.asked_for("n0.example") >= 9 && before > 0 {
            break;
        }
        assert!(started.elapsed() < LIMIT, "it is known to be dead");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = ask(tier.address, &asked(0)).await;
    assert_eq!((answer.metadata.response_code, ede(&answer)), (ResponseCode::ServFail, Some(22)), "it is remembered");
    authority.change(|asked| Reply::Say(asked.usual_answer(300, 1)));
    while !healthy() {
        assert!(started.elapsed() < LIMIT, "it is known to be well");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // At once: not when the time is over for which failures are remembered.
    for number in [0, 1] {
        assert_eq!(tier_asks(&tier, number).await, ResponseCode::NoError, "n{number}");
    }
}

async fn tier_asks(tier: &Tier, number: usize) -> ResponseCode {
    ask(tier.address, &question(&format!("n{number}.example"), RecordType::A)).await.metadata.response_code
}

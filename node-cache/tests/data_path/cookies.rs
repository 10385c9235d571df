//! DNS cookies (RFC 7873): a client that sends one receives a server cookie, and no client is refused for lack of one.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use node_cache::cookies::Secret;

use crate::support::{Action, Authority, Tier, exchange, exchange_over_tcp, query_for};

const COOKIE: u16 = 10;
const CLIENT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

async fn with_secret() -> (Authority, Tier) {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    tier.secrets.send_modify(|secrets| {
        secrets.renew(Secret::random());
    });
    (authority, tier)
}

fn with_cookie(mut message: Message, cookie: &[u8]) -> Message {
    let edns = message.edns.get_or_insert_default();
    edns.options_mut().insert(EdnsOption::Unknown(COOKIE, cookie.to_vec()));
    message
}

fn cookie_in(message: &Message) -> Option<Vec<u8>> {
    message.edns.as_ref()?.options().as_ref().iter().find_map(|(_, option)| match option {
        EdnsOption::Unknown(COOKIE, data) => Some(data.clone()),
        _ => None,
    })
}

fn usual() -> Message {
    query_for("www.example", RecordType::A)
}

/// Builds a query for a cookie alone, without a question.
fn alone(cookie: &[u8]) -> Message {
    let mut message = with_cookie(usual(), cookie);
    message.queries.clear();
    message
}

#[tokio::test]
async fn who_sends_a_cookie_is_told_the_whole_one_over_udp_and_tcp_and_servers_hear_nothing_of_it() {
    let (authority, tier) = with_secret().await;
    let first = exchange(tier.address, &with_cookie(usual(), &CLIENT)).await;
    let whole = cookie_in(&first).unwrap();
    assert_eq!((first.answers.len(), whole.len(), &whole[..8]), (1, 24, &CLIENT[..]));
    let again = with_cookie(usual(), &whole);
    for answer in [exchange(tier.address, &again).await, exchange_over_tcp(tier.address, &again).await] {
        assert_eq!((answer.answers.len(), cookie_in(&answer)), (1, Some(whole.clone())));
    }
    assert_eq!(cookie_in(&exchange(tier.address, &usual()).await), None);
    assert!(authority.queries().iter().all(|query| cookie_in(&query.message).is_none()));
}

#[tokio::test]
async fn who_shows_a_cookie_that_we_did_not_make_is_answered_and_told_the_right_one() {
    let (_authority, tier) = with_secret().await;
    let right = cookie_in(&exchange(tier.address, &with_cookie(usual(), &CLIENT)).await).unwrap();
    let forged = [&CLIENT[..], &[9; 16]].concat();
    let answer = exchange(tier.address, &with_cookie(usual(), &forged)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1));
    let told = cookie_in(&answer).unwrap();
    // A second may have passed between the two.
    assert_eq!((&told[..12], told.len()), (&right[..12], 24));
    assert_ne!(told, forged);
}

#[tokio::test]
async fn a_cookie_of_a_wrong_length_is_malformed() {
    let (authority, tier) = with_secret().await;
    for length in [1, 7, 9, 15, 41, 100] {
        for message in [with_cookie(usual(), &vec![7; length]), alone(&vec![7; length])] {
            let answer = exchange(tier.address, &message).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{length}");
        }
    }
    assert!(authority.queries().is_empty());
}

#[tokio::test]
async fn a_cookie_can_be_asked_for_without_a_question() {
    let (authority, tier) = with_secret().await;
    let first = exchange(tier.address, &alone(&CLIENT)).await;
    assert_eq!((first.metadata.response_code, first.queries.len()), (ResponseCode::NoError, 0));
    let whole = cookie_in(&first).unwrap();
    let again = exchange(tier.address, &alone(&whole)).await;
    assert_eq!((again.metadata.response_code, cookie_in(&again)), (ResponseCode::NoError, Some(whole)));
    let forged = exchange(tier.address, &alone(&[&CLIENT[..], &[9; 16]].concat())).await;
    assert_eq!(forged.metadata.response_code, ResponseCode::BADCOOKIE);
    let mut without = alone(&CLIENT);
    without.edns = usual().edns;
    assert_eq!(exchange(tier.address, &without).await.metadata.response_code, ResponseCode::FormErr);
    assert!(authority.queries().is_empty());
}

#[tokio::test]
async fn without_a_secret_cookies_are_passed_over() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let answer = exchange(tier.address, &with_cookie(usual(), &CLIENT)).await;
    assert_eq!((answer.answers.len(), cookie_in(&answer)), (1, None));
    assert_eq!(exchange(tier.address, &alone(&CLIENT)).await.metadata.response_code, ResponseCode::FormErr);
}

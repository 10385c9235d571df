//! DNS cookies (RFC 7873): a client that sends one receives a server cookie, and no client is refused for lack of one.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use node_cache::dns::cookie_secret::CookieSecret;

use crate::support::{Action, Authority, Tier, exchange, exchange_over_tcp, query_for};

const COOKIE: u16 = 10;
const CLIENT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

async fn with_secret() -> (Authority, Tier) {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    tier.secrets.send_modify(|secrets| {
        secrets.rotate(CookieSecret::random());
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

fn query() -> Message {
    query_for("www.example", RecordType::A)
}

/// Builds a query for a cookie alone, without a question.
fn cookie_only(cookie: &[u8]) -> Message {
    let mut message = with_cookie(query(), cookie);
    message.queries.clear();
    message
}

#[tokio::test]
async fn who_sends_a_cookie_is_told_the_whole_one_over_udp_and_tcp_and_servers_hear_nothing_of_it() {
    let (authority, tier) = with_secret().await;
    let first = exchange(tier.address, &with_cookie(query(), &CLIENT)).await;
    let full_cookie = cookie_in(&first).unwrap();
    assert_eq!((first.answers.len(), full_cookie.len(), &full_cookie[..8]), (1, 24, &CLIENT[..]));
    let repeated = with_cookie(query(), &full_cookie);
    for response in [exchange(tier.address, &repeated).await, exchange_over_tcp(tier.address, &repeated).await] {
        assert_eq!((response.answers.len(), cookie_in(&response)), (1, Some(full_cookie.clone())));
    }
    assert_eq!(cookie_in(&exchange(tier.address, &query()).await), None);
    assert!(authority.queries().iter().all(|query| cookie_in(&query.message).is_none()));
}

#[tokio::test]
async fn who_shows_a_cookie_that_we_did_not_make_is_answered_and_told_the_right_one() {
    let (_authority, tier) = with_secret().await;
    let expected = cookie_in(&exchange(tier.address, &with_cookie(query(), &CLIENT)).await).unwrap();
    let forged = [&CLIENT[..], &[9; 16]].concat();
    let response = exchange(tier.address, &with_cookie(query(), &forged)).await;
    assert_eq!((response.metadata.response_code, response.answers.len()), (ResponseCode::NoError, 1));
    let renewed = cookie_in(&response).unwrap();
    // A second may have passed between the two.
    assert_eq!((&renewed[..12], renewed.len()), (&expected[..12], 24));
    assert_ne!(renewed, forged);
}

#[tokio::test]
async fn a_cookie_of_a_wrong_length_is_malformed() {
    let (authority, tier) = with_secret().await;
    for length in [1, 7, 9, 15, 41, 100] {
        for message in [with_cookie(query(), &vec![7; length]), cookie_only(&vec![7; length])] {
            let response = exchange(tier.address, &message).await;
            assert_eq!(response.metadata.response_code, ResponseCode::FormErr, "{length}");
        }
    }
    assert!(authority.queries().is_empty());
}

#[tokio::test]
async fn a_cookie_can_be_asked_for_without_a_question() {
    let (authority, tier) = with_secret().await;
    let first = exchange(tier.address, &cookie_only(&CLIENT)).await;
    assert_eq!((first.metadata.response_code, first.queries.len()), (ResponseCode::NoError, 0));
    let full_cookie = cookie_in(&first).unwrap();
    let repeated = exchange(tier.address, &cookie_only(&full_cookie)).await;
    assert_eq!((repeated.metadata.response_code, cookie_in(&repeated)), (ResponseCode::NoError, Some(full_cookie)));
    let forged = exchange(tier.address, &cookie_only(&[&CLIENT[..], &[9; 16]].concat())).await;
    assert_eq!(forged.metadata.response_code, ResponseCode::BADCOOKIE);
    let mut without = cookie_only(&CLIENT);
    without.edns = query().edns;
    assert_eq!(exchange(tier.address, &without).await.metadata.response_code, ResponseCode::FormErr);
    assert!(authority.queries().is_empty());
}

#[tokio::test]
async fn without_a_secret_cookies_are_passed_over() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let response = exchange(tier.address, &with_cookie(query(), &CLIENT)).await;
    assert_eq!((response.answers.len(), cookie_in(&response)), (1, None));
    assert_eq!(exchange(tier.address, &cookie_only(&CLIENT)).await.metadata.response_code, ResponseCode::FormErr);
}

//! Forms of a response in which an upstream does not give its answer: cut without TC, truncated where TCP is closed, an
//! error about EDNS or without a question, a referral.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{NS, TXT};
use hickory_proto::rr::{RData, Record, RecordType};
use node_cache_config::Protocol;
use tokio::time::{Duration, sleep};

use crate::inspection::inspect;
use crate::ports::node_with_discovered_resolver;
use crate::support::{
    Action, Authority, ReceivedQuery, Tier, address_record, allow_loopback, config, ede, empty_response, exchange,
    exchange_over_tcp, name, negative_response, query_for, response_with, servers_over, srv_record, unknown_record,
};

const LOCALHOST: &str = "127.0.0.1";
/// Header of a response with ID 0, an rcode and no counts.
const BARE_HEADER: [u8; 12] = [0, 0, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0];
/// OPT record without options.
const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

/// Starts a zone resolver that queries these servers over TCP only.
fn over_tcp_only(servers: &[SocketAddr]) -> Tier {
    let mut config = config("127.0.0.1:9".parse().unwrap());
    config.resolver.upstreams = servers_over(servers, Protocol::Tcp);
    allow_loopback(&mut config);
    let tier = Tier::start(Default::default());
    tier.apply_forwarding(&config);
    tier
}

/// Returns for each query that a server received for a name whether it came over TCP.
fn transports(server: &Authority, name: &str) -> Vec<bool> {
    server.queries().iter().filter(|query| query.is(name)).map(|query| query.tcp).collect()
}

/// Returns for each query that a server received for a name whether it had an OPT record.
fn edns_use(server: &Authority, name: &str) -> Vec<bool> {
    server.queries().iter().filter(|query| query.is(name)).map(|query| query.message.edns.is_some()).collect()
}

fn timeouts(tier: &Tier) -> u64 {
    tier.resolver.snapshot().unwrap().upstreams().iter().map(|upstream| upstream.timeouts).sum()
}

/// Builds a response of 50 records of the type in the question, more than 512 octets; no data for other types, which
/// probes ask for.
fn long_response(query: &ReceivedQuery) -> Message {
    let owner = query.name().to_ascii();
    let record = |number: u8| match query.rtype() {
        RecordType::A => Some(address_record(&owner, 300, &format!("192.0.2.{number}"))),
        RecordType::AAAA => Some(address_record(&owner, 300, &format!("2001:db8::{number}"))),
        RecordType::SRV => Some(srv_record(&owner, 300, number.into(), &format!("host-{number}.example"))),
        RecordType::TXT => {
            let text = format!("text number {number} of this name, which nobody reads");
            Some(Record::from_rdata(name(&owner), 300, RData::TXT(TXT::new(vec![text]))))
        }
        _ => None,
    };
    response_with(query, (0..50).filter_map(record).collect())
}

/// Truncates a long response to some records, with TC.
fn truncated(query: &ReceivedQuery) -> Message {
    let mut message = long_response(query);
    message.answers.truncate(5);
    message.metadata.truncation = true;
    message
}

/// Cuts a packet without TC after `length` octets, at the latest before its last one.
fn cut(message: &Message, length: usize) -> Vec<u8> {
    let mut packet = message.to_vec().unwrap();
    packet.truncate(length.min(packet.len() - 1));
    packet
}

/// Returns the length after which a query's response is cut, from a name such as `c512.example`; the last octet for
/// other names.
fn cut_length(query: &ReceivedQuery) -> usize {
    query.name().to_ascii()[1..].split('.').next().unwrap().parse().unwrap_or(usize::MAX)
}

fn cut_over_udp(query: &ReceivedQuery) -> Action {
    let message = long_response(query);
    if query.tcp { Action::Respond(message) } else { Action::SendRaw(vec![cut(&message, cut_length(query))]) }
}

fn refused(query: &ReceivedQuery) -> Action {
    Action::Respond(empty_response(query, ResponseCode::Refused))
}

// Datagrams that are cut without TC.

#[tokio::test]
async fn a_datagram_that_breaks_off_is_asked_again_over_tcp() {
    let authority = Authority::start(cut_over_udp).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let (node, _cluster, resolver) = node_with_discovered_resolver(cut_over_udp).await;
    for rtype in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::SRV] {
        // Within the question, behind it, within the first records, and where datagrams usually end.
        for length in [20, 30, 31, 37, 45, 100, 511, 512, 1231, 1232, 9999] {
            let name = format!("c{length}.example");
            for (tier, authority) in [(&tier, &authority), (&node, &resolver)] {
                authority.clear_queries();
                let response = exchange_over_tcp(tier.address, &query_for(&name, rtype)).await;
                assert_eq!((response.answers.len(), response.metadata.truncation), (50, false), "{rtype} {length}");
                if length > 20 {
                    assert_eq!(transports(authority, &name), [false, true], "{rtype} {length}");
                }
            }
        }
    }
    assert_eq!(timeouts(&tier), 0);
}

#[tokio::test]
async fn a_datagram_longer_than_any_buffer_is_asked_again_over_tcp() {
    let authority = Authority::start(|query| {
        Action::Respond(response_with(
            query,
            (0..60).map(|_| unknown_record("big.example", 65_280, &[7; 200])).collect(),
        ))
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let response = exchange_over_tcp(tier.address, &query_for("big.example", RecordType::Unknown(65_280))).await;
    assert_eq!((response.answers.len(), transports(&authority, "big.example")), (60, vec![false, true]));
}

#[tokio::test]
async fn a_response_that_breaks_off_over_tcp_is_an_error_of_that_server() {
    let cutting = |query: &ReceivedQuery| Action::SendRaw(vec![cut(&long_response(query), 512)]);
    let first = Authority::start(cutting).await;
    let second = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    for tier in
        [Tier::forwarding_to(&[first.address, second.address]).await, over_tcp_only(&[first.address, second.address])]
    {
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!((response.answers.len(), response.metadata.truncation), (1, false));
    }
    // With nobody else to ask, the client is told that there is more.
    let tier = Tier::forwarding_to(&[first.address]).await;
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert!(response.metadata.truncation && response.metadata.response_code == ResponseCode::NoError);
    let tier = over_tcp_only(&[first.address]);
    let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_datagram_that_breaks_off_is_believed_no_more_than_a_whole_one_in_another_case() {
    let authority = Authority::start(|query| match query.tcp {
        true => Action::Respond(query.default_response(300, 1)),
        false => {
            let mut forged = long_response(query);
            let lower = forged.queries[0].name().to_lowercase();
            forged.queries[0].set_name(lower);
            Action::SendRaw(vec![cut(&forged, 512)])
        }
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let name = "a-name-with-many-letters-in-it.example";
    let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
    assert_eq!(response.answers, [address_record(name, 300, "192.0.2.1")]);
    let near_misses: Vec<_> =
        tier.resolver.snapshot().unwrap().upstreams().iter().map(|upstream| upstream.near_misses).collect();
    assert_eq!(near_misses, [1]);
}

// Truncated responses of servers that give no more over TCP.

/// Asserts that a UDP client gets the truncated response and a TCP client SERVFAIL, and that nothing is cached.
async fn assert_passed_on(tier: &Tier, name: &str) {
    for _ in 0..2 {
        let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
        let header = response.metadata;
        assert_eq!((header.response_code, header.truncation), (ResponseCode::NoError, true), "{name}");
        assert_eq!(response.answers.len(), 5);
        assert_eq!(tier.resolver.cache().entries(), 0, "nothing is cached");
    }
    let response = exchange_over_tcp(tier.address, &query_for(name, RecordType::A)).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::ServFail, Some(22)));
    assert!(!response.metadata.truncation && response.answers.is_empty());
}

fn truncated_over_udp(query: &ReceivedQuery) -> Action {
    if query.tcp { Action::Ignore } else { Action::Respond(truncated(query)) }
}

#[tokio::test]
async fn a_truncated_response_of_a_server_that_refuses_tcp_is_passed_on() {
    let authority = Authority::without_tcp(LOCALHOST, truncated_over_udp).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    assert_passed_on(&tier, "www.example").await;
    let explained = inspect(&tier, "explain www.example").await;
    assert!(explained.contains(" up, TCP closed\n"), "{explained}");
    assert_eq!(timeouts(&tier), 0, "it has answered");
}

#[tokio::test]
async fn a_truncated_response_of_a_server_that_is_silent_over_tcp_is_passed_on() {
    let authority = Authority::start(truncated_over_udp).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    assert_passed_on(&tier, "www.example").await;
}

#[tokio::test]
async fn a_truncated_response_of_a_server_that_fails_over_tcp_is_passed_on() {
    for rcode in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr] {
        let authority = Authority::start(move |query| match query.tcp {
            true => Action::Respond(empty_response(query, rcode)),
            false => Action::Respond(truncated(query)),
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        assert_passed_on(&tier, "www.example").await;
    }
}

#[tokio::test]
async fn a_datagram_that_breaks_off_where_tcp_is_closed_is_passed_on_as_truncated() {
    let authority =
        Authority::without_tcp(LOCALHOST, |query| Action::SendRaw(vec![cut(&long_response(query), 120)])).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    assert_passed_on(&tier, "www.example").await;
}

#[tokio::test]
async fn a_whole_answer_of_another_server_is_better_than_a_truncated_one_and_that_better_than_a_failure() {
    let closed = Authority::without_tcp(LOCALHOST, truncated_over_udp).await;
    let whole = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
    let failing = Authority::start(refused).await;
    for (first, second, answers, is_truncated) in [
        (&closed, &whole, 1, false),
        (&whole, &closed, 1, false),
        (&closed, &failing, 5, true),
        (&failing, &closed, 5, true),
    ] {
        let tier = Tier::forwarding_to(&[first.address, second.address]).await;
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!((response.answers.len(), response.metadata.truncation), (answers, is_truncated));
    }
}

#[tokio::test]
async fn a_pod_gets_the_truncated_response_through_its_node_and_the_resolver_of_its_zone() {
    for is_silent in [false, true] {
        let authority = if is_silent {
            Authority::start(truncated_over_udp).await
        } else {
            Authority::without_tcp(LOCALHOST, truncated_over_udp).await
        };
        let address: IpAddr = LOCALHOST.parse().unwrap();
        let resolver = Tier::resolver_on(address, &[authority.address], Protocol::Udp);
        let node = Tier::node_on(address, &[resolver.address]);
        assert_passed_on(&node, "www.example").await;
    }
}

#[tokio::test]
async fn a_stale_answer_is_better_than_a_truncated_one_and_stays_in_the_cache() {
    let authority = Authority::without_tcp(LOCALHOST, |query| Action::Respond(query.default_response(1, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let query = query_for("www.example", RecordType::A);
    exchange(tier.address, &query).await;
    authority.set_script(truncated_over_udp);
    sleep(Duration::from_millis(1100)).await;
    for _ in 0..3 {
        let response = exchange(tier.address, &query).await;
        assert_eq!(response.answers, [address_record("www.example", 30, "192.0.2.1")]);
        assert_eq!((ede(&response), response.metadata.truncation), (Some(3), false));
    }
    assert!(authority.query_count("www.example") >= 4, "it is tried each time");
}

// Errors about EDNS.

/// Returns the packet with another rcode, in the ID and question of the query.
fn raw(message: &Message, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = message.to_vec().unwrap();
    change(&mut packet);
    packet
}

/// Returns a bare header with the ID of the query and this rcode.
fn bare(query: &ReceivedQuery, rcode: u8) -> Vec<u8> {
    let mut packet = BARE_HEADER;
    packet[..2].copy_from_slice(&query.message.metadata.id.to_be_bytes());
    packet[3] |= rcode;
    packet.to_vec()
}

/// Returns an error without an OPT record.
fn without_opt(query: &ReceivedQuery, rcode: ResponseCode) -> Message {
    let mut message = empty_response(query, rcode);
    message.edns = None;
    message
}

/// Returns the answer to a query with OPT records where none may be: `counts` is that of the authority and additional
/// section.
fn with_opt_at(query: &ReceivedQuery, counts: [u8; 2], records: &[u8]) -> Vec<u8> {
    let mut message = query.default_response(300, 1);
    message.edns = None;
    raw(&message, |packet| {
        (packet[9], packet[11]) = (counts[0], counts[1]);
        packet.extend(records);
    })
}

/// Error of a server that does not know OPT records, to a query with one.
type EdnsError = fn(&ReceivedQuery) -> Vec<u8>;

/// Ways in which servers answer a query with an OPT record that they do not know.
const EDNS_ERRORS: [(&str, EdnsError); 13] = [
    ("FORMERR", |query| without_opt(query, ResponseCode::FormErr).to_vec().unwrap()),
    ("FORMERR with the OPT of the query", |query| empty_response(query, ResponseCode::FormErr).to_vec().unwrap()),
    ("FORMERR as a bare header", |query| bare(query, 1)),
    ("FORMERR as a bare header with the counts of the query", |query| {
        let mut packet = bare(query, 1);
        (packet[5], packet[11]) = (1, 1);
        packet
    }),
    ("NOTIMP", |query| without_opt(query, ResponseCode::NotImp).to_vec().unwrap()),
    ("NOTIMP as a bare header", |query| bare(query, 4)),
    ("SERVFAIL", |query| without_opt(query, ResponseCode::ServFail).to_vec().unwrap()),
    ("REFUSED", |query| without_opt(query, ResponseCode::Refused).to_vec().unwrap()),
    ("an rcode that is seldom seen", |query| raw(&without_opt(query, ResponseCode::NoError), |packet| packet[3] |= 9)),
    ("BADVERS", |query| {
        raw(&empty_response(query, ResponseCode::NoError), |packet| {
            let extended_rcode = packet.len() - 6;
            packet[extended_rcode] = 1;
        })
    }),
    ("OPT among the authorities", |query| with_opt_at(query, [1, 0], &OPT)),
    ("two OPT", |query| with_opt_at(query, [0, 2], &[OPT, OPT].concat())),
    ("OPT of a name", |query| with_opt_at(query, [0, 1], &[&[0xc0, 12], &OPT[1..]].concat())),
];

/// Answers queries without EDNS, and those with it with this error.
fn without_edns(error: EdnsError) -> impl Fn(&ReceivedQuery) -> Action + Send + 'static {
    move |query| match query.message.edns.is_some() {
        true => Action::SendRaw(vec![error(query)]),
        false => Action::Respond(query.default_response(300, 1)),
    }
}

#[tokio::test]
async fn a_server_without_edns_is_asked_again_without_it_whatever_its_error_is_and_remembered_after_three_names() {
    for (description, error) in EDNS_ERRORS {
        let authority = Authority::start(without_edns(error)).await;
        for tier in [Tier::forwarding_to(&[authority.address]).await, over_tcp_only(&[authority.address])] {
            authority.clear_queries();
            for number in 0..5 {
                let name = format!("n{number}.example");
                let response = exchange(tier.address, &query_for(&name, RecordType::A)).await;
                assert_eq!(response.answers.len(), 1, "{description}: {name}");
                let expected = if number < 3 { vec![true, false] } else { vec![false] };
                assert_eq!(edns_use(&authority, &name), expected, "{description}: {name}");
            }
            assert_eq!(timeouts(&tier), 0, "{description}");
            let explained = inspect(&tier, "explain www.example").await;
            assert!(explained.contains(" up, without EDNS for 59"), "{description}: {explained}");
        }
    }
}

#[tokio::test]
async fn one_or_two_errors_about_edns_change_nothing_and_neither_do_three_that_are_not_in_a_row() {
    let authority = Authority::start(|query| {
        let is_forged = query.name().to_ascii().to_lowercase().starts_with("forged");
        match query.message.edns.is_some() && is_forged {
            true => Action::SendRaw(vec![bare(query, 1)]),
            false => Action::Respond(query.default_response(300, 1)),
        }
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    for number in 0..4 {
        for name in [format!("forged-a{number}.example"), format!("forged-b{number}.example")] {
            assert_eq!(exchange(tier.address, &query_for(&name, RecordType::A)).await.answers.len(), 1);
            assert_eq!(edns_use(&authority, &name), [true, false]);
        }
        let name = format!("true{number}.example");
        exchange(tier.address, &query_for(&name, RecordType::A)).await;
        assert_eq!(edns_use(&authority, &name), [true]);
    }
    assert!(!inspect(&tier, "explain www.example").await.contains("EDNS"));
}

#[tokio::test]
async fn a_failure_without_opt_of_a_server_that_knows_edns_costs_one_send() {
    for rcode in [ResponseCode::ServFail, ResponseCode::Refused] {
        let authority = Authority::start(move |query| match query.is("dead.example") {
            true => Action::Respond(without_opt(query, rcode)),
            false => Action::Respond(query.default_response(300, 1)),
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        let response = exchange(tier.address, &query_for("dead.example", RecordType::A)).await;
        assert_eq!((response.metadata.response_code, authority.query_count("dead.example")), (rcode, 1));
    }
}

#[tokio::test]
async fn a_server_without_edns_that_truncates_is_asked_over_tcp_without_it_too() {
    let authority = Authority::start(|query| match (query.message.edns.is_some(), query.tcp) {
        (true, _) => Action::Respond(without_opt(query, ResponseCode::FormErr)),
        (false, false) => Action::Respond(truncated(query)),
        (false, true) => Action::Respond(long_response(query)),
    })
    .await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let response = exchange_over_tcp(tier.address, &query_for("www.example", RecordType::A)).await;
    assert_eq!((response.answers.len(), edns_use(&authority, "www.example")), (50, vec![true, false, false]));
}

// Errors without a question.

#[tokio::test]
async fn an_error_as_a_bare_header_ends_the_attempt_at_once_and_another_server_answers() {
    for rcode in [1, 2, 4, 5] {
        for counts in [[0, 0], [1, 1]] {
            let first = Authority::start(move |query| {
                let mut packet = bare(query, rcode);
                (packet[5], packet[11]) = (counts[0], counts[1]);
                Action::SendRaw(vec![packet])
            })
            .await;
            let second = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
            let servers = [first.address, second.address];
            for tier in [Tier::forwarding_to(&servers).await, over_tcp_only(&servers)] {
                for name in ["one.example", "two.example"] {
                    first.clear_queries();
                    let response = exchange(tier.address, &query_for(name, RecordType::A)).await;
                    assert_eq!(response.answers, [address_record(name, 300, "192.0.2.2")], "rcode {rcode}");
                    assert_eq!(edns_use(&first, name), [true, false], "rcode {rcode}");
                }
                assert_eq!(timeouts(&tier), 0, "rcode {rcode}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_cached_of_an_error_as_a_bare_header() {
    for rcode in [1, 2, 4, 5] {
        let authority = Authority::start(move |query| Action::SendRaw(vec![bare(query, rcode)])).await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        let query = query_for("www.example", RecordType::A);
        let response = exchange(tier.address, &query).await;
        assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::ServFail, Some(22)));
        authority.set_script(|query| Action::Respond(query.default_response(300, 1)));
        assert_eq!(exchange(tier.address, &query).await.answers.len(), 1, "rcode {rcode}");
    }
}

#[tokio::test]
async fn an_answer_or_a_denial_as_a_bare_header_is_nothing_but_a_near_miss() {
    for rcode in [0, 3] {
        let authority = Authority::without_tcp(LOCALHOST, move |query| {
            let true_response = query.default_response(300, 1).to_vec().unwrap();
            Action::SendRaw(vec![bare(query, rcode), true_response])
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.answers.len(), 1, "rcode {rcode}");
        assert!(tier.resolver.snapshot().unwrap().upstreams()[0].near_misses > 0, "rcode {rcode}");
    }
}

#[tokio::test]
async fn on_a_port_that_serves_many_queries_an_error_as_a_bare_header_is_a_near_miss() {
    let (node, _cluster, resolver) = node_with_discovered_resolver(|query| match query.tcp {
        true => Action::Respond(query.default_response(300, 1)),
        false => Action::SendRaw(vec![bare(query, 5)]),
    })
    .await;
    for number in 0..3 {
        let name = format!("n{number}.example");
        let response = exchange(node.address, &query_for(&name, RecordType::A)).await;
        assert_eq!((response.answers.len(), transports(&resolver, &name)), (1, vec![false, true]), "{name}");
    }
}

// Referrals of servers that do not recurse.

/// Builds a response without an answer that names servers of this zone.
fn referral(query: &ReceivedQuery, zone: &str, recursion_available: bool, authoritative: bool) -> Message {
    let mut message = empty_response(query, ResponseCode::NoError);
    message.metadata.recursion_available = recursion_available;
    message.metadata.authoritative = authoritative;
    for server in ["a.servers.example", "b.servers.example"] {
        message.add_authority(Record::from_rdata(name(zone), 300, RData::NS(NS(name(server)))));
    }
    message.add_additional(address_record("a.servers.example", 300, "192.0.2.53"));
    message
}

#[tokio::test]
async fn a_referral_of_a_server_that_does_not_recurse_is_no_answer_and_another_server_is_asked() {
    for zone in [".", "com.", "example.com.", "elsewhere.example.", "www.shop.example.com."] {
        let lame = Authority::start(move |query| Action::Respond(referral(query, zone, false, false))).await;
        let second = Authority::start(|query| Action::Respond(query.default_response(300, 2))).await;
        let servers = [lame.address, second.address];
        for tier in [Tier::forwarding_to(&servers).await, over_tcp_only(&servers)] {
            let response = exchange(tier.address, &query_for("shop.example.com", RecordType::A)).await;
            assert_eq!(response.answers, [address_record("shop.example.com", 300, "192.0.2.2")], "{zone}");
        }
        let queries = lame.query_count("shop.example.com");
        assert_eq!(queries, 2, "{zone}: once over UDP and once over TCP");
        // Nobody else knows the name: a failure, and no denial that would be cached.
        for tier in [Tier::forwarding_to(&[lame.address]).await, over_tcp_only(&[lame.address])] {
            let response = exchange(tier.address, &query_for("shop.example.com", RecordType::A)).await;
            let rcode = response.metadata.response_code;
            assert_eq!((rcode, ede(&response)), (ResponseCode::ServFail, Some(22)), "{zone}");
            assert!(response.authorities.is_empty());
        }
    }
}

#[tokio::test]
async fn a_pod_behind_a_node_gets_servfail_where_all_servers_are_lame() {
    let lame = Authority::start(|query| Action::Respond(referral(query, ".", false, false))).await;
    let address: IpAddr = LOCALHOST.parse().unwrap();
    let resolver = Tier::resolver_on(address, &[lame.address], Protocol::Udp);
    let node = Tier::node_on(address, &[resolver.address]);
    let response = exchange(node.address, &query_for("shop.example.com", RecordType::A)).await;
    assert_eq!((response.metadata.response_code, ede(&response)), (ResponseCode::ServFail, Some(22)));
}

#[tokio::test]
async fn a_denial_and_what_a_recursive_or_authoritative_server_says_are_no_referrals() {
    let scripts: [fn(&ReceivedQuery) -> Message; 4] = [
        |query| {
            let mut denial = negative_response(query, ResponseCode::NoError, 60);
            denial.metadata.recursion_available = false;
            denial.add_authority(Record::from_rdata(name("example"), 300, RData::NS(NS(name("ns.example")))));
            denial
        },
        |query| referral(query, "com.", true, false),
        |query| referral(query, "com.", false, true),
        |query| empty_response(query, ResponseCode::NoError),
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let authority = Authority::start(move |query| {
            let is_known = query.is("known.example");
            Action::Respond(if is_known { query.default_response(300, 1) } else { script(query) })
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        // A server that knows a name in random case is not asked again for what it denies.
        exchange(tier.address, &query_for("known.example", RecordType::A)).await;
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{number}");
        assert_eq!(authority.query_count("www.example"), 1, "{number}");
    }
}

//! Malformed packets, from clients and from servers: the mistakes of RFC 9267 and related ones.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response, ResponseError};

use crate::support::{Action, Authority, ReceivedQuery, Tier, address_record, exchange, exchange_raw, query_for};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Name, type and class in the question section of every packet here.
const WWW: &[u8] = b"\x03www\x07example\x00";
const A_IN: &[u8] = &[0, 1, 0, 1];

/// Builds a packet with one question, these record counts, and these octets after the question section.
fn packet(counts: [u16; 3], rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0, 0, 1, 0, 0, 1];
    packet.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    [&packet, WWW, A_IN, rest].concat()
}

/// Builds a record with this owner, type and data; `rdlength` need not be the length of the data.
fn record(owner: &[u8], rtype: u16, rdlength: usize, data: &[u8]) -> Vec<u8> {
    let fixed =
        [&rtype.to_be_bytes()[..], &[0, 1, 0, 0, 1, 44], &u16::try_from(rdlength).unwrap().to_be_bytes()].concat();
    [owner, &fixed, data].concat()
}

/// Returns records that are malformed in any section, each with a description.
fn broken_records() -> Vec<(&'static str, Vec<u8>)> {
    const HERE: u8 = 12 + 13 + 4;
    let a = |owner: &[u8]| record(owner, 1, 4, &[192, 0, 2, 66]);
    let long = [b"\x3f".as_slice(), &[b'x'; 63]].concat();
    vec![
        ("a pointer to itself", a(&[0xc0, HERE])),
        ("a pointer to its own label", a(&[1, b'a', 0xc0, HERE])),
        ("a pointer forwards", a(&[0xc0, HERE + 20])),
        ("a pointer behind the end", a(&[0xff, 0xff])),
        ("a pointer into the header", a(&[0xc0, 4])),
        ("a label of a reserved kind", a(&[0x41, b'a', 0])),
        ("another reserved kind", a(&[0x81, b'a', 0])),
        ("a label longer than what is left", vec![0x3f, b'a', b'b']),
        ("a name without an end", vec![3, b'a', b'b', b'c']),
        ("a name of more than 255 octets", a(&[&long.repeat(4)[..], &[0]].concat())),
        ("half a pointer", vec![0xc0]),
        ("a record that breaks off in its type", vec![0, 0]),
        ("a record that breaks off in its TTL", vec![0, 0, 1, 0, 1, 0, 0]),
        ("data longer than what is left", record(&[0xc0, 12], 1, 5, &[192, 0, 2, 66])),
        ("data of the greatest length", record(&[0xc0, 12], 16, 0xffff, &[1, b'a'])),
        ("no record at all", vec![]),
    ]
}

/// Returns records whose data is malformed, which only a check of the data finds.
fn broken_data() -> Vec<(&'static str, Vec<u8>)> {
    const DATA: u8 = 12 + 13 + 4 + 12;
    let www = [0xc0, 12];
    vec![
        ("an alias that points to itself", record(&www, 5, 2, &[0xc0, DATA])),
        ("an alias that points forwards", record(&www, 5, 2, &[0xc0, DATA + 2])),
        ("an alias without an end", record(&www, 5, 3, &[2, b'a', b'b'])),
        ("an alias and more", record(&www, 5, 3, &[0xc0, 12, 0])),
        ("an alias of nothing", record(&www, 5, 0, &[])),
        ("a server of mail without a name", record(&www, 15, 2, &[0, 10])),
        ("an authority that breaks off", record(&www, 6, 5, &[0, 0, 1, 2, 3])),
        ("half a service", record(&www, 33, 4, &[0, 0, 0, 0])),
        ("an address of three octets", record(&www, 1, 3, &[192, 0, 2])),
        ("an address of five octets", record(&www, 1, 5, &[192, 0, 2, 66, 1])),
        ("half an IPv6 address", record(&www, 28, 8, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0])),
    ]
}

/// Returns malformed OPT records, each with its record counts.
fn broken_edns() -> Vec<(&'static str, [u16; 3], Vec<u8>)> {
    let opt = record(&[0], 41, 0, &[]);
    vec![
        ("two OPT", [0, 0, 2], opt.repeat(2)),
        ("OPT among the authorities", [0, 1, 0], opt.clone()),
        ("OPT of a name", [0, 0, 1], record(&[0xc0, 12], 41, 0, &[])),
        ("an option longer than its record", [0, 0, 1], record(&[0], 41, 4, &[0, 15, 0, 9])),
        ("half an option", [0, 0, 1], record(&[0], 41, 3, &[0, 15, 0])),
        ("OPT longer than what is left", [0, 0, 1], record(&[0], 41, 9, &[0, 15, 0, 0])),
    ]
}

#[tokio::test]
async fn broken_questions_are_malformed_and_reach_nobody() {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    let mut packets: Vec<(&str, Vec<u8>)> = Vec::new();
    for (mistake, record) in broken_records() {
        for counts in [[1, 0, 0], [0, 1, 0], [0, 0, 1]] {
            packets.push((mistake, packet(counts, &record)));
        }
    }
    packets.extend(broken_edns().into_iter().map(|(mistake, counts, record)| (mistake, packet(counts, &record))));
    packets.push(("more records than there are", packet([0xffff; 3], &[])));
    for (mistake, name) in [
        ("a pointer", &[0xc0, 12][..]),
        ("a label of a reserved kind", &[0x40, 0]),
        ("a label longer than the packet", &[63, b'a', 0]),
        ("a name of more than 255 octets", &b"\x01a".repeat(128)),
    ] {
        packets.push((mistake, [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0], A_IN].concat()));
    }
    for (mistake, packet) in packets {
        let response = exchange_raw(tier.address, "127.0.0.1:0", &packet, RESPONSE_TIMEOUT).await;
        let response = response.unwrap_or_else(|| panic!("{mistake}: no answer"));
        assert_eq!((response.len(), response[2] & 0x80, response[3] & 0x0f), (12, 0x80, 1), "{mistake}");
    }
    assert_eq!(authority.queries().len(), 0);
    assert_eq!(exchange(tier.address, &query_for("www.example", RecordType::A)).await.answers.len(), 1);
}

/// Turns a packet into a response to this query.
fn as_response_to(query: &ReceivedQuery, mut packet: Vec<u8>) -> Vec<u8> {
    packet[..2].copy_from_slice(&query.message.metadata.id.to_be_bytes());
    packet[2..4].copy_from_slice(&[0x81, 0x80]);
    let name = query.message.to_vec().unwrap();
    packet[12..12 + WWW.len()].copy_from_slice(&name[12..12 + WWW.len()]);
    packet
}

#[tokio::test]
async fn broken_answers_are_passed_over_or_asked_again_and_the_true_one_is_awaited() {
    let mut broken: Vec<(&str, Vec<u8>)> = Vec::new();
    for (mistake, record) in broken_records().into_iter().chain(broken_data()) {
        for counts in [[1, 0, 0], [0, 1, 0], [0, 0, 1]] {
            broken.push((mistake, packet(counts, &record)));
        }
    }
    broken.extend(broken_edns().into_iter().map(|(mistake, counts, record)| (mistake, packet(counts, &record))));
    broken.push(("more records than there are", packet([0xffff; 3], &[])));
    for (mistake, packet) in broken {
        let sent = packet.clone();
        let authority = Authority::start(move |query| {
            let true_response = query.default_response(300, 1).to_vec().unwrap();
            if query.tcp || query.message.edns.is_none() {
                return Action::SendRaw(vec![true_response]);
            }
            Action::SendRaw(vec![as_response_to(query, sent.clone()), true_response])
        })
        .await;
        let tier = Tier::forwarding_to(&[authority.address]).await;
        let response = exchange(tier.address, &query_for("www.example", RecordType::A)).await;
        assert_eq!(response.answers, [address_record("www.example", 300, "192.0.2.1")], "{mistake}: {packet:?}");
        // What breaks off is asked over TCP, and what is wrong about EDNS without it.
        let repeated = authority.queries().into_iter().nth(1);
        let repeated = repeated.map(|query| (query.tcp, query.message.edns.is_some()));
        let question = Question::plain(&Name::from_text("www.example").unwrap(), 1);
        let expected = match Response::read(&[&[0, 0, 0x81, 0x80], &packet[4..]].concat(), 0, &question) {
            Err(ResponseError::Incomplete) => Some((true, true)),
            Err(ResponseError::MalformedEdns) => Some((false, false)),
            Err(ResponseError::Malformed) => None,
            other => panic!("{mistake}: {other:?}"),
        };
        assert_eq!(repeated, expected, "{mistake}");
    }
}

/// Builds a packet of about this many octets, with records whose owners lead through a chain of pointers.
fn chained(pointers: usize, octets: usize) -> Vec<u8> {
    // The chain is the data of a record of unknown type: each pointer names the one before, the first the question.
    let start = 12 + WWW.len() + A_IN.len() + 12;
    let chain: Vec<u8> = (0..pointers)
        .flat_map(|index| {
            let before = if index == 0 { 12 } else { start + 2 * (index - 1) };
            (0xc000 | u16::try_from(before).unwrap()).to_be_bytes()
        })
        .collect();
    let mut records = record(&[0xc0, 12], 65_280, chain.len(), &chain);
    let end = (0xc000 | u16::try_from(start + 2 * (pointers - 1)).unwrap()).to_be_bytes();
    let mut count = 1;
    while records.len() + 14 < octets {
        // A CNAME whose target leads through the chain as well.
        records.extend(record(&end, 5, 2, &end));
        count += 1;
    }
    packet([count, 0, 0], &records)
}

#[test]
fn a_name_is_followed_through_no_more_pointers_than_it_can_have_labels() {
    let question = Question::plain(&Name::from_text("www.example").unwrap(), 1);
    let read = |pointers, octets| {
        let mut packet = chained(pointers, octets);
        packet[2] |= 0x80;
        Response::read(&packet, 0, &question)
    };
    // As long as a message can be: four thousand records, each of which ends parsing when its chain is too long.
    assert!(read(8_000, 64_000).is_err() && read(127, 64_000).is_err());
    assert!(read(126, 64_000).unwrap().records().len() > 4_500);
}

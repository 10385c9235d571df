//! Arbitrary packets, from clients and from servers: no reader panics, both readers agree, and a response says what the
//! server said.

use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};
use node_cache::dns::answer::Answer;
use node_cache::dns::codes::rtype;
use node_cache::dns::fast_query::FastQuery;
use node_cache::dns::query::Query;
use node_cache::dns::question::Question;
use node_cache::dns::request::{self, Rejection};
use node_cache::dns::{Name, Response};

use crate::owners::related_records;
use crate::support::{
    ReceivedQuery, address_record, name, negative_response, query_for, response_with, srv_record, unknown_record,
};

/// Pseudo-random numbers that are the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Changes a packet in up to four places.
fn mutate(random: &mut Random, packet: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(packet.len());
        match random.below(5) {
            0 => packet[at] ^= 1 << random.below(8),
            1 => packet[at] = [0, 1, 0x3f, 0x40, 0xc0, 0xff][random.below(6)],
            2 => packet.truncate(at.max(1)),
            3 => packet.insert(at, random.next() as u8),
            _ => {
                let piece = packet[at..].iter().take(40).copied().collect::<Vec<_>>();
                packet.extend(piece);
            }
        }
    }
}

/// Returns whether all of this is a name. The fast reader does not validate the octets in the name's place: no cached
/// name equals an invalid one.
fn is_name(octets: &[u8]) -> bool {
    Name::read_uncompressed(octets, 0).is_ok_and(|(_, end)| end == octets.len())
}

#[test]
fn both_readers_of_questions_agree_on_whatever_a_client_sends() {
    let mut read = 0;
    let mut refused = 0;
    let mut ignored = 0;
    for seed in 0..100_000 {
        let mut random = Random(seed);
        let owner = ["www.shop.example", ".", "a", "_dmarc.mail.example"][random.below(4)];
        let mut packet = query_for(owner, RecordType::from(random.below(70) as u16)).to_vec().unwrap();
        if random.below(4) > 0 {
            mutate(&mut random, &mut packet);
        }
        let plain = FastQuery::read(&packet);
        match request::read(&packet) {
            Ok(query) => {
                read += 1;
                if let Some(plain) = plain.filter(|plain| is_name(plain.name(&packet))) {
                    assert_eq!(plain.name(&packet), query.name.as_bytes(), "{packet:?}");
                    assert_eq!((plain.rtype(), plain.class()), (query.rtype, query.class), "{packet:?}");
                    assert_eq!(
                        (plain.dnssec_ok(), plain.checking_disabled()),
                        (query.dnssec_ok(), query.checking_disabled)
                    );
                }
            }
            Err(Rejection::Respond { message: response, .. }) => {
                refused += 1;
                assert!(response.len() >= 12 && response[..2] == packet[..2] && response[2] & 0x80 != 0, "{packet:?}");
            }
            Err(Rejection::Drop) => {
                ignored += 1;
                assert!(!plain.is_some_and(|plain| is_name(plain.name(&packet))), "{packet:?}");
            }
        }
    }
    assert!(read > 10_000 && refused > 10_000 && ignored > 1_000, "{read} {refused} {ignored}");
}

/// Builds a response with records of many kinds in all sections.
fn random_response(random: &mut Random, query: &ReceivedQuery) -> Message {
    if random.below(5) == 0 {
        return negative_response(query, hickory_proto::op::ResponseCode::NXDomain, 60);
    }
    let record = |random: &mut Random| -> Record {
        let owner = ["www.shop.example", "shop.example", "WWW.shop.example", "other.test"][random.below(4)];
        match random.below(4) {
            0 => address_record(owner, random.below(9000) as u32, "192.0.2.7"),
            1 => address_record(owner, 60, "2001:db8::7"),
            2 => srv_record(owner, 60, 53, "ns.shop.example"),
            _ => unknown_record(owner, 65_280, &random.next().to_be_bytes()[random.below(8)..]),
        }
    };
    let mut message = response_with(query, (0..random.below(5)).map(|_| record(random)).collect());
    for _ in 0..random.below(3) {
        message.add_authority(record(random));
    }
    for _ in 0..random.below(3) {
        message.add_additional(record(random));
    }
    message
}

#[test]
fn what_is_said_is_what_a_server_told_but_for_number_case_and_edns() {
    let mut intact = 0;
    let mut broken = 0;
    let asked_name = Name::from_text("www.shop.example").unwrap();
    let asked_question = Question::plain(&asked_name, rtype::A);
    for seed in 0..100_000 {
        let mut random = Random(seed);
        let mut message = query_for("www.shop.example", RecordType::A);
        message.metadata.id = random.next() as u16;
        let query = ReceivedQuery { message, source: "127.0.0.1:9".parse().unwrap(), tcp: false };
        let sent = random_response(&mut random, &query);
        let mut packet = sent.to_vec().unwrap();
        let is_intact = random.below(3) == 0;
        if !is_intact {
            mutate(&mut random, &mut packet);
        }
        let Ok(response) = Response::read(&packet, query.message.metadata.id, &asked_question) else {
            assert!(!is_intact, "{sent:?}");
            broken += 1;
            continue;
        };
        let query = Query { id: 9, ..Query::plain(Name::from_text("WWW.Shop.example").unwrap(), rtype::A) };
        let reply = Answer::local(response, None).to_tcp_wire(&query, Duration::from_secs(10));
        if is_intact {
            intact += 1;
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!((reply.metadata.id, reply.metadata.response_code), (9, sent.metadata.response_code));
            assert!(reply.queries[0].name().eq_case(&name("WWW.Shop.example")) && reply.edns.is_none());
            assert_eq!(reply.answers, related_records("www.shop.example", &sent.answers), "{seed}");
            assert_eq!(reply.authorities, sent.authorities, "{seed}");
            assert_eq!(reply.additionals, sent.additionals, "{seed}");
        }
    }
    assert!(intact > 10_000 && broken > 10_000, "{intact} {broken}");
}

//! Packets from a client. The reader of usual queries and the full reader agree, every response can be read and is no
//! longer than it may be, and an upstream gets the same question.

use std::net::Ipv4Addr;

use node_cache::dns::answer::Answer;
use node_cache::dns::codes::{class, rcode};
use node_cache::dns::cookie_secret::{CookieReply, CookieSecret, CookieSecrets};
use node_cache::dns::fast_query::{FastEdns, FastQuery};
use node_cache::dns::query::Query;
use node_cache::dns::request::{self, CookieOnlyQuery, Rejection};
use node_cache::dns::{Name, Response};
use node_cache::identity::Identity;
use node_cache::resolver::local_names;

use crate::message::{sent_records, u16_at};

/// Types that are refused although their queries may have the usual shape: OPT, transfers, MAILB, MAILA.
const REFUSED_TYPES: [u16; 5] = [41, 251, 252, 253, 254];

/// Reads a packet with both readers and answers it.
pub fn run(packet: &[u8]) {
    // An invalid name is in no cache, so the reader of usual queries may take it.
    let plain = FastQuery::read(packet).filter(|plain| is_name(plain.name(packet)));
    if let Some(alone) = CookieOnlyQuery::read(packet) {
        assert_cookie_answered(packet, &alone);
    }
    match request::read(packet) {
        Ok(query) => {
            if let Some(plain) = plain {
                assert_readers_agree(packet, &plain, &query);
            }
            assert_forwarded(&query);
            assert_answered(packet, &query);
        }
        Err(Rejection::Respond { message: response, .. }) => {
            let may_be_refused = plain.is_none_or(|plain| REFUSED_TYPES.contains(&plain.rtype()));
            assert!(may_be_refused, "a usual query is refused");
            assert!(packet[2] & 0x80 == 0, "a response is answered");
            assert_eq!(response[..2], packet[..2]);
            assert!(response[2] & 0xf8 == 0x80 | (packet[2] & 0x78), "QR and the client's opcode");
            assert!(response.len() <= packet.len().max(12) + 17, "more than the question and the reason");
            if u16_at(&response, 4) == Some(1) {
                assert!(sent_records(&response).is_empty());
            } else {
                assert_eq!(response.len(), 12);
            }
        }
        Err(Rejection::Drop) => {
            assert!(plain.is_none());
            assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "a query gets no response");
        }
    }
}

/// Asserts that a packet with a cookie and without a question has no other response, and that this one is short.
fn assert_cookie_answered(packet: &[u8], alone: &CookieOnlyQuery) {
    assert!(matches!(request::read(packet), Err(Rejection::Respond { .. })));
    let mut secrets = CookieSecrets::default();
    secrets.rotate(CookieSecret::random());
    let address = Ipv4Addr::LOCALHOST.into();
    let reply = secrets.reply(&alone.cookie, address, 1000).expect("there is a secret");
    assert!(
        secrets
            .reply(&reply.cookie, address, 1000)
            .is_some_and(|again| again == CookieReply { is_valid: true, ..reply })
    );
    let (response, _) = alone.respond(&reply);
    assert_eq!((response.len(), &response[..2], u16_at(&response, 4)), (12 + 11 + 4 + 24, &packet[..2], Some(0)));
}

fn is_name(octets: &[u8]) -> bool {
    Name::read_uncompressed(octets, 0).is_ok_and(|(_, end)| end == octets.len())
}

fn assert_readers_agree(packet: &[u8], plain: &FastQuery, query: &Query) {
    assert_eq!(plain.name(packet), query.name.as_bytes());
    assert_eq!((plain.rtype(), plain.class()), (query.rtype, query.class));
    assert_eq!(plain.edns, query.edns.map(|edns| FastEdns { udp_size: edns.udp_size, dnssec_ok: edns.dnssec_ok }));
    assert_eq!((plain.dnssec_ok(), plain.checking_disabled()), (query.dnssec_ok(), query.checking_disabled));
}

/// Asserts that an upstream gets the same question, in a query of the usual shape.
fn assert_forwarded(query: &Query) {
    let question = query.question();
    for with_edns in [false, true] {
        let forwarded = question.to_wire(7, with_edns);
        let read = request::read(&forwarded).expect("a query of ours can be read");
        assert!(FastQuery::read(&forwarded).is_some());
        assert_eq!(read.name, query.name.lower());
        assert_eq!((read.id, read.rtype, read.class, read.recursion_desired), (7, query.rtype, query.class, true));
        assert_eq!((read.checking_disabled, read.edns.is_some()), (query.checking_disabled, with_edns));
        assert_eq!(read.dnssec_ok(), with_edns && query.dnssec_ok());
    }
}

/// Asserts that local responses have the client's ID and question, and are short enough.
fn assert_answered(packet: &[u8], query: &Query) {
    let own = local_names::answer(&query.question(), &Identity::default());
    assert!(own.is_some() || query.class == class::IN, "other classes are not forwarded");
    let failure = Answer::local(Response::empty(&query.question(), rcode::SERVFAIL), Some(22));
    for answer in own.into_iter().chain([failure]) {
        let response = answer.to_udp_wire(query);
        let limit = query.edns.map_or(512, |edns| edns.udp_size.clamp(512, 1232));
        assert!(response.len() <= usize::from(limit));
        assert_eq!(response[..2], packet[..2]);
        let question_end = 12 + query.name.as_bytes().len() + 4;
        assert_eq!(response[12..question_end], packet[12..question_end], "the question as it was written");
        assert_eq!(u16_at(&response, 10), Some(u16::from(query.edns.is_some())), "OPT where the client sent one");
        sent_records(&response);
    }
}

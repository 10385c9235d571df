//! What a client sends. The reader of usual questions and the whole reader agree, every answer can be read and is no
//! longer than it may be, and what another server would be asked is the same question.

use std::net::Ipv4Addr;

use node_cache::dns::answer::{Answer, ReplyTransport};
use node_cache::dns::codes::{class, rcode};
use node_cache::dns::cookie_secret::{CookieReply, Secret, Secrets};
use node_cache::dns::fast_query::FastQuery;
use node_cache::dns::query::Query;
use node_cache::dns::request::{self, CookieOnlyQuery, Rejection};
use node_cache::dns::{Name, Response};
use node_cache::identity::Identity;
use node_cache::resolver::local_names;

use crate::message::{said, u16_at};

/// Types that are refused although their questions may have the usual shape: OPT, transfers, MAILB, MAILA.
const REFUSED: [u16; 5] = [41, 251, 252, 253, 254];

/// Reads a packet in both ways and answers it.
pub fn run(packet: &[u8]) {
    // What is in a name's place and is none is in nobody's memory.
    let plain = FastQuery::read(packet).filter(|plain| is_name(plain.name(packet)));
    if let Some(alone) = CookieOnlyQuery::read(packet) {
        assert_told_a_cookie(packet, &alone);
    }
    match request::read(packet) {
        Ok(query) => {
            if let Some(plain) = plain {
                assert_agree(packet, &plain, &query);
            }
            assert_forwarded(&query);
            assert_answered(packet, &query);
        }
        Err(Rejection::Respond(answer, _)) => {
            assert!(plain.is_none_or(|plain| REFUSED.contains(&plain.rtype())), "a usual question is refused");
            assert!(packet[2] & 0x80 == 0, "a response is answered");
            assert_eq!(answer[..2], packet[..2]);
            assert!(answer[2] & 0xf8 == 0x80 | (packet[2] & 0x78), "QR and the client's opcode");
            assert!(answer.len() <= packet.len().max(12) + 17, "nothing is said but the question and why");
            if u16_at(&answer, 4) == Some(1) {
                assert!(said(&answer).is_empty());
            } else {
                assert_eq!(answer.len(), 12);
            }
        }
        Err(Rejection::Drop) => {
            assert!(plain.is_none());
            assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "a request gets no answer");
        }
    }
}

/// A packet without a question and with a cookie has no other answer, and this one is short.
fn assert_told_a_cookie(packet: &[u8], alone: &CookieOnlyQuery) {
    assert!(matches!(request::read(packet), Err(Rejection::Respond(..))));
    let mut secrets = Secrets::default();
    secrets.renew(Secret::random());
    let address = Ipv4Addr::LOCALHOST.into();
    let told = secrets.tell(&alone.cookie, address, 1000).expect("there is a secret");
    assert!(
        secrets.tell(&told.cookie, address, 1000).is_some_and(|again| again == CookieReply { is_good: true, ..told })
    );
    let (answer, _) = alone.answer(&told);
    assert_eq!((answer.len(), &answer[..2], u16_at(&answer, 4)), (12 + 11 + 4 + 24, &packet[..2], Some(0)));
}

fn is_name(octets: &[u8]) -> bool {
    Name::read_plain(octets, 0).is_ok_and(|(_, end)| end == octets.len())
}

fn assert_agree(packet: &[u8], plain: &FastQuery, query: &Query) {
    assert_eq!(plain.name(packet), query.name.as_bytes());
    assert_eq!((plain.rtype(), plain.class()), (query.rtype, query.class));
    assert_eq!(plain.edns, query.edns.map(|edns| (edns.udp_size, edns.dnssec_ok)));
    assert_eq!((plain.dnssec_ok(), plain.checking_disabled()), (query.dnssec_ok(), query.checking_disabled));
}

/// What another server would be asked is the same question, of the usual shape.
fn assert_forwarded(query: &Query) {
    let question = query.question();
    for with_edns in [false, true] {
        let asked = question.to_wire(7, with_edns);
        let read = request::read(&asked).expect("our own question can be read");
        assert!(FastQuery::read(&asked).is_some());
        assert_eq!(read.name, query.name.lower());
        assert_eq!((read.id, read.rtype, read.class, read.recursion_desired), (7, query.rtype, query.class, true));
        assert_eq!((read.checking_disabled, read.edns.is_some()), (query.checking_disabled, with_edns));
        assert_eq!(read.dnssec_ok(), with_edns && query.dnssec_ok());
    }
}

/// Answers out of ourselves go to this client under its number and question, and are short enough.
fn assert_answered(packet: &[u8], query: &Query) {
    let own = local_names::answer(&query.question(), &Identity::default());
    assert!(own.is_some() || query.class == class::IN, "other classes go nowhere");
    let failure = Answer::local(Response::empty(&query.question(), rcode::SERVFAIL), Some(22));
    for answer in own.into_iter().chain([failure]) {
        let message = answer.to_wire(query, ReplyTransport::Udp);
        let limit = query.edns.map_or(512, |edns| edns.udp_size.clamp(512, 1232));
        assert!(message.len() <= usize::from(limit));
        assert_eq!(message[..2], packet[..2]);
        let question_end = 12 + query.name.as_bytes().len() + 4;
        assert_eq!(message[12..question_end], packet[12..question_end], "the question as it was written");
        assert_eq!(u16_at(&message, 10), Some(u16::from(query.edns.is_some())), "OPT for those who sent one");
        said(&message);
    }
}

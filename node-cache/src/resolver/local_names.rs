//! Names that a process answers out of itself, whatever its configuration.

use crate::dns::Response;
use crate::dns::answer::Answer;
use crate::dns::codes::{class, ede, rcode, rtype};
use crate::dns::question::Question;
use crate::identity::Identity;

const RESOLVER_ARPA: &[u8] = b"\x08resolver\x04arpa\0";
/// How long the answers about `localhost` may be kept, in seconds.
const LOCALHOST_TTL: u32 = 86_400;

/// The answer to a question that must not leave this process: `id.server.` and `hostname.bind.` (RFC 4892), every
/// other question outside the class of the internet, the names of RFC 6761 §6.3 and §6.4, those of RFC 7686 §2, and
/// `resolver.arpa`, which tells of encrypted ways to this very resolver (RFC 9462 §6.4): there are none. None for all others.
#[must_use]
pub fn answer(question: &Question, identity: &Identity) -> Option<Answer> {
    let lower = &question.name;
    if question.class != class::IN {
        let about_us = question.class == class::CH
            && question.rtype == rtype::TXT
            && matches!(lower.as_bytes(), b"\x02id\x06server\0" | b"\x08hostname\x04bind\0");
        let answer = if about_us {
            let records = [(rtype::TXT, 0, character_strings(&identity.strings()))];
            Answer::local(Response::with_records(question, rcode::NOERROR, &records), None)
        } else {
            Answer::local(Response::empty(question, rcode::REFUSED), Some(ede::NOT_SUPPORTED))
        };
        return Some(answer);
    }
    match lower.suffixes().filter(|suffix| suffix.len() > 1).last()? {
        b"\x09localhost\0" => Some(localhost(question)),
        b"\x07invalid\0" | b"\x05onion\0" => Some(Answer::local(Response::empty(question, rcode::NXDOMAIN), None)),
        b"\x04arpa\0" if lower.suffixes().any(|suffix| suffix == RESOLVER_ARPA) => {
            Some(Answer::local(Response::empty(question, rcode::NOERROR), None))
        }
        _ => None,
    }
}

fn localhost(question: &Question) -> Answer {
    let data = match question.rtype {
        rtype::A | rtype::ANY => Some((rtype::A, vec![127, 0, 0, 1])),
        rtype::AAAA => Some((rtype::AAAA, std::net::Ipv6Addr::LOCALHOST.octets().to_vec())),
        _ => None,
    };
    let records: Vec<_> = data.map(|(rtype, data)| (rtype, LOCALHOST_TTL, data)).into_iter().collect();
    Answer::local(Response::with_records(question, rcode::NOERROR, &records), None)
}

fn character_strings(texts: &[String]) -> Vec<u8> {
    let mut data = Vec::new();
    for text in texts {
        data.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        data.extend(text.bytes().take(usize::from(u8::MAX)));
    }
    data
}

//! Local names: names that each process answers itself, in any configuration, and never forwards.

use crate::dns::Response;
use crate::dns::answer::Answer;
use crate::dns::codes::{class, ede, rcode, rtype};
use crate::dns::question::Question;
use crate::identity::Identity;

const RESOLVER_ARPA: &[u8] = b"\x08resolver\x04arpa\0";
/// TTL of the records of `localhost`, in seconds.
const LOCALHOST_TTL: u32 = 86_400;

/// Returns the answer to a question that must not leave this process; `None` for all others.
///
/// | question | answer |
/// | --- | --- |
/// | CH TXT `id.server.` and `hostname.bind.` (RFC 4892) | the identity of the process |
/// | any other of a class but IN | REFUSED, Extended DNS Error "not supported" |
/// | `localhost` and below (RFC 6761 §6.3) | the loopback address |
/// | `invalid` (RFC 6761 §6.4), `onion` (RFC 7686 §2) and below | NXDOMAIN |
/// | `resolver.arpa` and below (RFC 9462 §6.4) | NODATA: this resolver has no encrypted transport |
#[must_use]
pub fn answer(question: &Question, identity: &Identity) -> Option<Answer> {
    let name = &question.name;
    if question.class != class::IN {
        let is_identity = question.class == class::CH
            && question.rtype == rtype::TXT
            && matches!(name.as_bytes(), b"\x02id\x06server\0" | b"\x08hostname\x04bind\0");
        let answer = if is_identity {
            let records = [(rtype::TXT, 0, character_strings(&identity.txt_strings()))];
            Answer::local(Response::with_records(question, rcode::NOERROR, &records), None)
        } else {
            Answer::local(Response::empty(question, rcode::REFUSED), Some(ede::NOT_SUPPORTED))
        };
        return Some(answer);
    }
    match name.suffixes().filter(|suffix| suffix.len() > 1).last()? {
        b"\x09localhost\0" => Some(localhost(question)),
        b"\x07invalid\0" | b"\x05onion\0" => Some(Answer::local(Response::empty(question, rcode::NXDOMAIN), None)),
        b"\x04arpa\0" if name.suffixes().any(|suffix| suffix == RESOLVER_ARPA) => {
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

/// Encodes TXT record data (RFC 1035 §3.3.14); a string is cut off after 255 bytes.
fn character_strings(texts: &[String]) -> Vec<u8> {
    let mut data = Vec::new();
    for text in texts {
        data.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        data.extend(text.bytes().take(usize::from(u8::MAX)));
    }
    data
}

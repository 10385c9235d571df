//! Answers in the form in which they are sent.

use super::Knowledge;

const HEADER: usize = 12;
const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const NXDOMAIN: u8 = 3;

/// What is said to a question, with its TTL in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    /// So many addresses of the family that was asked for.
    Addresses(u8, u32),
    /// So many mail hosts, `mx1` and so on below the name.
    MailHosts(u8, u32),
    /// The name of the host with an address.
    Host(u32),
    /// A text of so many octets, 255 at the most.
    Text(u8, u32),
    /// There is nothing of this type, in the zone so many labels above.
    Nothing(u8, u32),
    /// There is no such name in the zone so many labels above.
    NoName(u8, u32),
}

/// Writes the answer to a question; false when it is none.
pub(crate) fn answer_to(question: &[u8], knowledge: Knowledge, answer: &mut Vec<u8>) -> bool {
    answer.clear();
    let Some(end) = name_end(question) else { return false };
    let Some(&[high, low, _, _]) = question.get(end..end + 4) else { return false };
    let name = question[HEADER..end - 1].to_ascii_lowercase();
    let rtype = u16::from_be_bytes([high, low]);
    let said = knowledge(&name, rtype);
    let with_edns = question[11] > 0;
    let (answers, authorities) = match said {
        Said::Addresses(number, _) | Said::MailHosts(number, _) => (number, 0),
        Said::Host(_) | Said::Text(..) => (1, 0),
        Said::Nothing(..) | Said::NoName(..) => (0, 1),
    };
    let code = if matches!(said, Said::NoName(..)) { NXDOMAIN } else { 0 };
    answer.extend_from_slice(&question[..2]);
    answer.extend_from_slice(&[0x80 | (question[2] & 1), 0x80 | code]);
    answer.extend_from_slice(&[0, 1, 0, answers, 0, authorities, 0, u8::from(with_edns)]);
    answer.extend_from_slice(&question[HEADER..end + 4]);
    match said {
        Said::Addresses(number, ttl) => (0..number).for_each(|last| address(answer, rtype, ttl, last)),
        Said::MailHosts(number, ttl) => (0..number).for_each(|host| {
            // Preference, `mx<number>`, and the name of the question.
            let data = [0, 10, 3, b'm', b'x', b'1' + host, 0xc0, HEADER as u8];
            record(answer, HEADER as u8, MX, ttl, &data);
        }),
        Said::Host(ttl) => record(answer, HEADER as u8, PTR, ttl, b"\x04host\x07network\x07example\0"),
        Said::Text(length, ttl) => {
            let mut data = vec![b't'; usize::from(length) + 1];
            data[0] = length;
            record(answer, HEADER as u8, TXT, ttl, &data);
        }
        Said::Nothing(labels, ttl) | Said::NoName(labels, ttl) => {
            let above = |place: usize, _| place + 1 + usize::from(question[place]);
            let zone = (0..labels).fold(HEADER, above) as u8;
            let mut data = b"\x02ns\x07network\x07example\0\x04root\xc0\x0c".to_vec();
            [1, 3600, 600, 86400, ttl].iter().for_each(|number: &u32| data.extend_from_slice(&number.to_be_bytes()));
            record(answer, zone, SOA, ttl, &data);
        }
    }
    if with_edns {
        answer.extend_from_slice(&[0, 0, OPT as u8, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    true
}

fn address(answer: &mut Vec<u8>, rtype: u16, ttl: u32, last: u8) {
    match rtype {
        AAAA => record(answer, HEADER as u8, AAAA, ttl, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
        _ => record(answer, HEADER as u8, A, ttl, &[203, 0, 113, last]),
    }
}

/// A record whose owner is the name at an offset of the message.
fn record(answer: &mut Vec<u8>, owner: u8, rtype: u16, ttl: u32, data: &[u8]) {
    answer.extend_from_slice(&[0xc0, owner]);
    answer.extend_from_slice(&rtype.to_be_bytes());
    answer.extend_from_slice(&[0, 1]);
    answer.extend_from_slice(&ttl.to_be_bytes());
    answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
    answer.extend_from_slice(data);
}

/// Where the name of a question ends, its final zero included.
fn name_end(message: &[u8]) -> Option<usize> {
    let mut place = HEADER;
    loop {
        match *message.get(place)? {
            0 => return Some(place + 1),
            length if length < 64 => place += 1 + usize::from(length),
            _ => return None,
        }
    }
}

//! Responses of the upstream in wire form.

use super::ZoneData;

const HEADER: usize = 12;
const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const NXDOMAIN: u8 = 3;

/// Answer to a question. The last number is the TTL in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// Number of addresses, of the family that the query names.
    Addresses(u8, u32),
    /// Number of MX records: `mx1` and so on below the name.
    MailHosts(u8, u32),
    /// PTR record with the name of a host.
    HostName(u32),
    /// TXT record of this number of octets, 255 at most.
    Text(u8, u32),
    /// NODATA, with the SOA record of the zone this number of labels above.
    NoData(u8, u32),
    /// NXDOMAIN, with the SOA record of the zone this number of labels above.
    NxDomain(u8, u32),
}

/// Writes the response to a query; returns false when the packet is no query.
pub(crate) fn write(query: &[u8], zone_data: ZoneData, response: &mut Vec<u8>) -> bool {
    response.clear();
    let Some(end) = name_end(query) else { return false };
    let Some(&[high, low, _, _]) = query.get(end..end + 4) else { return false };
    let name = query[HEADER..end - 1].to_ascii_lowercase();
    let rtype = u16::from_be_bytes([high, low]);
    let answer = zone_data(&name, rtype);
    let has_edns = query[11] > 0;
    let (answers, authorities) = match answer {
        Answer::Addresses(count, _) | Answer::MailHosts(count, _) => (count, 0),
        Answer::HostName(_) | Answer::Text(..) => (1, 0),
        Answer::NoData(..) | Answer::NxDomain(..) => (0, 1),
    };
    let rcode = if matches!(answer, Answer::NxDomain(..)) { NXDOMAIN } else { 0 };
    response.extend_from_slice(&query[..2]);
    response.extend_from_slice(&[0x80 | (query[2] & 1), 0x80 | rcode]);
    response.extend_from_slice(&[0, 1, 0, answers, 0, authorities, 0, u8::from(has_edns)]);
    response.extend_from_slice(&query[HEADER..end + 4]);
    match answer {
        Answer::Addresses(count, ttl) => (0..count).for_each(|last| append_address(response, rtype, ttl, last)),
        Answer::MailHosts(count, ttl) => (0..count).for_each(|host| {
            // Preference, `mx<number>`, and a pointer to the name of the question.
            let data = [0, 10, 3, b'm', b'x', b'1' + host, 0xc0, HEADER as u8];
            append_record(response, HEADER as u8, MX, ttl, &data);
        }),
        Answer::HostName(ttl) => {
            append_record(response, HEADER as u8, PTR, ttl, b"\x04host\x07network\x07example\0");
        }
        Answer::Text(length, ttl) => {
            let mut data = vec![b't'; usize::from(length) + 1];
            data[0] = length;
            append_record(response, HEADER as u8, TXT, ttl, &data);
        }
        Answer::NoData(labels, ttl) | Answer::NxDomain(labels, ttl) => {
            let parent = |offset: usize, _| offset + 1 + usize::from(query[offset]);
            let zone = (0..labels).fold(HEADER, parent) as u8;
            let mut data = b"\x02ns\x07network\x07example\0\x04root\xc0\x0c".to_vec();
            [1, 3600, 600, 86400, ttl].iter().for_each(|number: &u32| data.extend_from_slice(&number.to_be_bytes()));
            append_record(response, zone, SOA, ttl, &data);
        }
    }
    if has_edns {
        response.extend_from_slice(&[0, 0, OPT as u8, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    true
}

fn append_address(response: &mut Vec<u8>, rtype: u16, ttl: u32, last: u8) {
    match rtype {
        AAAA => {
            let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
            append_record(response, HEADER as u8, AAAA, ttl, &address);
        }
        _ => append_record(response, HEADER as u8, A, ttl, &[203, 0, 113, last]),
    }
}

/// Appends a record whose owner is the name at an offset of the message.
fn append_record(response: &mut Vec<u8>, owner: u8, rtype: u16, ttl: u32, data: &[u8]) {
    response.extend_from_slice(&[0xc0, owner]);
    response.extend_from_slice(&rtype.to_be_bytes());
    response.extend_from_slice(&[0, 1]);
    response.extend_from_slice(&ttl.to_be_bytes());
    response.extend_from_slice(&(data.len() as u16).to_be_bytes());
    response.extend_from_slice(data);
}

/// Returns the offset behind the name of the question, its final zero included.
fn name_end(message: &[u8]) -> Option<usize> {
    let mut offset = HEADER;
    loop {
        match *message.get(offset)? {
            0 => return Some(offset + 1),
            length if length < 64 => offset += 1 + usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use node_cache::dns::question::Question;
    use node_cache::dns::{Name, Response, ResponseTtl};

    use super::{Answer, write};

    #[test]
    fn every_answer_is_a_response_that_a_resolver_takes() {
        fn zone_data(name: &[u8], rtype: u16) -> Answer {
            assert_eq!(name, b"\x03www\x07example");
            match rtype {
                1 | 28 => Answer::Addresses(4, 60),
                15 => Answer::MailHosts(2, 60),
                12 => Answer::HostName(60),
                16 => Answer::Text(255, 60),
                33 => Answer::NxDomain(1, 60),
                _ => Answer::NoData(1, 60),
            }
        }
        for (rtype, rcode, lifetime) in [
            (1, 0, ResponseTtl::Positive(60)),
            (28, 0, ResponseTtl::Positive(60)),
            (15, 0, ResponseTtl::Positive(60)),
            (12, 0, ResponseTtl::Positive(60)),
            (16, 0, ResponseTtl::Positive(60)),
            (33, 3, ResponseTtl::Negative(60)),
            (99, 0, ResponseTtl::Negative(60)),
        ] {
            let question = Question::plain(&Name::from_text("WWW.example").unwrap(), rtype);
            for with_edns in [false, true] {
                let mut wire = Vec::new();
                assert!(write(&question.to_wire(7, with_edns), zone_data, &mut wire));
                let response = Response::read(&wire, 7, &question).unwrap();
                assert_eq!((response.rcode(), response.ttl()), (rcode, lifetime), "{rtype}");
            }
        }
    }

    #[test]
    fn a_packet_that_breaks_off_has_no_response() {
        let query = Question::plain(&Name::from_text("www.example").unwrap(), 1).to_wire(7, false);
        for end in 0..query.len() {
            assert!(!write(&query[..end], |_, _| Answer::Addresses(1, 60), &mut Vec::new()), "{end}");
        }
    }
}

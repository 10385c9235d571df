//! Digest of an answer, by which two processes compare what upstreams say without its records.

use node_cache_config::digest;

use super::rdata::{RdataLayout, rdata_layout};
use super::{Name, Record, Response, Section};

/// Returns the digest of an rcode and of the records in the answer sections of some responses, the parts of a chain of
/// aliases. The order of the records, their TTLs, and the case and compression of their names do not matter.
#[must_use]
pub(crate) fn answer_digest(rcode: u16, parts: &[&Response]) -> String {
    let mut records: Vec<Vec<u8>> = parts.iter().flat_map(|response| canonical_records(response)).collect();
    records.sort_unstable();
    // A record that two parts have is one record.
    records.dedup();
    let mut octets = rcode.to_be_bytes().to_vec();
    for record in records {
        octets.extend_from_slice(&(record.len() as u32).to_be_bytes());
        octets.extend_from_slice(&record);
    }
    digest(&octets)
}

fn canonical_records(response: &Response) -> Vec<Vec<u8>> {
    let records = response.records();
    let answers = records.iter().filter(|record| record.section == Section::Answer);
    answers.filter_map(|record| canonical_record(response, record)).collect()
}

/// Returns owner, type, class and data of a record in canonical form (RFC 4034 §6.2).
fn canonical_record(response: &Response, record: &Record) -> Option<Vec<u8>> {
    let wire = response.wire();
    let mut octets = response.owner(record)?.lower().as_bytes().to_vec();
    octets.extend_from_slice(&record.rtype.to_be_bytes());
    octets.extend_from_slice(&record.class.to_be_bytes());
    let mut offset = record.data.start;
    if let Some(RdataLayout { prefix_len, name_count, .. }) = rdata_layout(record.rtype).filter(|it| it.name_count > 0)
    {
        octets.extend_from_slice(wire.get(offset..offset + prefix_len)?);
        offset += prefix_len;
        for _ in 0..name_count {
            octets.extend_from_slice(Name::read(wire, offset).ok()?.lower().as_bytes());
            offset = Name::skip(wire, offset).ok()?;
        }
    }
    octets.extend_from_slice(wire.get(offset..record.data.end)?);
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    type Rows<'a> = &'a [(u16, u32, &'a [u8])];

    fn digest_of(name: &str, code: u16, records: Rows<'_>) -> String {
        let records: Vec<_> = records.iter().map(|(rtype, ttl, data)| (*rtype, *ttl, data.to_vec())).collect();
        let question = Question::plain(&Name::from_text(name).unwrap(), rtype::A);
        answer_digest(code, &[&Response::with_records(&question, code, &records)])
    }

    #[test]
    fn order_ttls_and_case_do_not_matter_and_data_owner_and_rcode_do() {
        let (one, two): (&[u8], &[u8]) = (&[192, 0, 2, 1], &[192, 0, 2, 2]);
        let digest = digest_of("www.example", rcode::NOERROR, &[(rtype::A, 60, one), (rtype::A, 60, two)]);
        assert_eq!(digest, digest_of("wWw.Example", rcode::NOERROR, &[(rtype::A, 3, two), (rtype::A, 3, one)]));
        let target = |name: &str| Name::from_text(name).unwrap().as_bytes().to_vec();
        let alias = |name: &str| digest_of("www.example", rcode::NOERROR, &[(rtype::CNAME, 60, &target(name))]);
        assert_eq!(alias("a.example"), alias("A.eXample"));
        let mut digests = vec![
            digest,
            alias("a.example"),
            alias("b.example"),
            digest_of("www.example", rcode::NOERROR, &[(rtype::A, 60, one)]),
            digest_of("ww.example", rcode::NOERROR, &[(rtype::A, 60, one)]),
            digest_of("www.example", rcode::NOERROR, &[]),
            digest_of("www.example", rcode::NXDOMAIN, &[]),
            digest_of("www.example", rcode::SERVFAIL, &[]),
        ];
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }

    /// Pods of two releases, on two platforms, are compared.
    #[test]
    fn the_digest_of_an_answer_does_not_change() {
        let digest = digest_of("www.example", rcode::NOERROR, &[(rtype::A, 60, &[192, 0, 2, 1])]);
        assert_eq!(digest, "b2542e7753153118");
    }

    #[test]
    fn an_answer_in_two_parts_has_the_digest_of_the_whole() {
        let target = Name::from_text("a.example").unwrap();
        let part = |name: &str, records: &[(u16, u32, Vec<u8>)]| {
            let question = Question::plain(&Name::from_text(name).unwrap(), rtype::A);
            Response::with_records(&question, rcode::NOERROR, records)
        };
        let first = part("www.example", &[(rtype::CNAME, 60, target.as_bytes().to_vec())]);
        let second = part("a.example", &[(rtype::A, 5, vec![192, 0, 2, 1])]);
        let whole = answer_digest(rcode::NOERROR, &[&first, &second]);
        assert_eq!(whole, answer_digest(rcode::NOERROR, &[&second, &first, &first]));
        assert_ne!(whole, answer_digest(rcode::NOERROR, &[&first]));
    }
}

//! Addresses in the records of a response, wherever a client may take one from: A, AAAA, and the hints of SVCB and
//! HTTPS records (RFC 9460 §7.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::codes::{class, ede, rcode, rtype};
use super::{Header, Name, Record, Records, Response, ResponseTtl, Section, flag, put_u16, u16_at};

/// Octets of SvcPriority, before the name in SVCB data (RFC 9460 §2.2).
const SVCB_PRIORITY_LEN: usize = 2;
/// Keys of SVCB parameters that hold addresses (RFC 9460 §14.3.2).
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

impl Response {
    /// Returns the first section with an address for which `is_match` is true.
    pub(crate) fn section_with_address(&self, is_match: impl Fn(IpAddr) -> bool) -> Option<Section> {
        let wire = self.wire();
        let header = Header::read(wire)?;
        let mut records = Records::new(wire, &header, usize::from(self.question_end())).filter_map(Result::ok);
        records.find(|record| has_address(wire, record, &is_match)).map(|record| record.section)
    }

    /// Returns the response by which this one is replaced when its content is withheld from clients: NOERROR without
    /// records and with the Extended DNS Error "Blocked" (RFC 8914 §4.16). The cache may keep it for as long as this
    /// one, as a negative response.
    #[must_use]
    pub(crate) fn blocked(&self) -> Self {
        let mut wire = self.wire()[..usize::from(self.question_end())].to_vec();
        Header { id: 0, flags: flag::cacheable(flag::QR), counts: [1, 0, 0, 0] }.write(&mut wire);
        let ttl = match self.ttl() {
            ResponseTtl::Positive(ttl) | ResponseTtl::Negative(ttl) => ResponseTtl::Negative(ttl),
            ResponseTtl::Uncacheable => ResponseTtl::Uncacheable,
        };
        let ede = Some(ede::BLOCKED);
        let mut blocked = Self::from_parts(wire, Default::default(), self.question_end(), rcode::NOERROR, ttl, ede);
        blocked.set_upstream_id(self.upstream_id());
        blocked
    }

    /// Returns the response without its records from this section on. The records before them stay as they are, since
    /// names are compressed by pointers to what precedes them.
    #[must_use]
    pub(crate) fn without_sections_from(&self, section: Section) -> Self {
        let records = self.records();
        let kept = records.iter().take_while(|record| record.section < section).count();
        let end = records.get(kept).map_or_else(|| self.wire().len(), |record| record.start);
        let mut wire = self.wire()[..end].to_vec();
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        for (index, _) in sections.iter().enumerate().filter(|(_, each)| **each >= section) {
            put_u16(&mut wire, 6 + 2 * index, 0);
        }
        let offsets = self.ttl_offsets().iter().take(kept).copied().collect();
        let rcode = self.rcode();
        let mut cut = Self::from_parts(wire, offsets, self.question_end(), rcode, self.ttl(), self.ede());
        cut.set_upstream_id(self.upstream_id());
        cut
    }
}

fn has_address(wire: &[u8], record: &Record, is_match: impl Fn(IpAddr) -> bool) -> bool {
    if record.class != class::IN {
        return false;
    }
    let data = wire.get(record.data.clone()).unwrap_or_default();
    match record.rtype {
        rtype::A => has_ipv4(data, is_match),
        rtype::AAAA => has_ipv6(data, is_match),
        rtype::SVCB | rtype::HTTPS => has_hint(wire, record, is_match),
        _ => false,
    }
}

fn has_ipv4(data: &[u8], is_match: impl Fn(IpAddr) -> bool) -> bool {
    let (addresses, _) = data.as_chunks::<4>();
    addresses.iter().any(|octets| is_match(Ipv4Addr::from(*octets).into()))
}

fn has_ipv6(data: &[u8], is_match: impl Fn(IpAddr) -> bool) -> bool {
    let (addresses, _) = data.as_chunks::<16>();
    addresses.iter().any(|octets| is_match(Ipv6Addr::from(*octets).into()))
}

/// Returns whether an address hint of a SVCB or HTTPS record matches. Reading ends where the data are malformed:
/// clients must not use such a record (RFC 9460 §2.2).
fn has_hint(wire: &[u8], record: &Record, is_match: impl Fn(IpAddr) -> bool) -> bool {
    let Ok(mut offset) = Name::skip(wire, record.data.start + SVCB_PRIORITY_LEN) else { return false };
    while let (Some(key), Some(length)) = (u16_at(wire, offset), u16_at(wire, offset + 2)) {
        let end = offset + 4 + usize::from(length);
        let Some(value) = wire.get(offset + 4..end).filter(|_| end <= record.data.end) else { return false };
        let is_found = match key {
            IPV4_HINT => has_ipv4(value, &is_match),
            IPV6_HINT => has_ipv6(value, &is_match),
            _ => false,
        };
        if is_found {
            return true;
        }
        offset = end;
    }
    false
}

//! Layouts of the data of types whose data hold names. Data of unknown types are opaque octets (RFC 3597 §2).

use super::codes::{class, rtype};
use super::{Name, Record};

/// Layout of the data of a type: fixed octets, names, fixed or any octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RdataLayout {
    /// Octets before the first name.
    pub(super) prefix_len: usize,
    /// Number of names, which follow each other directly.
    pub(super) name_count: usize,
    /// Octets behind the last name; `None` when there may be any number.
    suffix_len: Option<usize>,
}

/// Returns the layout of the data of a type; `None` for unknown types. Names in types that are newer than RFC 3597 may
/// not be compressed, but pointers may still lead to them.
#[inline]
pub(super) const fn rdata_layout(rtype: u16) -> Option<RdataLayout> {
    let (prefix_len, name_count, suffix_len) = match rtype {
        // And MD, MF, MB, MG, MR, DNAME.
        rtype::NS | rtype::CNAME | rtype::PTR | 3 | 4 | 7..=9 | 39 => (0, 1, Some(0)),
        // And MINFO, RP.
        14 | 17 => (0, 2, Some(0)),
        rtype::SOA => (0, 2, Some(20)),
        // And AFSDB, RT, KX.
        rtype::MX | 18 | 21 | 36 => (2, 1, Some(0)),
        rtype::SRV => (6, 1, Some(0)),
        // NSEC; SVCB, HTTPS; SIG, RRSIG.
        47 => (0, 1, None),
        64 | 65 => (2, 1, None),
        24 | 46 => (18, 1, None),
        rtype::A => (4, 0, Some(0)),
        rtype::AAAA => (16, 0, Some(0)),
        // And LOC, DS, SSHFP, DNSKEY, NSEC3, NSEC3PARAM, TLSA, SMIMEA, CDS, CDNSKEY, OPENPGPKEY, ZONEMD, URI, CAA.
        rtype::HINFO | rtype::TXT | 29 | 43 | 44 | 48 | 50..=53 | 59..=61 | 63 | 256 | 257 => (0, 0, None),
        _ => return None,
    };
    Some(RdataLayout { prefix_len, name_count, suffix_len })
}

/// Returns whether the data of a record fit the layout of its type, as far as it is known: names can be read and end
/// where they should, addresses have the right length. Data that do not fit could confuse clients (RFC 9267).
#[inline]
pub(super) fn is_valid(message: &[u8], record: &Record) -> bool {
    let layout = rdata_layout(record.rtype).filter(|_| record.class == class::IN);
    let Some(RdataLayout { prefix_len, name_count, suffix_len }) = layout else { return true };
    let mut offset = record.data.start + prefix_len;
    for _ in 0..name_count {
        let end = Name::read(message, offset).and_then(|_| Name::skip(message, offset));
        let Ok(end) = end else { return false };
        offset = end;
    }
    match suffix_len {
        Some(suffix_len) => offset + suffix_len == record.data.end,
        None => offset <= record.data.end,
    }
}

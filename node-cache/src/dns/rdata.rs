//! What stands in the data of the types that hold names. Others are octets (RFC 3597 §2).

use super::codes::{class, rtype};
use super::{Name, Record};

/// What stands before, between and behind the names in the data of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Octets before the first name.
    pub(super) before: usize,
    /// Names, one behind the other.
    pub(super) names: usize,
    /// Octets behind the last name; none when there may be any number.
    behind: Option<usize>,
}

/// How the data of a type are laid out; none when that is not known. In types that came after RFC 3597 names may not be
/// compressed, but they may still be pointed at.
pub(super) const fn layout(rtype: u16) -> Option<Layout> {
    let (before, names, behind) = match rtype {
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
    Some(Layout { before, names, behind })
}

/// Whether the data of a record are what its type says, as far as it is known: names that can be read and end where they
/// should, addresses of the right length. What is not could confuse whoever gets it (RFC 9267).
pub(super) fn is_sound(message: &[u8], record: &Record) -> bool {
    let Some(Layout { before, names, behind }) = layout(record.rtype).filter(|_| record.class == class::IN) else {
        return true;
    };
    let mut at = record.data.start + before;
    for _ in 0..names {
        let end = Name::read(message, at).and_then(|_| Name::skip(message, at));
        let Ok(end) = end else { return false };
        at = end;
    }
    match behind {
        Some(behind) => at + behind == record.data.end,
        None => at <= record.data.end,
    }
}

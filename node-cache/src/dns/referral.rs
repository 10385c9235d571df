//! Referrals of servers that do not recurse: they name the servers of a zone, above the name or below, and tell nothing
//! of the name itself.

use super::codes::rtype;
use super::{Header, Records, Section};

/// Returns whether a NOERROR response without answers and without recursion is a referral (RFC 2308 §2.2): its
/// authority section has NS records and no SOA record. The message must be readable, and its question end at
/// `question_end`.
#[cold]
pub(super) fn is_referral(message: &[u8], header: &Header, question_end: usize) -> bool {
    let mut has_servers = false;
    for record in Records::new(message, header, question_end).map_while(Result::ok) {
        match (record.section, record.rtype) {
            (Section::Authority, rtype::SOA) => return false,
            (Section::Authority, rtype::NS) => has_servers = true,
            _ => {}
        }
    }
    has_servers
}

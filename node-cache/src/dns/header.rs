//! The header of a message: its first twelve octets (RFC 1035 §4.1.1).

use super::{put_u16, u16_at};

/// Bits of the header's second pair of octets.
pub mod flag {
    /// The message is a response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data (RFC 4035 §3.2.3).
    pub const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035 §3.2.2).
    pub const CD: u16 = 0x0010;

    /// Returns the flags of a response that may be cached, because they do not depend on a client. RA is always set,
    /// since this process recurses for its clients.
    #[must_use]
    pub const fn cacheable(flags: u16) -> u16 {
        flags & (QR | AA | TC | AD | 0x000f) | RA
    }
}

/// Header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// ID: matches a response to its query.
    pub id: u16,
    /// [`flag`]s, opcode and the lower four bits of the rcode.
    pub flags: u16,
    /// Number of questions, and of records in the answer, authority and additional sections.
    pub counts: [u16; 4],
}

impl Header {
    /// Length of a header in octets.
    pub const LENGTH: usize = 12;

    /// Reads the header of a message; `None` when the message is shorter than a header.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        Some(Self {
            id: u16_at(message, 0)?,
            flags: u16_at(message, 2)?,
            counts: [u16_at(message, 4)?, u16_at(message, 6)?, u16_at(message, 8)?, u16_at(message, 10)?],
        })
    }

    /// Overwrites the header of a message of at least [`Self::LENGTH`] octets.
    pub fn write(&self, message: &mut [u8]) {
        put_u16(message, 0, self.id);
        put_u16(message, 2, self.flags);
        for (index, count) in self.counts.iter().enumerate() {
            put_u16(message, 4 + 2 * index, *count);
        }
    }

    /// Returns the opcode: 0 (QUERY) for an ordinary query.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        ((self.flags >> 11) & 0x0f) as u8
    }

    /// Returns the lower four bits of the rcode.
    #[must_use]
    pub const fn rcode(&self) -> u16 {
        self.flags & 0x000f
    }

    /// Returns whether all these [`flag`]s are set.
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

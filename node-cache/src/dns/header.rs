//! The first twelve octets of a message (RFC 1035 §4.1.1).

use super::{put_u16, u16_at};

/// Bits of the second pair of octets.
pub mod flag {
    /// A response.
    pub const QR: u16 = 0x8000;
    /// The answer of an authority.
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

    /// What is kept of the flags of a response that came in: what does not depend on a client. RA is always set: whoever
    /// answers a client recurses for it.
    #[must_use]
    pub const fn kept(flags: u16) -> u16 {
        flags & (QR | AA | TC | AD | 0x000f) | RA
    }
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number that ties an answer to its question.
    pub id: u16,
    /// [`flag`]s, opcode and code of the response.
    pub flags: u16,
    /// Numbers of questions and of records in the answer, authority and additional sections.
    pub counts: [u16; 4],
}

impl Header {
    /// Length in octets.
    pub const LENGTH: usize = 12;

    /// Reads the header of a message; none when the message is shorter than one.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        Some(Self {
            id: u16_at(message, 0)?,
            flags: u16_at(message, 2)?,
            counts: [u16_at(message, 4)?, u16_at(message, 6)?, u16_at(message, 8)?, u16_at(message, 10)?],
        })
    }

    /// Puts this header in the place of the one of a message of at least [`Self::LENGTH`] octets.
    pub fn write(&self, message: &mut [u8]) {
        put_u16(message, 0, self.id);
        put_u16(message, 2, self.flags);
        for (index, count) in self.counts.iter().enumerate() {
            put_u16(message, 4 + 2 * index, *count);
        }
    }

    /// What the message is for: 0 is an ordinary question.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        ((self.flags >> 11) & 0x0f) as u8
    }

    /// The lower four bits of the code of the response.
    #[must_use]
    pub const fn rcode(&self) -> u16 {
        self.flags & 0x000f
    }

    /// Whether all these [`flag`]s are set.
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

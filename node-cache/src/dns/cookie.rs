//! The data of a cookie option (RFC 7873 §4).

/// Octets of a client's part.
pub const CLIENT: usize = 8;
/// Octets of a whole cookie whose server's part is of the shape that servers share (RFC 9018 §4).
pub const WHOLE: usize = 24;
/// The most octets that there may be.
const LONGEST: usize = 40;

/// What a client sent as its cookie, or what a server says to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    octets: [u8; LONGEST],
    /// As it came; more octets than there may be are not kept.
    length: u16,
}

impl Cookie {
    /// Takes the data of an option, whatever its length.
    #[must_use]
    pub fn read(data: &[u8]) -> Self {
        let mut octets = [0; LONGEST];
        octets.iter_mut().zip(data).for_each(|(octet, from)| *octet = *from);
        Self { octets, length: data.len() as u16 }
    }

    /// Whether it has a client's part alone or a server's part of a length that there may be; anything else is answered
    /// with FORMERR (RFC 7873 §5.2.2).
    #[must_use]
    pub const fn is_well_formed(&self) -> bool {
        matches!(self.length, 8 | 16..=40)
    }

    /// The client's part.
    #[must_use]
    pub fn client(&self) -> [u8; CLIENT] {
        self.octets.first_chunk().copied().unwrap_or_default()
    }

    /// Its octets; no more than forty.
    #[must_use]
    pub const fn as_octets(&self) -> &[u8] {
        let length = if self.length as usize > LONGEST { LONGEST } else { self.length as usize };
        self.octets.split_at(length).0
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Cookie of {} octets", self.length)
    }
}

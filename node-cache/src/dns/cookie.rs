//! The data of the COOKIE option (RFC 7873 §4).

/// Length of a client cookie in octets.
pub(crate) const CLIENT_COOKIE_LEN: usize = 8;
/// Length in octets of a client cookie with an interoperable server cookie (RFC 9018 §4).
pub(crate) const COOKIE_LEN: usize = 24;
/// The maximum length of a client cookie with a server cookie, in octets.
const MAX_COOKIE_LEN: usize = 40;

/// A DNS cookie: a client cookie, with a server cookie or without one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    octets: [u8; MAX_COOKIE_LEN],
    /// Length of the option's data. May exceed [`MAX_COOKIE_LEN`]; octets beyond that are not stored.
    length: u16,
}

impl Cookie {
    /// Reads the data of a COOKIE option, of any length.
    #[must_use]
    pub fn read(data: &[u8]) -> Self {
        let mut octets = [0; MAX_COOKIE_LEN];
        octets.iter_mut().zip(data).for_each(|(octet, from)| *octet = *from);
        Self { octets, length: data.len() as u16 }
    }

    /// Returns whether the cookie is a client cookie alone or has a server cookie of a valid length. The response to
    /// any other cookie is FORMERR (RFC 7873 §5.2.2).
    #[must_use]
    pub const fn is_well_formed(&self) -> bool {
        matches!(self.length, 8 | 16..=40)
    }

    /// Returns the client cookie.
    #[must_use]
    pub fn client_cookie(&self) -> [u8; CLIENT_COOKIE_LEN] {
        self.octets.first_chunk().copied().unwrap_or_default()
    }

    /// Returns the octets of the cookie, 40 at most.
    #[must_use]
    pub const fn as_octets(&self) -> &[u8] {
        let length = if self.length as usize > MAX_COOKIE_LEN { MAX_COOKIE_LEN } else { self.length as usize };
        self.octets.split_at(length).0
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Cookie of {} octets", self.length)
    }
}

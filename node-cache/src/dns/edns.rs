//! EDNS (RFC 6891) and the options that are read and written: Extended DNS Errors (RFC 8914), TCP keepalive (RFC 7828)
//! and cookies (RFC 7873). It belongs to a hop: it is read, taken away, and made anew.

use super::codes::rtype;
use super::{Cookie, Header, Malformed, Record, put_u16, u16_at};

/// The size that is advertised: what fits one frame everywhere (RFC 9715 §3).
pub const UDP_SIZE: u16 = 1232;
const DNSSEC_OK: u32 = 0x8000;
const EDE_OPTION: u16 = 15;
const COOKIE_OPTION: u16 = 10;
const KEEPALIVE_OPTION: u16 = 11;
/// Octets of an OPT record without options (RFC 6891 §6.1.2).
pub const BARE: usize = 11;
/// Octets before the data of an option.
const OPTION_HEADER: usize = 4;
/// Octets of an option whose data are one number.
const NUMBER_OPTION: usize = OPTION_HEADER + 2;

/// What an OPT record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edns {
    /// The longest datagram that its sender takes.
    pub udp_size: u16,
    /// Upper eight bits of the code of the response.
    pub extended_rcode: u8,
    /// Version; only 0 exists.
    pub version: u8,
    /// Whether DNSSEC records are wanted (DO).
    pub dnssec_ok: bool,
    /// Info-code of the first Extended DNS Error.
    pub ede: Option<u16>,
    /// Of a client: whether it asks how long it may keep a connection open (any value). Of a server: how long without a
    /// question, in tenths of a second.
    pub keepalive: Option<u16>,
    /// The first cookie, well formed or not.
    pub cookie: Option<Cookie>,
}

impl Edns {
    /// Reads an OPT record.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its options do not fill its data exactly.
    pub fn read(message: &[u8], record: &Record) -> Result<Self, Malformed> {
        let [extended_rcode, version, ..] = record.ttl.to_be_bytes();
        let dnssec_ok = record.ttl & DNSSEC_OK != 0;
        let mut edns = Self { udp_size: record.class, extended_rcode, version, dnssec_ok, ..Self::default() };
        let mut at = record.data.start;
        while at < record.data.end {
            let code = u16_at(message, at).ok_or(Malformed)?;
            let length = usize::from(u16_at(message, at + 2).ok_or(Malformed)?);
            at += 4;
            if at + length > record.data.end {
                return Err(Malformed);
            }
            if code == EDE_OPTION && length >= 2 && edns.ede.is_none() {
                edns.ede = u16_at(message, at);
            }
            if code == KEEPALIVE_OPTION {
                edns.keepalive = Some(if length >= 2 { u16_at(message, at).unwrap_or_default() } else { 0 });
            }
            if code == COOKIE_OPTION && edns.cookie.is_none() {
                edns.cookie = message.get(at..at + length).map(Cookie::read);
            }
            at += length;
        }
        Ok(edns)
    }

    /// Octets that [`Self::append`] adds.
    #[must_use]
    pub const fn length(&self) -> usize {
        BARE + self.options_length()
    }

    const fn options_length(&self) -> usize {
        let numbers = self.ede.is_some() as usize + self.keepalive.is_some() as usize;
        let cookie = match &self.cookie {
            Some(cookie) => OPTION_HEADER + cookie.as_octets().len(),
            None => 0,
        };
        NUMBER_OPTION * numbers + cookie
    }

    /// Adds an OPT record to the end of a message and counts it.
    pub fn append(&self, message: &mut Vec<u8>) {
        let flags =
            u32::from_be_bytes([self.extended_rcode, self.version, 0, 0]) | if self.dnssec_ok { DNSSEC_OK } else { 0 };
        let [type_high, type_low] = rtype::OPT.to_be_bytes();
        let ([size_high, size_low], [first, second, third, fourth]) =
            (self.udp_size.to_be_bytes(), flags.to_be_bytes());
        let [high, low] = (self.options_length() as u16).to_be_bytes();
        let bare: [u8; BARE] = [0, type_high, type_low, size_high, size_low, first, second, third, fourth, high, low];
        message.extend_from_slice(&bare);
        for (code, value) in [(EDE_OPTION, self.ede), (KEEPALIVE_OPTION, self.keepalive)] {
            let Some(value) = value else { continue };
            message.extend_from_slice(&[code, 2, value].map(u16::to_be_bytes).concat());
        }
        if let Some(cookie) = &self.cookie {
            let octets = cookie.as_octets();
            message.extend_from_slice(&[COOKIE_OPTION, octets.len() as u16].map(u16::to_be_bytes).concat());
            message.extend_from_slice(octets);
        }
        if let Some(header) = Header::read(message) {
            put_u16(message, 10, header.counts[3].saturating_add(1));
        }
    }
}

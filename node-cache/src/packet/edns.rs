//! EDNS (RFC 6891) and the one option that is read and written, Extended DNS Errors (RFC 8914). It belongs to a hop:
//! it is read, taken away, and made anew.

use super::numbers::rtype;
use super::{Header, Malformed, Record, put_u16, u16_at};

/// The size that is advertised: what fits one frame everywhere (RFC 9715 §3).
pub const UDP_SIZE: u16 = 1232;
const DNSSEC_OK: u32 = 0x8000;
const EDE_OPTION: u16 = 15;

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
}

impl Edns {
    /// Reads an OPT record.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its options do not fill its data exactly.
    pub fn read(message: &[u8], record: &Record) -> Result<Self, Malformed> {
        let [extended_rcode, version, ..] = record.ttl.to_be_bytes();
        let mut edns =
            Self { udp_size: record.class, extended_rcode, version, dnssec_ok: record.ttl & DNSSEC_OK != 0, ede: None };
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
            at += length;
        }
        Ok(edns)
    }

    /// Octets that [`Self::append`] adds.
    #[must_use]
    pub const fn length(&self) -> usize {
        if self.ede.is_some() { 17 } else { 11 }
    }

    /// Adds an OPT record to the end of a message and counts it.
    pub fn append(&self, message: &mut Vec<u8>) {
        let flags =
            u32::from_be_bytes([self.extended_rcode, self.version, 0, 0]) | if self.dnssec_ok { DNSSEC_OK } else { 0 };
        message.push(0);
        message.extend_from_slice(&rtype::OPT.to_be_bytes());
        message.extend_from_slice(&self.udp_size.to_be_bytes());
        message.extend_from_slice(&flags.to_be_bytes());
        match self.ede {
            None => message.extend_from_slice(&[0, 0]),
            Some(code) => {
                message.extend_from_slice(&[0, 6]);
                message.extend_from_slice(&EDE_OPTION.to_be_bytes());
                message.extend_from_slice(&[0, 2]);
                message.extend_from_slice(&code.to_be_bytes());
            }
        }
        if let Some(header) = Header::read(message) {
            put_u16(message, 10, header.counts[3].saturating_add(1));
        }
    }
}

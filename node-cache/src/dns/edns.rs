//! EDNS (RFC 6891) and the options that are read and written: Extended DNS Errors (RFC 8914), TCP keepalive (RFC 7828)
//! and cookies (RFC 7873). An OPT record belongs to one hop: it is read, removed, and never forwarded.

use super::codes::{ede, rtype};
use super::{Cookie, Header, Malformed, Record, put_u16, u16_at};

/// UDP payload size that we advertise, in octets: fits one frame on every network (RFC 9715 §3).
pub(crate) const ADVERTISED_UDP_SIZE: u16 = 1232;
const DNSSEC_OK: u32 = 0x8000;
const EDE_OPTION: u16 = 15;
const COOKIE_OPTION: u16 = 10;
const KEEPALIVE_OPTION: u16 = 11;
/// Length in octets of an OPT record without options (RFC 6891 §6.1.2).
pub(crate) const OPT_LEN: usize = 11;
/// Octets of an option before its data: code and length.
const OPTION_HEADER_LEN: usize = 4;
/// Length in octets of an option whose data are 16 bits.
const U16_OPTION_LEN: usize = OPTION_HEADER_LEN + 2;

/// Content of an OPT record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edns {
    /// The maximum UDP payload size that the sender accepts, in octets.
    pub udp_size: u16,
    /// Upper eight bits of the rcode.
    pub extended_rcode: u8,
    /// EDNS version; only 0 exists.
    pub version: u8,
    /// DO: whether the sender wants DNSSEC records.
    pub dnssec_ok: bool,
    /// Info-code of the first Extended DNS Error, or of the first one that marks a stale answer or is one of those
    /// between the processes of a tier ([`ede::is_of_tier`]). The latter are written as two errors, of which the first
    /// has the code for everybody else.
    pub ede: Option<u16>,
    /// TCP keepalive. In a query any value asks for the idle timeout; in a response the idle timeout of the connection,
    /// in tenths of a second.
    pub keepalive: Option<u16>,
    /// The first cookie, well formed or not.
    pub cookie: Option<Cookie>,
}

impl Edns {
    /// Reads an OPT record.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the options do not fill the data of the record exactly.
    pub fn read(message: &[u8], record: &Record) -> Result<Self, Malformed> {
        let [extended_rcode, version, ..] = record.ttl.to_be_bytes();
        let dnssec_ok = record.ttl & DNSSEC_OK != 0;
        let mut edns = Self { udp_size: record.class, extended_rcode, version, dnssec_ok, ..Self::default() };
        let mut offset = record.data.start;
        while offset < record.data.end {
            let code = u16_at(message, offset).ok_or(Malformed)?;
            let length = usize::from(u16_at(message, offset + 2).ok_or(Malformed)?);
            offset += OPTION_HEADER_LEN;
            if offset + length > record.data.end {
                return Err(Malformed);
            }
            if code == EDE_OPTION && length >= 2 && !takes_precedence(edns.ede) {
                let ede = u16_at(message, offset);
                edns.ede = if takes_precedence(ede) { ede } else { edns.ede.or(ede) };
            }
            if code == KEEPALIVE_OPTION {
                edns.keepalive = Some(if length >= 2 { u16_at(message, offset).unwrap_or_default() } else { 0 });
            }
            if code == COOKIE_OPTION && edns.cookie.is_none() {
                edns.cookie = message.get(offset..offset + length).map(Cookie::read);
            }
            offset += length;
        }
        Ok(edns)
    }

    /// Returns the number of octets that [`Self::append`] adds.
    #[must_use]
    pub const fn length(&self) -> usize {
        OPT_LEN + self.options_length()
    }

    const fn options_length(&self) -> usize {
        let [first, second] = self.errors();
        let u16_options = first.is_some() as usize + second.is_some() as usize + self.keepalive.is_some() as usize;
        let cookie = match &self.cookie {
            Some(cookie) => OPTION_HEADER_LEN + cookie.as_octets().len(),
            None => 0,
        };
        U16_OPTION_LEN * u16_options + cookie
    }

    /// Returns the info-codes of the Extended DNS Errors that are written.
    const fn errors(&self) -> [Option<u16>; 2] {
        match self.ede {
            Some(code) if ede::is_of_tier(code) => [ede::public(code), self.ede],
            ede => [ede, None],
        }
    }

    /// Appends an OPT record to a message, and counts it in the header.
    pub fn append(&self, message: &mut Vec<u8>) {
        let dnssec_ok = if self.dnssec_ok { DNSSEC_OK } else { 0 };
        let ttl = u32::from_be_bytes([self.extended_rcode, self.version, 0, 0]) | dnssec_ok;
        let [type_high, type_low] = rtype::OPT.to_be_bytes();
        let [size_high, size_low] = self.udp_size.to_be_bytes();
        let [ttl_0, ttl_1, ttl_2, ttl_3] = ttl.to_be_bytes();
        let [length_high, length_low] = (self.options_length() as u16).to_be_bytes();
        let opt: [u8; OPT_LEN] =
            [0, type_high, type_low, size_high, size_low, ttl_0, ttl_1, ttl_2, ttl_3, length_high, length_low];
        message.extend_from_slice(&opt);
        let [first, second] = self.errors();
        for (code, value) in [(EDE_OPTION, first), (EDE_OPTION, second), (KEEPALIVE_OPTION, self.keepalive)] {
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

/// Returns whether an Extended DNS Error is read instead of those before it: how a response may be used depends on it.
const fn takes_precedence(code: Option<u16>) -> bool {
    let is_of_tier = match code {
        Some(code) => ede::is_of_tier(code),
        None => false,
    };
    is_of_tier || ede::is_stale(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Records;

    fn written(edns: Edns) -> Vec<u8> {
        let mut message = vec![0; Header::LENGTH];
        edns.append(&mut message);
        assert_eq!(message.len(), Header::LENGTH + edns.length());
        message
    }

    fn read(message: &[u8]) -> Edns {
        let header = Header::read(message).unwrap();
        let record = Records::new(message, &header, Header::LENGTH).next().unwrap().unwrap();
        Edns::read(message, &record).unwrap()
    }

    #[test]
    fn a_code_between_the_processes_of_a_tier_is_written_behind_the_registered_one_and_read_before_it() {
        for (code, registered) in [(49152, 23), (49153, 22), (49154, 23), (49155, 22)] {
            let message = written(Edns { ede: Some(code), keepalive: Some(7), ..Edns::default() });
            let options = [[15, 2, registered], [15, 2, code], [11, 2, 7]].concat();
            assert_eq!(
                message[Header::LENGTH + OPT_LEN..],
                *options.into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>()
            );
            let edns = read(&message);
            assert_eq!((edns.ede, edns.keepalive), (Some(code), Some(7)));
        }
    }

    #[test]
    fn every_other_code_is_written_once() {
        for code in [0, 3, 22, 30, 49151, 49156, u16::MAX] {
            let message = written(Edns { ede: Some(code), ..Edns::default() });
            assert_eq!((message.len(), read(&message).ede), (Header::LENGTH + OPT_LEN + U16_OPTION_LEN, Some(code)));
        }
    }
}

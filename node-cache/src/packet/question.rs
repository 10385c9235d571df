//! What another server is asked.

use super::edns::{Edns, UDP_SIZE};
use super::{Header, Name, flag};

/// A question as it goes on the wire, without what belongs to one hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in lower case.
    pub name: Name,
    /// The type of the records asked for.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// Whether DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Whether the other server shall not validate.
    pub checking_disabled: bool,
}

impl Question {
    /// A question for records of the internet, without DNSSEC.
    #[must_use]
    pub fn plain(name: &Name, rtype: u16) -> Self {
        Self { name: name.lower(), rtype, class: super::numbers::class::IN, dnssec_ok: false, checking_disabled: false }
    }

    /// The message with this number, with recursion desired, and with EDNS unless the other server cannot bear it.
    #[must_use]
    pub fn to_wire(&self, id: u16, with_edns: bool) -> Vec<u8> {
        let flags = flag::RD | if self.checking_disabled { flag::CD } else { 0 };
        let mut message = vec![0; Header::LENGTH];
        Header { id, flags, counts: [1, 0, 0, 0] }.write(&mut message);
        message.extend_from_slice(&self.section());
        if with_edns {
            Edns { udp_size: UDP_SIZE, dnssec_ok: self.dnssec_ok, ..Edns::default() }.append(&mut message);
        }
        message
    }

    /// The question section.
    #[must_use]
    pub fn section(&self) -> Vec<u8> {
        section(&self.name, self.rtype, self.class)
    }
}

/// A question section: name, type, class.
#[must_use]
pub fn section(name: &Name, rtype: u16, class: u16) -> Vec<u8> {
    [name.as_bytes(), &rtype.to_be_bytes(), &class.to_be_bytes()].concat()
}

//! What is asked, as a plain value.

use crate::dns::codes::class;
use crate::dns::question::Question;
use crate::dns::{Cookie, Edns, Name, flag};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
    /// From the process itself.
    Internal,
}

/// A question of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The number that the client gave it.
    pub id: u16,
    /// The name, in the client's case.
    pub name: Name,
    /// The type of the records asked for.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// RD: whether other servers may be asked for the answer.
    pub recursion_desired: bool,
    /// AD: whether the client wants to know if the data are authentic (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// CD: whether validation shall be left to the client.
    pub checking_disabled: bool,
    /// EDNS, if the client speaks it.
    pub edns: Option<Edns>,
    /// How it came.
    pub transport: Transport,
    /// The cookie that it is told, its own part and ours (RFC 7873 §5.2).
    pub told_cookie: Option<Cookie>,
}

impl Query {
    /// A question for records of the internet as a client without EDNS asks it, from the process itself.
    #[must_use]
    pub const fn plain(name: Name, rtype: u16) -> Self {
        Self {
            id: 0,
            name,
            rtype,
            class: class::IN,
            recursion_desired: true,
            authentic_data: false,
            checking_disabled: false,
            edns: None,
            transport: Transport::Internal,
            told_cookie: None,
        }
    }

    /// RD, AD and CD in their places in a header.
    #[must_use]
    pub const fn flags(&self) -> u16 {
        let [rd, ad, cd] = [self.recursion_desired, self.authentic_data, self.checking_disabled];
        (flag::RD * rd as u16) | (flag::AD * ad as u16) | (flag::CD * cd as u16)
    }

    /// DO: whether the client wants DNSSEC records.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// What another server is asked on behalf of this client. Equal for clients that differ only in what belongs to
    /// their own hop: number, case, options.
    #[must_use]
    pub fn question(&self) -> Question {
        Question {
            name: self.name.lower(),
            rtype: self.rtype,
            class: self.class,
            dnssec_ok: self.dnssec_ok(),
            checking_disabled: self.checking_disabled,
        }
    }
}

//! A client's query as a plain value.

use std::net::IpAddr;

use crate::dns::codes::class;
use crate::dns::question::Question;
use crate::dns::{Cookie, Edns, Name, flag};

/// Transport over which a query arrives or is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP datagram.
    Udp,
    /// TCP connection.
    Tcp,
    /// A query of this process itself, without a transport.
    Internal,
}

/// A client's query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// ID, chosen by the client.
    pub id: u16,
    /// Name of the question, in the client's case.
    pub name: Name,
    /// Type of the question.
    pub rtype: u16,
    /// Class of the question.
    pub class: u16,
    /// RD: whether upstreams may be queried.
    pub recursion_desired: bool,
    /// AD: whether the client wants to know if the data are authentic (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// CD: whether the upstream shall not validate.
    pub checking_disabled: bool,
    /// EDNS; `None` when the client does not use it.
    pub edns: Option<Edns>,
    /// Transport over which the query arrived.
    pub transport: Transport,
    /// Cookie for the response: the client cookie and our server cookie (RFC 7873 §5.2).
    pub reply_cookie: Option<Cookie>,
    /// Address of the client, in canonical form; `None` for a query of this process itself.
    pub client: Option<IpAddr>,
}

impl Query {
    /// Makes an internal query of class IN, with recursion desired and without EDNS.
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
            reply_cookie: None,
            client: None,
        }
    }

    /// Returns the header bits RD, AD and CD.
    #[must_use]
    pub const fn flags(&self) -> u16 {
        let rd = flag::RD * self.recursion_desired as u16;
        let ad = flag::AD * self.authentic_data as u16;
        let cd = flag::CD * self.checking_disabled as u16;
        rd | ad | cd
    }

    /// Returns whether DO is set: the client wants DNSSEC records.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Returns the question for an upstream. Equal for queries that differ only in what belongs to the client's hop:
    /// ID, case and EDNS options.
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

//! Numbers from the IANA registries of DNS parameters.

/// Types of records.
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Authoritative server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Host information; what is left of it is the answer to [`ANY`] (RFC 8482).
    pub const HINFO: u16 = 13;
    /// Where mail goes.
    pub const MX: u16 = 15;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Host and port of a service (RFC 2782).
    pub const SRV: u16 = 33;
    /// EDNS (RFC 6891).
    pub const OPT: u16 = 41;
    /// Incremental zone transfer.
    pub const IXFR: u16 = 251;
    /// Zone transfer.
    pub const AXFR: u16 = 252;
    /// Obsolete relatives of the zone transfer (RFC 1035 §3.2.3).
    pub const MAILB: u16 = 253;
    /// The same.
    pub const MAILA: u16 = 254;
    /// Whatever there is.
    pub const ANY: u16 = 255;

    /// The types that people write by name.
    const NAMES: [(&str, u16); 20] = [
        ("A", A),
        ("NS", NS),
        ("CNAME", CNAME),
        ("SOA", SOA),
        ("PTR", PTR),
        ("HINFO", HINFO),
        ("MX", MX),
        ("TXT", TXT),
        ("AAAA", AAAA),
        ("SRV", SRV),
        ("NAPTR", 35),
        ("DS", 43),
        ("RRSIG", 46),
        ("NSEC", 47),
        ("DNSKEY", 48),
        ("TLSA", 52),
        ("SVCB", 64),
        ("HTTPS", 65),
        ("ANY", ANY),
        ("CAA", 257),
    ];

    /// The type that a text names, in any case, or as `TYPE` and its number (RFC 3597 §5).
    #[must_use]
    pub fn from_text(text: &str) -> Option<u16> {
        let upper = text.to_ascii_uppercase();
        let known = NAMES.iter().find(|(name, _)| *name == upper).map(|(_, number)| *number);
        known.or_else(|| upper.strip_prefix("TYPE")?.parse().ok())
    }

    /// What people call a type.
    #[must_use]
    pub fn to_text(rtype: u16) -> String {
        let known = NAMES.iter().find(|(_, number)| *number == rtype);
        known.map_or_else(|| format!("TYPE{rtype}"), |(name, _)| (*name).to_owned())
    }
}

/// Classes.
pub mod class {
    /// Internet.
    pub const IN: u16 = 1;
    /// Chaos: where servers tell of themselves (RFC 4892).
    pub const CH: u16 = 3;
}

/// Codes of a response. Those above 15 need EDNS.
pub mod rcode {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// The question could not be read.
    pub const FORMERR: u16 = 1;
    /// The server failed.
    pub const SERVFAIL: u16 = 2;
    /// There is no such name.
    pub const NXDOMAIN: u16 = 3;
    /// This kind of question is not known.
    pub const NOTIMP: u16 = 4;
    /// The server will not say.
    pub const REFUSED: u16 = 5;
    /// This version of EDNS is not known (RFC 6891 §9).
    pub const BADVERS: u16 = 16;
    /// The server's part of the cookie is not one that it made (RFC 7873 §8).
    pub const BADCOOKIE: u16 = 23;

    /// How a code is called in metrics and logs; `other` where it has no name here.
    #[must_use]
    pub const fn name(rcode: u16) -> &'static str {
        match rcode {
            NOERROR => "NOERROR",
            FORMERR => "FORMERR",
            SERVFAIL => "SERVFAIL",
            NXDOMAIN => "NXDOMAIN",
            NOTIMP => "NOTIMP",
            REFUSED => "REFUSED",
            BADVERS => "BADVERS",
            BADCOOKIE => "BADCOOKIE",
            _ => "other",
        }
    }
}

/// Info-codes of Extended DNS Errors (RFC 8914 §4).
pub mod ede {
    /// The answer is past its time.
    pub const STALE_ANSWER: u16 = 3;
    /// The failure is remembered.
    pub const CACHED_ERROR: u16 = 13;
    /// The server has just been started and is not ready.
    pub const NOT_READY: u16 = 14;
    /// The "no such name" is past its time.
    pub const STALE_NXDOMAIN: u16 = 19;
    /// Asked not to recurse, and has nothing in memory.
    pub const NOT_AUTHORITATIVE: u16 = 20;
    /// Not one of the things this server does.
    pub const NOT_SUPPORTED: u16 = 21;
    /// No server answered.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
}

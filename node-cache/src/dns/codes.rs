//! Numbers from the IANA registries of DNS parameters.

/// Record types (RR TYPE).
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Authoritative name server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Pointer to a name; in reverse zones the name of an address.
    pub const PTR: u16 = 12;
    /// Host information; in use today as the response to [`ANY`] (RFC 8482).
    pub const HINFO: u16 = 13;
    /// Mail exchanger.
    pub const MX: u16 = 15;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Host and port of a service (RFC 2782).
    pub const SRV: u16 = 33;
    /// Alias of all names below its owner (RFC 6672).
    pub const DNAME: u16 = 39;
    /// Signature over the records of a type (RFC 4034 §3).
    pub const RRSIG: u16 = 46;
    /// EDNS options (RFC 6891).
    pub const OPT: u16 = 41;
    /// Endpoints of a service (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Endpoints of an HTTPS origin (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// Incremental zone transfer.
    pub const IXFR: u16 = 251;
    /// Zone transfer.
    pub const AXFR: u16 = 252;
    /// Obsolete query for mailbox records, treated as a zone transfer (RFC 1035 §3.2.3).
    pub const MAILB: u16 = 253;
    /// Obsolete query for mail agent records, treated as a zone transfer (RFC 1035 §3.2.3).
    pub const MAILA: u16 = 254;
    /// All types of a name.
    pub const ANY: u16 = 255;

    /// Types that have a mnemonic here.
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
        ("RRSIG", RRSIG),
        ("NSEC", 47),
        ("DNSKEY", 48),
        ("TLSA", 52),
        ("SVCB", SVCB),
        ("HTTPS", HTTPS),
        ("ANY", ANY),
        ("CAA", 257),
    ];

    /// Parses a type: a mnemonic in any case, or `TYPE` and a number (RFC 3597 §5).
    #[must_use]
    pub fn from_text(text: &str) -> Option<u16> {
        let upper = text.to_ascii_uppercase();
        let known = NAMES.iter().find(|(name, _)| *name == upper).map(|(_, code)| *code);
        known.or_else(|| upper.strip_prefix("TYPE")?.parse().ok())
    }

    /// Returns the mnemonic of a type, or `TYPE` and its number (RFC 3597 §5).
    #[must_use]
    pub fn to_text(rtype: u16) -> String {
        let known = NAMES.iter().find(|(_, code)| *code == rtype);
        known.map_or_else(|| format!("TYPE{rtype}"), |(name, _)| (*name).to_owned())
    }
}

/// Record classes (RR CLASS).
pub mod class {
    /// Internet.
    pub const IN: u16 = 1;
    /// Chaos, in which servers identify themselves (RFC 4892).
    pub const CH: u16 = 3;
}

/// Response codes (RCODE). Codes above 15 need EDNS.
pub mod rcode {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// Format error: the server could not parse the query.
    pub const FORMERR: u16 = 1;
    /// Server failure.
    pub const SERVFAIL: u16 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u16 = 3;
    /// The server does not implement this kind of query.
    pub const NOTIMP: u16 = 4;
    /// The server refuses to answer.
    pub const REFUSED: u16 = 5;
    /// The server does not implement this EDNS version (RFC 6891 §9).
    pub const BADVERS: u16 = 16;
    /// The server cookie is not valid (RFC 7873 §8).
    pub const BADCOOKIE: u16 = 23;

    /// Returns whether an rcode is a failure: neither NOERROR nor NXDOMAIN.
    #[must_use]
    pub const fn is_failure(rcode: u16) -> bool {
        !matches!(rcode, NOERROR | NXDOMAIN)
    }

    /// Returns the mnemonic of an rcode for metrics and logs; `other` for those not listed here.
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
    /// An error without a code of its own, such as aliases in a circle.
    pub const OTHER: u16 = 0;
    /// The response is stale.
    pub const STALE_ANSWER: u16 = 3;
    /// The failure comes from the cache.
    pub const CACHED_ERROR: u16 = 13;
    /// The server has just started and is not ready.
    pub const NOT_READY: u16 = 14;
    /// A policy of the server withholds the answer.
    pub const BLOCKED: u16 = 15;
    /// The NXDOMAIN response is stale.
    pub const STALE_NXDOMAIN: u16 = 19;
    /// The query does not desire recursion, and the cache has no entry for it.
    pub const NOT_AUTHORITATIVE: u16 = 20;
    /// The server does not support the operation.
    pub const NOT_SUPPORTED: u16 = 21;
    /// No upstream answered.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// The query was not sent to an upstream, or broke off on the way.
    pub const NETWORK_ERROR: u16 = 23;

    /// A zone resolver may send its upstreams no more packets, which says nothing about the name. One of the codes for
    /// private use (RFC 8914 §5.2) that mean something between the processes of one tier: [`is_of_tier`].
    pub const BUDGET_EXHAUSTED: u16 = 49152;
    /// The upstreams of a zone resolver failed: none answered, or all said that they cannot. A failure of the name, to
    /// be cached (RFC 9520). One of the codes between the processes of one tier.
    pub const UPSTREAMS_FAILED: u16 = 49153;
    /// A zone resolver has no room for the query, which says nothing about the name. One of the codes between the
    /// processes of one tier.
    pub const OVERLOADED: u16 = 49154;
    /// A zone resolver has no answer by its deadline, and its query goes on: there is no failure to be cached. One of
    /// the codes between the processes of one tier.
    pub const STILL_IN_FLIGHT: u16 = 49155;

    /// A zone resolver has a denial from its fallback, which never takes the place of data from the upstreams. One of
    /// the codes between the processes of one tier.
    pub const DENIED_BY_FALLBACK: u16 = 49156;

    /// Returns whether a code is one of those between the processes of one tier. It is believed of a resolver of the
    /// tier only, and a node never sends it to a client.
    #[must_use]
    pub const fn is_of_tier(code: u16) -> bool {
        matches!(code, BUDGET_EXHAUSTED..=DENIED_BY_FALLBACK)
    }

    /// Returns what a client may see of a code: instead of one between the processes of a tier, the registered code
    /// that comes nearest to it, if there is one.
    #[must_use]
    pub const fn public(code: u16) -> Option<u16> {
        match code {
            UPSTREAMS_FAILED | STILL_IN_FLIGHT => Some(NO_REACHABLE_AUTHORITY),
            BUDGET_EXHAUSTED | OVERLOADED => Some(NETWORK_ERROR),
            DENIED_BY_FALLBACK => None,
            code => Some(code),
        }
    }

    /// Returns whether an Extended DNS Error marks a stale response (RFC 8767).
    #[must_use]
    pub const fn is_stale(code: Option<u16>) -> bool {
        matches!(code, Some(STALE_ANSWER | STALE_NXDOMAIN))
    }
}

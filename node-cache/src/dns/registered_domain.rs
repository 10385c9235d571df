//! Registered domain of a name: the part of the tree that one party is in charge of, by a rule without a list of
//! suffixes.
//!
//! Silence, limits and near misses are counted for registered domains, so that one of them costs no other.

use smallvec::SmallVec;

use super::Name;

/// Longest second label below a two-letter top-level label that is taken for a public suffix, such as `co.uk`.
const MAX_SUFFIX_LABEL_LEN: usize = 3;
/// Labels of a /16 below `in-addr.arpa`, and of a /32 below `ip6.arpa`, those two labels included.
const IPV4_REVERSE_LABELS: usize = 2 + 2;
const IPV6_REVERSE_LABELS: usize = 8 + 2;

impl Name {
    /// Returns the registered domain of the name, in lower case: its last two labels; the last three below a two-letter
    /// top-level label whose second label has at most three octets (`example.co.uk`); the /16 or /32 of a reverse name.
    /// A name with fewer labels is its own registered domain.
    #[must_use]
    pub fn registered_domain(&self) -> Self {
        let mut domain = SmallVec::from_slice(self.registered_suffix());
        domain.make_ascii_lowercase();
        Self(domain)
    }

    /// Returns the registered domain in wire format, in the case of the name, without an allocation.
    #[must_use]
    pub fn registered_suffix(&self) -> &[u8] {
        // The root is a suffix without a label.
        let labels = self.suffixes().count().saturating_sub(1);
        let suffix = |count: usize| self.suffixes().nth(labels - count.min(labels)).unwrap_or_default();
        let is_tld_of_country = label_len(suffix(1)) == 2;
        let count = if suffix(2).eq_ignore_ascii_case(b"\x07in-addr\x04arpa\0") {
            IPV4_REVERSE_LABELS
        } else if suffix(2).eq_ignore_ascii_case(b"\x03ip6\x04arpa\0") {
            IPV6_REVERSE_LABELS
        } else if is_tld_of_country && label_len(suffix(2)) <= MAX_SUFFIX_LABEL_LEN {
            3
        } else {
            2
        };
        suffix(count)
    }
}

/// Returns the length of the first label of a name in wire format; 0 for the root.
fn label_len(name: &[u8]) -> usize {
    name.first().copied().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registered_domain_is_what_one_party_is_in_charge_of() {
        for (name, expected) in [
            ("www.example.com", "example.com."),
            ("a.b.c.Example.COM", "example.com."),
            ("example.com", "example.com."),
            ("com", "com."),
            (".", "."),
            ("www.example.co.uk", "example.co.uk."),
            ("example.co.uk", "example.co.uk."),
            ("co.uk", "co.uk."),
            ("mail.example.com.au", "example.com.au."),
            ("www.example.de", "example.de."),
            ("a.abcd.de", "abcd.de."),
            ("a.b.abc.de", "b.abc.de."),
            ("4.3.2.1.in-addr.arpa", "2.1.in-addr.arpa."),
            ("9.9.2.1.IN-ADDR.arpa", "2.1.in-addr.arpa."),
            ("1.in-addr.arpa", "1.in-addr.arpa."),
            ("1.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa."),
            ("kubernetes.default.svc.cluster.local", "cluster.local."),
        ] {
            assert_eq!(Name::from_text(name).unwrap().registered_domain().to_string(), expected, "{name}");
        }
    }
}

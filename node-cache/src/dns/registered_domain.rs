//! Registered domain of a name: the part of the tree that one party is in charge of, by a rule without a list of
//! suffixes.
//!
//! Silence, limits and near misses are counted for registered domains, so that one of them costs no other.

use std::hash::{BuildHasher, Hasher};

use node_cache_sys::ascii::to_lowercase;
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
        let octets = self.as_bytes();
        // The last three labels; the whole name in place of those that it does not have.
        let ([mut third, mut second, mut first], mut at) = ([0; 3], 0);
        while let Some(length @ 1..) = octets.get(at).copied() {
            [third, second, first] = [second, first, at];
            at += 1 + usize::from(length);
        }
        let [third, second, first] = [third, second, first].map(|start| octets.get(start..).unwrap_or_default());
        if second.eq_ignore_ascii_case(b"\x07in-addr\x04arpa\0") {
            self.last_labels(IPV4_REVERSE_LABELS)
        } else if second.eq_ignore_ascii_case(b"\x03ip6\x04arpa\0") {
            self.last_labels(IPV6_REVERSE_LABELS)
        } else if label_len(first) == 2 && label_len(second) <= MAX_SUFFIX_LABEL_LEN {
            third
        } else {
            second
        }
    }

    /// Returns the hash of the registered domain, whatever the case of the name. Under a random seed no client chooses
    /// which domains have one hash.
    #[must_use]
    pub fn registered_domain_hash(&self, seed: &impl BuildHasher) -> u64 {
        const CHUNK_LEN: usize = 16;
        let mut hasher = seed.build_hasher();
        let (chunks, rest) = self.registered_suffix().as_chunks::<CHUNK_LEN>();
        // A name ends with a zero, so that zeros behind it make it no other one.
        let mut last = [0; CHUNK_LEN];
        last[..rest.len()].copy_from_slice(rest);
        for chunk in chunks.iter().chain([&last]) {
            hasher.write_u128(to_lowercase(u128::from_le_bytes(*chunk)));
        }
        hasher.finish()
    }

    /// Returns the last labels of the name, as many as it has, in wire format.
    fn last_labels(&self, count: usize) -> &[u8] {
        // The root is a suffix without a label.
        let labels = self.suffixes().count().saturating_sub(1);
        self.suffixes().nth(labels - count.min(labels)).unwrap_or_default()
    }
}

/// Returns the length of the first label of a name in wire format; 0 for the root.
fn label_len(name: &[u8]) -> usize {
    name.first().copied().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

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

    #[test]
    fn names_of_a_registered_domain_have_one_hash_and_others_another() {
        let (seed, other_seed) = (RandomState::new(), RandomState::new());
        let hash = |name: &str| Name::from_text(name).unwrap().registered_domain_hash(&seed);
        assert_eq!(hash("www.example.org"), hash("mail.a.EXAMPLE.org"));
        assert_ne!(hash("www.example.org"), hash("www.example.net"));
        assert_eq!(hash("a.example.co.uk"), hash("b.example.co.uk"));
        assert_ne!(hash("a.example.co.uk"), hash("a.other.co.uk"));
        assert_ne!(hash("."), hash("org"));
        let long = |end: &str| format!("{}.{end}", "a".repeat(40));
        assert_eq!(hash(&format!("www.{}", long("org"))), hash(&long("ORG")));
        assert_ne!(hash(&long("org")), hash(&long("net")));
        assert_ne!(hash("org"), Name::from_text("org").unwrap().registered_domain_hash(&other_seed));
    }
}

//! Routing of names to scopes by their longest suffix.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::dns::{Name, NameError, name};

/// The last octets of a suffix, eight at most, with the case bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SuffixTail {
    octets: u64,
    mask: u64,
}

impl SuffixTail {
    /// ASCII case bit of each octet. An octet that differs from a letter in this bit only is the letter in upper case,
    /// or a false positive whose lookup finds nothing. A zero becomes 0x20, which is no letter.
    const CASE_BITS: u64 = 0x2020_2020_2020_2020;

    fn of(suffix: &[u8]) -> Self {
        // Covers the octets of the suffix only.
        let mask = u64::MAX.checked_shl(64 - 8 * suffix.len().min(8) as u32).unwrap_or_default();
        Self { octets: (last_eight(suffix) | Self::CASE_BITS) & mask, mask }
    }

    #[inline]
    fn matches(self, name: &[u8]) -> bool {
        (last_eight(name) | Self::CASE_BITS) & self.mask == self.octets
    }
}

/// Returns the last eight octets, the last one in the highest byte; zeros in place of missing ones.
#[inline]
fn last_eight(octets: &[u8]) -> u64 {
    match octets.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last),
        None => octets
            .iter()
            .rev()
            .fold(0, |word, octet| (word << 8) | u64::from(*octet))
            .checked_shl(64 - 8 * octets.len() as u32)
            .unwrap_or_default(),
    }
}

/// Returns one bit for the last letter of a name, chosen by the lowest five bits of the octet, which case does not
/// change. All bits for the root.
#[inline]
fn last_letter_bit(name: &[u8]) -> u32 {
    match name {
        [.., letter, _] => 1_u32.wrapping_shl((*letter).into()),
        _ => u32::MAX,
    }
}

/// Table of targets by suffix, with a default target for all other names.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    by_suffix: HashMap<Box<[u8]>, T, RandomState>,
    /// Last octets of all suffixes, a filter before the lookup: most external names match none of them.
    tails: Vec<SuffixTail>,
    /// Bits of the last letters of all suffixes, a filter before `tails`: most external names fail it.
    last_letters: u32,
    default: T,
}

impl<T> Routes<T> {
    /// Makes a table that routes every name to `default`.
    #[must_use]
    pub fn new(default: T) -> Self {
        Self { by_suffix: HashMap::default(), tails: Vec::new(), last_letters: 0, default }
    }

    /// Routes a suffix and all names below it to `target`. The last call for a suffix wins.
    ///
    /// # Errors
    ///
    /// `suffix` is not a domain name.
    pub fn add(&mut self, suffix: &str, target: T) -> Result<(), NameError> {
        let name = Name::from_text(suffix)?.lower();
        let tail = SuffixTail::of(name.as_bytes());
        if !self.tails.contains(&tail) {
            self.tails.push(tail);
        }
        self.last_letters |= last_letter_bit(name.as_bytes());
        self.by_suffix.insert(name.as_bytes().into(), target);
        Ok(())
    }

    /// Returns the target of names without a suffix of the table.
    #[must_use]
    pub const fn default_target(&self) -> &T {
        &self.default
    }

    /// Returns whether a name in wire format may have one of the suffixes. False positives are possible.
    #[inline]
    fn may_have_suffix(&self, name: &[u8]) -> bool {
        self.last_letters & last_letter_bit(name) != 0 && self.tails.iter().any(|tail| tail.matches(name))
    }

    /// Returns the target of a name, which must be in lower case.
    #[must_use]
    pub fn find(&self, name: &Name) -> &T {
        if !self.may_have_suffix(name.as_bytes()) {
            return &self.default;
        }
        name.suffixes().find_map(|suffix| self.by_suffix.get(suffix)).unwrap_or(&self.default)
    }

    /// Returns the target of a name in wire format, in any case. Does not allocate. For an invalid name the result is
    /// any target.
    #[must_use]
    #[inline]
    pub fn find_in_place(&self, name: &[u8]) -> &T {
        if self.may_have_suffix(name) { self.find_by_suffix(name) } else { &self.default }
    }

    /// Looks up every suffix of the name, the longest first.
    #[inline(never)]
    fn find_by_suffix(&self, name: &[u8]) -> &T {
        let mut buffer = [0; name::MAX_NAME_LEN];
        let Some(lower) = buffer.get_mut(..name.len()) else { return &self.default };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let mut rest = &*lower;
        loop {
            if let Some(target) = self.by_suffix.get(rest) {
                return target;
            }
            match rest.first() {
                None | Some(0) => return &self.default,
                Some(length) => rest = rest.get(1 + usize::from(*length)..).unwrap_or_default(),
            }
        }
    }
}

/// Returns the reverse zones of addresses that have a meaning inside a cluster only: private (RFC 1918), shared (RFC
/// 6598), link-local and unique local ones (RFC 6303 §4). They are routed to the cluster DNS, which knows its Services
/// and pods, and never leave the cluster.
#[must_use]
pub(crate) fn private_reverse_zones() -> Vec<String> {
    let mut zones = vec!["10.in-addr.arpa".to_owned(), "168.192.in-addr.arpa".into(), "254.169.in-addr.arpa".into()];
    zones.extend((16..=31).map(|octet| format!("{octet}.172.in-addr.arpa")));
    zones.extend((64..=127).map(|octet| format!("{octet}.100.in-addr.arpa")));
    zones.extend(["c", "d"].map(|nibble| format!("{nibble}.f.ip6.arpa")));
    zones.extend(["8", "9", "a", "b"].map(|nibble| format!("{nibble}.e.f.ip6.arpa")));
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes<&'static str> {
        let mut routes = Routes::new("outside");
        for zone in private_reverse_zones() {
            routes.add(&zone, "cluster").unwrap();
        }
        for (suffix, target) in [("example", "short"), ("corp.example", "long"), ("cluster.local", "cluster")] {
            routes.add(suffix, target).unwrap();
        }
        routes
    }

    fn target(name: &str) -> &'static str {
        let (routes, name) = (routes(), Name::from_text(name).unwrap());
        let target = *routes.find(&name.lower());
        assert_eq!(target, *routes.find_in_place(name.as_bytes()), "{name} in place");
        target
    }

    #[test]
    fn the_longest_suffix_wins_and_matches_whole_labels() {
        assert_eq!(target("a.corp.example"), "long");
        assert_eq!(target("CORP.Example."), "long");
        assert_eq!(target("acorp.example"), "short");
        assert_eq!(target("example"), "short");
        assert_eq!(target("anexample"), "outside");
        assert_eq!(target("."), "outside");
        assert_eq!(target("kubernetes.default.svc.cluster.local"), "cluster");
    }

    #[test]
    fn reverse_names_of_private_addresses_stay_in_the_cluster() {
        for inside in ["1.0.0.10.in-addr.arpa", "1.0.16.172.in-addr.arpa", "1.0.31.172.in-addr.arpa"] {
            assert_eq!(target(inside), "cluster", "{inside}");
        }
        for inside in ["9.1.168.192.in-addr.arpa", "1.0.64.100.in-addr.arpa", "10.20.254.169.in-addr.arpa"] {
            assert_eq!(target(inside), "cluster", "{inside}");
        }
        for inside in ["0.0.d.f.ip6.arpa", "1.c.f.ip6.arpa", "0.8.e.f.ip6.arpa", "0.b.e.f.ip6.arpa"] {
            assert_eq!(target(inside), "cluster", "{inside}");
        }
        for outside in ["1.0.32.172.in-addr.arpa", "1.0.15.172.in-addr.arpa", "8.8.8.8.in-addr.arpa"] {
            assert_eq!(target(outside), "outside", "{outside}");
        }
        for outside in ["1.0.128.100.in-addr.arpa", "0.c.e.f.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"] {
            assert_eq!(target(outside), "outside", "{outside}");
        }
    }
}

//! Which servers know a name: the longest suffix wins.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::dns::{Name, NameError, name};

/// The last octets of a suffix, eight at the most, in lower case where they are letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Top {
    octets: u64,
    mask: u64,
}

impl Top {
    /// A letter in lower case has this bit set, and what differs from it in this bit alone is a letter in upper case, or
    /// else looked up in vain.
    const CASE: u64 = 0x2020_2020_2020_2020;

    fn of(suffix: &[u8]) -> Self {
        // The final zero of names is so told from a letter.
        let mask = u64::MAX.checked_shl(64 - 8 * suffix.len().min(8) as u32).unwrap_or_default();
        Self { octets: (last_eight(suffix) | Self::CASE) & mask, mask }
    }

    #[inline]
    fn ends(self, name: &[u8]) -> bool {
        (last_eight(name) | Self::CASE) & self.mask == self.octets
    }
}

/// The last eight octets, the last of all in the highest place; zeros where there are fewer.
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

/// The bit of a name's last letter: the lowest bits of its octet, which case does not change. All bits for the root.
#[inline]
fn letter(name: &[u8]) -> u32 {
    match name {
        [.., letter, _] => 1_u32.wrapping_shl((*letter).into()),
        _ => u32::MAX,
    }
}

/// Something for each of some suffixes, and something for all other names.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    by_suffix: HashMap<Box<[u8]>, T, RandomState>,
    /// The ends of all suffixes. Most names of the outside have none of them and need not be looked up.
    tops: Vec<Top>,
    /// A bit for each last letter of a suffix. With most names of the outside it is enough to look at theirs.
    letters: u32,
    otherwise: T,
}

impl<T> Routes<T> {
    /// Sends every name to `otherwise`.
    #[must_use]
    pub fn new(otherwise: T) -> Self {
        Self { by_suffix: HashMap::default(), tops: Vec::new(), letters: 0, otherwise }
    }

    /// Sends a suffix, itself and everything below it, elsewhere. The last call for a suffix wins.
    ///
    /// # Errors
    ///
    /// `suffix` is not a domain name.
    pub fn add(&mut self, suffix: &str, target: T) -> Result<(), NameError> {
        let name = Name::from_text(suffix)?.lower();
        let top = Top::of(name.as_bytes());
        if !self.tops.contains(&top) {
            self.tops.push(top);
        }
        self.letters |= letter(name.as_bytes());
        self.by_suffix.insert(name.as_bytes().into(), target);
        Ok(())
    }

    /// Whether a name in wire form may have one of the suffixes.
    #[inline]
    fn may_have_suffix(&self, name: &[u8]) -> bool {
        self.letters & letter(name) != 0 && self.tops.iter().any(|top| top.ends(name))
    }

    /// Where a name in lower case goes.
    #[must_use]
    pub fn find(&self, name: &Name) -> &T {
        if !self.may_have_suffix(name.as_bytes()) {
            return &self.otherwise;
        }
        name.suffixes().find_map(|suffix| self.by_suffix.get(suffix)).unwrap_or(&self.otherwise)
    }

    /// Where a name in wire form and any case goes. Does not allocate. What is no name goes anywhere.
    #[must_use]
    #[inline]
    pub fn find_in_place(&self, name: &[u8]) -> &T {
        if self.may_have_suffix(name) { self.find_by_suffix(name) } else { &self.otherwise }
    }

    #[inline(never)]
    fn find_by_suffix(&self, name: &[u8]) -> &T {
        let mut buffer = [0; name::LONGEST];
        let Some(lower) = buffer.get_mut(..name.len()) else { return &self.otherwise };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let mut rest = &*lower;
        loop {
            if let Some(found) = self.by_suffix.get(rest) {
                return found;
            }
            match rest.first() {
                None | Some(0) => return &self.otherwise,
                Some(length) => rest = rest.get(1 + usize::from(*length)..).unwrap_or_default(),
            }
        }
    }
}

/// The reverse zones of addresses that mean something inside a cluster only: RFC 1918, RFC 6598, link-local and unique
/// local ones (RFC 6303 §4). They are asked of the cluster DNS, which knows its Services and pods, and never leave.
#[must_use]
pub fn private_reverse_zones() -> Vec<String> {
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
    fn reverse_names_of_private_addresses_stay_inside_and_all_others_go_out() {
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

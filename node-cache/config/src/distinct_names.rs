//! Number of distinct names as a HyperLogLog of 64 registers: a client that repeats one name, and the caches of a node
//! that each answer it, count once.
//!
//! Registers never forget, and such an estimate says little once it is large. So there are two generations, each of one
//! minute of the clock: registers of the same minute merge over processes and over pods.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Number of registers; a power of two.
pub const REGISTERS: usize = 64;
/// Bits of a hash that choose the register.
const INDEX_BITS: u32 = REGISTERS.trailing_zeros();
/// Letters of a register's value on a page (base64url, RFC 4648 §5), so that each register takes one.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Returns the minute of the clock, since the Unix epoch.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "it names registers of many processes and decides no response")]
pub fn this_minute() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() / 60)
}

/// Distinct names of this minute and of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DistinctNames {
    /// Minute of `current`, since the Unix epoch.
    pub minute: u64,
    /// Names of that minute.
    pub current: Registers,
    /// Names of the minute before it.
    pub previous: Registers,
}

impl DistinctNames {
    /// Counts a name in wire format (RFC 1035 §3.1); the case of its letters does not matter.
    pub fn insert(&mut self, minute: u64, name: &[u8]) {
        self.turn(minute);
        self.current.insert(hash(name));
    }

    /// Forgets what is older than the minute before this one.
    pub fn turn(&mut self, minute: u64) {
        if minute == self.minute {
            return;
        }
        // A clock that was set back begins anew.
        self.previous = if self.minute.checked_add(1) == Some(minute) { self.current } else { Registers::default() };
        self.current = Registers::default();
        self.minute = minute;
    }

    /// Forgets names of a minute after this one, and of the minute before that: nobody has counted them yet.
    pub fn forget_future(&mut self, minute: u64) {
        // A minute may have begun since this one was read.
        if self.minute > minute.saturating_add(1) {
            *self = Self::default();
        }
    }

    /// Adds the names of another process. What is older than the minute before the later one of both is forgotten.
    pub fn merge(&mut self, other: &Self) {
        let mut other = *other;
        let minute = self.minute.max(other.minute);
        self.turn(minute);
        other.turn(minute);
        self.current.merge(&other.current);
        self.previous.merge(&other.previous);
    }

    /// Returns the names of both.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.merge(&other);
        self
    }

    /// Returns the estimated number of distinct names of both minutes together.
    #[must_use]
    pub fn estimate(&self) -> u64 {
        let mut both = self.current;
        both.merge(&self.previous);
        both.estimate()
    }
}

/// Registers of a HyperLogLog: for each the largest rank of a hash that chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers([u8; REGISTERS]);

impl Default for Registers {
    fn default() -> Self {
        Self([0; REGISTERS])
    }
}

impl Registers {
    /// Returns the largest rank that each register has seen.
    #[must_use]
    pub const fn ranks(&self) -> &[u8; REGISTERS] {
        &self.0
    }

    fn insert(&mut self, hash: u64) {
        let index = (hash >> (u64::BITS - INDEX_BITS)) as usize;
        let rank = ((hash << INDEX_BITS) | (1 << (INDEX_BITS - 1))).leading_zeros() + 1;
        if let Some(register) = self.0.get_mut(index) {
            *register = (*register).max(rank as u8);
        }
    }

    /// Adds the names of other registers.
    pub fn merge(&mut self, other: &Self) {
        for (register, other) in self.0.iter_mut().zip(other.0) {
            *register = (*register).max(other);
        }
    }

    /// Returns the estimated number of distinct names: nearly exact up to a dozen, within 13 % beyond 160.
    #[must_use]
    pub fn estimate(&self) -> u64 {
        const ALPHA: f64 = 0.709;
        let size = REGISTERS as f64;
        let sum: f64 = self.0.iter().map(|rank| 0.5_f64.powi(i32::from(*rank))).sum();
        let raw = ALPHA * size * size / sum;
        let empty = self.0.iter().filter(|rank| **rank == 0).count();
        let estimate = if raw <= 2.5 * size && empty > 0 { size * (size / empty as f64).ln() } else { raw };
        estimate.round() as u64
    }
}

impl Serialize for Registers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let letters = self.0.iter().map(|rank| char::from(LETTERS[usize::from(*rank) % LETTERS.len()]));
        // Trailing registers without a name are left out: most pages have none at all.
        let text: String = letters.collect();
        serializer.serialize_str(text.trim_end_matches('A'))
    }
}

impl<'de> Deserialize<'de> for Registers {
    /// Reads registers; what is no register counts as an empty one.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut registers = Self::default();
        for (register, letter) in registers.0.iter_mut().zip(text.bytes()) {
            *register = LETTERS.iter().position(|known| *known == letter).unwrap_or_default() as u8;
        }
        Ok(registers)
    }
}

/// Returns the hash of a name: FNV-1a over its octets in lower case, mixed as MurmurHash3 does. The same in every
/// process, release and platform.
fn hash(name: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name {
        hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(minute: u64, range: std::ops::Range<u32>) -> DistinctNames {
        let mut names = DistinctNames::default();
        range.for_each(|number| names.insert(minute, format!("\x05w{number:04}\x07example").as_bytes()));
        names
    }

    #[test]
    fn few_names_are_told_apart_and_many_are_estimated() {
        assert_eq!(names(1, 0..0).estimate(), 0);
        for count in 1..=6 {
            let estimate = names(1, 0..count).estimate();
            assert!(estimate.abs_diff(u64::from(count)) <= 1, "{estimate} of {count}");
        }
        for count in [100, 1_000, 9_000] {
            let estimate = names(1, 0..count).estimate() as f64 / f64::from(count);
            assert!((0.6..1.6).contains(&estimate), "{estimate} of {count}");
        }
    }

    #[test]
    fn a_name_counts_once_however_often_it_fails_and_whatever_its_case() {
        let mut names = DistinctNames::default();
        (0..1_000).for_each(|_| names.insert(1, b"\x03www\x07example"));
        names.insert(1, b"\x03wWw\x07eXample");
        assert_eq!(names.estimate(), 1);
    }

    #[test]
    fn registers_merge_by_minute_and_last_for_two() {
        let mut names_of_two = names(5, 0..4);
        names_of_two.merge(&names(5, 2..6));
        assert_eq!(names_of_two, names(5, 0..6));
        let mut later = names(6, 0..1);
        later.merge(&names_of_two);
        assert_eq!((later.minute, later.previous), (6, names_of_two.current), "the minute before stays");
        assert_eq!(later.estimate(), names_of_two.estimate());
        later.turn(8);
        assert_eq!(later.estimate(), 0);
        later.merge(&names_of_two);
        assert_eq!(later.estimate(), 0, "what is older than two minutes is forgotten");
        let mut forged = names(u64::MAX, 0..9);
        forged.turn(3);
        forged.merge(&names(u64::MAX, 0..9));
        forged.forget_future(8);
        assert_eq!(forged, DistinctNames::default());
    }

    #[test]
    fn registers_survive_a_page_and_their_form_does_not_change() {
        let names = names(29_000_000, 0..500);
        let text = serde_json::to_string(&names).unwrap();
        assert_eq!(serde_json::from_str::<DistinctNames>(&text).unwrap(), names);
        let largest = Registers([59; REGISTERS]);
        assert_eq!(serde_json::to_string(&largest).unwrap(), format!("\"{}\"", "7".repeat(64)));
        let mut one = DistinctNames::default();
        one.insert(1, b"\x03www\x07example");
        let position = one.current.0.iter().position(|rank| *rank > 0).unwrap();
        assert_eq!((position, one.current.0[position]), EXPECTED);
        let broken: Registers = serde_json::from_str(&format!("\"B\u{e9}{}\"", "C".repeat(99))).unwrap();
        assert_eq!((broken.0[0], broken.0[1], broken.0[63]), (1, 0, 2));
    }

    /// Register and rank of one name, which pods of two releases must agree on.
    const EXPECTED: (usize, u8) = (55, 2);
}

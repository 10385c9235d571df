//! Domain names in wire format (RFC 1035 §3.1).

use std::borrow::Borrow;
use std::fmt;

use smallvec::SmallVec;

use super::{Header, Malformed};

/// The maximum length of a name in octets, with its final zero (RFC 1035 §3.1).
pub(crate) const MAX_NAME_LEN: usize = 255;
/// The two upper bits of a length octet, set in a compression pointer (RFC 1035 §4.1.4).
const POINTER_BITS: u8 = 0xc0;
/// The maximum number of compression pointers in a name: as many as a name can have labels. Without a limit each record
/// could have a chain of pointers as long as the message.
const MAX_POINTERS: usize = 127;

/// Longest name that takes no allocation of its own. Most names of mail and of clusters are shorter.
const INLINE_LEN: usize = 39;

/// A domain name in wire format: labels with their lengths, a final zero, 255 octets at most, no compression. Equality
/// is by octet; names that differ in case only are equal after [`Name::lower`].
#[derive(PartialEq, Eq, Hash)]
pub struct Name(pub(super) SmallVec<[u8; INLINE_LEN]>);

/// Text that is not a domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a domain name")]
pub struct NameError(String);

impl Name {
    /// Returns the root: the name without a label.
    #[must_use]
    pub fn root() -> Self {
        Self(SmallVec::from_slice(&[0]))
    }

    /// Parses labels separated by dots, with or without a final dot. Backslashes have no special meaning.
    ///
    /// # Errors
    ///
    /// [`NameError`] when a label is empty or longer than 63 octets, or the name is longer than 255.
    pub fn from_text(text: &str) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.strip_suffix('.').unwrap_or(text).split('.').filter(|_| !matches!(text, "" | ".")) {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
            wire.push(length.ok_or_else(|| NameError(text.to_owned()))?);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        if wire.len() > MAX_NAME_LEN {
            return Err(NameError(text.to_owned()));
        }
        Ok(Self(SmallVec::from_slice(&wire)))
    }

    /// Reads a name that may not be compressed, as in a question. Returns the name and the offset behind it.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the name is compressed, too long or truncated.
    pub fn read_uncompressed(message: &[u8], offset: usize) -> Result<(Self, usize), Malformed> {
        let mut end = offset;
        loop {
            let length = *message.get(end).ok_or(Malformed)?;
            if length >= 64 {
                return Err(Malformed);
            }
            end += 1 + usize::from(length);
            if end - offset > MAX_NAME_LEN {
                return Err(Malformed);
            }
            if length == 0 {
                break;
            }
        }
        Ok((Self(SmallVec::from_slice(message.get(offset..end).ok_or(Malformed)?)), end))
    }

    /// Reads a name that may be compressed.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the name is too long or truncated, has more pointers than a name can have labels, or points
    /// anywhere but backwards and behind the header. A header is no name, and differs at each hop.
    pub fn read(message: &[u8], offset: usize) -> Result<Self, Malformed> {
        let mut wire = SmallVec::new();
        let (mut at, mut lowest) = (offset, offset);
        let mut pointers = 0;
        loop {
            let length = *message.get(at).ok_or(Malformed)?;
            if length & POINTER_BITS == POINTER_BITS {
                let target =
                    (usize::from(length & !POINTER_BITS) << 8) | usize::from(*message.get(at + 1).ok_or(Malformed)?);
                // Each pointer leads strictly backwards, so that a chain of pointers ends.
                pointers += 1;
                if target >= lowest || target < Header::LENGTH || pointers > MAX_POINTERS {
                    return Err(Malformed);
                }
                (at, lowest) = (target, target);
                continue;
            }
            if length >= 64 {
                return Err(Malformed);
            }
            let end = at + 1 + usize::from(length);
            wire.extend_from_slice(message.get(at..end).ok_or(Malformed)?);
            if wire.len() > MAX_NAME_LEN {
                return Err(Malformed);
            }
            if length == 0 {
                return Ok(Self(wire));
            }
            at = end;
        }
    }

    /// Returns the offset behind a name that may be compressed. Does not follow pointers.
    pub(super) fn skip(message: &[u8], offset: usize) -> Result<usize, Malformed> {
        let mut at = offset;
        loop {
            let length = *message.get(at).ok_or(Malformed)?;
            if length & POINTER_BITS == POINTER_BITS {
                let target =
                    (usize::from(length & !POINTER_BITS) << 8) | usize::from(*message.get(at + 1).ok_or(Malformed)?);
                return if (Header::LENGTH..offset).contains(&target) { Ok(at + 2) } else { Err(Malformed) };
            }
            if length >= 64 || at - offset > MAX_NAME_LEN {
                return Err(Malformed);
            }
            at += 1 + usize::from(length);
            if length == 0 {
                return Ok(at);
            }
        }
    }

    /// Returns the name in wire format.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the name in lower case. Length octets are below 64, and so are never letters.
    #[must_use]
    pub fn lower(&self) -> Self {
        let mut lower = self.clone();
        lower.0.make_ascii_lowercase();
        lower
    }

    /// Returns whether the name is `zone` or below it. Both must be in lower case.
    #[must_use]
    pub fn is_within(&self, zone: &Self) -> bool {
        self.suffixes().any(|suffix| *suffix == *zone.0)
    }

    /// Returns the ancestors of the name below `zone`, the shortest first; none when the name is not below `zone`.
    #[must_use]
    pub fn ancestors_within(&self, zone: &Self) -> Vec<Self> {
        let ancestors: Vec<&[u8]> = self.suffixes().skip(1).take_while(|suffix| suffix.len() >= zone.0.len()).collect();
        match ancestors.split_last() {
            Some((last, between)) if **last == *zone.0 => {
                between.iter().rev().map(|name| Self(SmallVec::from_slice(name))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the name and its ancestors in wire format, the longest first, the root last.
    pub fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Some(&*self.0);
        std::iter::from_fn(move || {
            let current = rest?;
            rest = match current.first() {
                None | Some(0) => None,
                Some(length) => current.get(1 + usize::from(*length)..),
            };
            Some(current)
        })
    }
}

impl Clone for Name {
    /// Copies the octets at once; the clone of a [`SmallVec`] would take them one by one.
    fn clone(&self) -> Self {
        Self(SmallVec::from_slice(&self.0))
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    /// Writes the name with its final dot; octets that are not printable ASCII as `\DDD` (RFC 1035 §5.1).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.0 == [0] {
            return formatter.write_str(".");
        }
        for suffix in self.suffixes() {
            let Some((length, rest)) = suffix.split_first().filter(|(length, _)| **length > 0) else { break };
            for octet in rest.iter().take(usize::from(*length)) {
                match octet {
                    b'.' | b'\\' => write!(formatter, "\\{}", char::from(*octet))?,
                    0x21..=0x7e => write!(formatter, "{}", char::from(*octet))?,
                    _ => write!(formatter, "\\{octet:03}")?,
                }
            }
            formatter.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_in_text_and_on_the_wire() {
        let name = Name::from_text("WWW.Example").unwrap();
        assert_eq!(name.as_bytes(), b"\x03WWW\x07Example\x00");
        assert_eq!(name.to_string(), "WWW.Example.");
        assert_eq!(name.lower(), Name::from_text("www.example.").unwrap());
        assert_eq!(Name::from_text(".").unwrap().as_bytes(), b"\0");
        assert_eq!(Name::read_uncompressed(b"\x04a.b\x01\x00", 0).unwrap().0.to_string(), "a\\.b\\001.");
        for bad in ["a..b", &"x".repeat(64), &["a"; 128].join(".")] {
            assert!(Name::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_suffixes_of_a_name_come_longest_first() {
        let name = Name::from_text("a.b.c").unwrap();
        let suffixes: Vec<&[u8]> = name.suffixes().collect();
        assert_eq!(suffixes, [&b"\x01a\x01b\x01c\0"[..], b"\x01b\x01c\0", b"\x01c\0", b"\0"]);
    }

    #[test]
    fn the_ancestors_of_a_name_within_its_zone_come_shortest_first() {
        let ancestors = |name: &str, zone: &str| {
            let names = Name::from_text(name).unwrap().ancestors_within(&Name::from_text(zone).unwrap());
            names.iter().map(Name::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ancestors("a.b.c.cluster.local", "cluster.local"), ["c.cluster.local.", "b.c.cluster.local."]);
        for outside in ["a.cluster.local", "cluster.local", "local", "a.b.c.xcluster.local", "a.b.c.example"] {
            assert!(ancestors(outside, "cluster.local").is_empty(), "{outside}");
        }
    }

    #[test]
    fn a_compressed_name_is_decompressed() {
        let message = [&[0; Header::LENGTH][..], b"\x07example\x00\x03www\xc0\x0c\xc0\x15"].concat();
        assert_eq!(Name::read(&message, 21).unwrap().to_string(), "www.example.");
        assert_eq!(Name::read(&message, 27).unwrap().to_string(), "www.example.");
        assert_eq!(Name::skip(&message, 21), Ok(27));
        assert_eq!(Name::read_uncompressed(&message, 21), Err(Malformed));
    }

    #[test]
    fn pointer_loops_forward_pointers_pointers_to_the_header_and_truncated_names_fail() {
        for name in [
            &b"\xc0\x0c"[..],              // to itself
            b"\x01a\xc0\x10\x01b\xc0\x0c", // forwards
            b"\x01a\xc0\x0c",              // into its own label
            b"\xc0\x00",                   // into the ID
            b"\x01a\xc0\x0b",              // into the last count
            b"\x05abc",                    // truncated
            b"\x80a\x00",                  // reserved bits
            b"\xc0",                       // half a pointer
        ] {
            let message = [&[0; Header::LENGTH][..], name].concat();
            assert_eq!(Name::read(&message, Header::LENGTH), Err(Malformed), "{name:?}");
            assert_eq!(Name::read_uncompressed(&message, Header::LENGTH), Err(Malformed), "{name:?}");
        }
        let into_header = [&[0; Header::LENGTH][..], b"\x01a\xc0\x0b"].concat();
        assert_eq!(Name::skip(&into_header, Header::LENGTH), Err(Malformed));
        let long = b"\x01a".repeat(128);
        assert!(
            Name::read(&long, 0).is_err()
                && Name::read_uncompressed(&long, 0).is_err()
                && Name::skip(&long, 0).is_err()
        );
    }
}

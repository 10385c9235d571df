//! A reader of messages that shares no code with the one that is tested, and is as simple as it can be.

use std::collections::HashSet;

/// A record, with its owner written out in lower case; none where the owner cannot be read. So are the names in its data.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) section: usize,
    pub(crate) owner: Option<Vec<u8>>,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Vec<u8>,
    /// Whether the names in its data can be read; if not, its data are the octets.
    pub(crate) is_readable: bool,
    /// The data as they stand in the message.
    pub(crate) octets: Vec<u8>,
}

/// However their names are written down.
impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        let said = |told: &Self| (told.section, told.rtype, told.class, told.ttl);
        said(self) == said(other) && self.owner == other.owner && self.data == other.data
    }
}

impl Told {
    /// What is said in the place of this record, to be compared with it. What was nobody's name where it came from is
    /// whatever it is: it may lead into the question, which is in another case now. Its octets are the same.
    pub(crate) fn beside(&self, said: Self) -> Self {
        let owner = said.owner.filter(|_| self.owner.is_some());
        let data = if self.is_readable { said.data } else { said.octets.clone() };
        Self { owner, data, ..said }
    }
}

pub(crate) const OPT: u16 = 41;

pub(crate) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// The names of a message, read from its beginning to its end.
struct Names<'a> {
    message: &'a [u8],
    /// Where the labels of those begin that were read.
    labels: HashSet<usize>,
}

impl Names<'_> {
    /// The name at a place, written out, and the place behind it. It ends no later than at `limit` and points to labels of
    /// names before it, or it is nobody's name: the octets that it would be made of have another meaning, and may change
    /// with that.
    fn read(&mut self, start: usize, limit: usize) -> Option<(Option<Vec<u8>>, usize)> {
        let (mut name, mut labels) = (Vec::new(), Vec::new());
        let (mut at, mut end) = (start, None);
        // Pointers lead to names before this one, so they come to an end.
        loop {
            let length = usize::from(*self.message.get(at)?);
            if length >= 0xc0 {
                let behind = *end.get_or_insert(at + 2);
                at = usize::from(u16_at(self.message, at)? & 0x3fff);
                if !self.labels.contains(&at) {
                    return Some((None, behind));
                }
                continue;
            }
            if end.is_none() {
                labels.push(at);
            }
            name.extend(self.message.get(at..at + 1 + length).filter(|_| length < 64)?.to_ascii_lowercase());
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
        let end = end.unwrap_or(at);
        if end > limit {
            return Some((None, end));
        }
        self.labels.extend(labels);
        Some((Some(name).filter(|name| name.len() <= 255), end))
    }
}

/// The records of a message with one question, up to where it breaks off, and whether it does not.
pub(crate) fn records(message: &[u8]) -> (Vec<Told>, bool) {
    let mut records = Vec::new();
    let is_whole = read_records(message, &mut records).is_some();
    (records, is_whole)
}

fn read_records(message: &[u8], records: &mut Vec<Told>) -> Option<()> {
    let mut names = Names { message, labels: HashSet::new() };
    let (asked, end) = names.read(12, message.len())?;
    let mut at = asked.map(|_| end + 4)?;
    for section in 0..3 {
        for _ in 0..u16_at(message, 6 + 2 * section)? {
            let (owner, end) = names.read(at, message.len())?;
            at = end;
            let (rtype, class) = (u16_at(message, at)?, u16_at(message, at + 2)?);
            let ttl = u32::from_be_bytes(message.get(at + 4..at + 8)?.try_into().ok()?);
            let length = usize::from(u16_at(message, at + 8)?);
            let octets = message.get(at + 10..at + 10 + length)?;
            let (written_out, octets) = (written_out(&mut names, at + 10, length, rtype), octets.to_vec());
            at += 10 + length;
            let (is_readable, data) = (written_out.is_some(), written_out.unwrap_or_else(|| octets.clone()));
            records.push(Told { section, owner, rtype, class, ttl, data, is_readable, octets });
        }
    }
    Some(())
}

/// Octets before the names in the data of a type, and the number of names.
const fn names_in(rtype: u16) -> (usize, usize) {
    match rtype {
        2..=5 | 7..=9 | 12 | 39 | 47 => (0, 1),
        6 | 14 | 17 => (0, 2),
        15 | 18 | 21 | 36 | 64 | 65 => (2, 1),
        33 => (6, 1),
        24 | 46 => (18, 1),
        _ => (0, 0),
    }
}

/// Data with their names written out in lower case; none where they cannot be read.
fn written_out(names: &mut Names<'_>, start: usize, length: usize, rtype: u16) -> Option<Vec<u8>> {
    let (before, count) = names_in(rtype);
    let mut at = start + before;
    let mut data = names.message.get(start..at)?.to_vec();
    for _ in 0..count {
        let (name, end) = names.read(at, start + length)?;
        data.extend(name?);
        at = end;
    }
    data.extend(names.message.get(at..start + length)?);
    Some(data)
}

/// The records of a message that we said, which must be whole and end where they end; without OPT.
pub(crate) fn said(message: &[u8]) -> Vec<Told> {
    let (mut records, is_whole) = records(message);
    assert!(is_whole, "what we say breaks off");
    records.retain(|record| record.rtype != OPT);
    records
}

/// What is said in the place of these records, each beside the one that it stands for.
pub(crate) fn said_of(message: &[u8], told: &[Told]) -> Vec<Told> {
    let mut said = said(message);
    for (said, told) in said.iter_mut().zip(told) {
        *said = told.beside(said.clone());
    }
    said
}

/// The same records whatever their TTLs are.
pub(crate) fn without_ttls(mut records: Vec<Told>) -> Vec<Told> {
    records.iter_mut().for_each(|record| record.ttl = 0);
    records
}

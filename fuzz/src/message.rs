//! Reader of messages that shares no code with the one under test, and is as simple as it can be.

use std::collections::HashSet;

/// Record of a message, with its names written out in lower case.
#[derive(Clone, Debug)]
pub(crate) struct ReadRecord {
    /// Section: 0 answer, 1 authority, 2 additional.
    pub(crate) section: usize,
    /// Owner name; `None` where it cannot be read.
    pub(crate) owner: Option<Vec<u8>>,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// Data with names written out, or as they stand in the message where a name cannot be read.
    pub(crate) data: Vec<u8>,
    /// Whether the names in the data can be read.
    pub(crate) is_readable: bool,
    /// Data as they stand in the message.
    pub(crate) octets: Vec<u8>,
    /// Owner name, wherever its pointers lead; `None` where it cannot be followed.
    pub(crate) followed_owner: Option<Vec<u8>>,
    /// Data with names written out, wherever their pointers lead; `None` where one cannot be followed.
    pub(crate) followed_data: Option<Vec<u8>>,
    /// Name at the beginning of the data, like `followed_owner`; `None` where it does not end within the data.
    pub(crate) followed_target: Option<Vec<u8>>,
}

/// Equality whatever compression the names have.
impl PartialEq for ReadRecord {
    fn eq(&self, other: &Self) -> bool {
        let fixed = |record: &Self| (record.section, record.rtype, record.class, record.ttl);
        fixed(self) == fixed(other) && self.owner == other.owner && self.data == other.data
    }
}

impl ReadRecord {
    /// Returns the record that was sent in place of this one, so that both can be compared. A name that cannot be read
    /// here may be readable there: it may point into the question, which has another case there. Then the octets are
    /// compared.
    pub(crate) fn comparable(&self, sent: Self) -> Self {
        let owner = sent.owner.filter(|_| self.owner.is_some());
        let data = if self.is_readable { sent.data } else { sent.octets.clone() };
        Self { owner, data, ..sent }
    }

    /// Returns the record as it is sent where the names of a message are written out. All its names can be followed.
    pub(crate) fn written_out(self) -> Self {
        let data = self.followed_data.clone().unwrap();
        Self { owner: Some(self.followed_owner.clone().unwrap()), data, is_readable: true, ..self }
    }
}

pub(crate) const OPT: u16 = 41;

pub(crate) fn u16_at(message: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(offset..offset + 2)?.try_into().ok()?))
}

/// Reader of the names of a message, from its beginning to its end.
struct NameReader<'a> {
    message: &'a [u8],
    /// Offsets of the labels of names read so far.
    labels: HashSet<usize>,
}

impl NameReader<'_> {
    /// Reads the name at an offset: the name written out, and the offset behind it. The name is `None` where it ends
    /// after `limit`, or points to anything but labels of earlier names: these octets have another meaning, and may
    /// change with that.
    fn read(&mut self, start: usize, limit: usize) -> Option<(Option<Vec<u8>>, usize)> {
        let mut name = Vec::new();
        let mut labels = Vec::new();
        let mut offset = start;
        let mut end = None;
        // Pointers lead to earlier names only, so the loop ends.
        loop {
            let length = usize::from(*self.message.get(offset)?);
            if length >= 0xc0 {
                let behind = *end.get_or_insert(offset + 2);
                offset = usize::from(u16_at(self.message, offset)? & 0x3fff);
                if !self.labels.contains(&offset) {
                    return Some((None, behind));
                }
                continue;
            }
            if end.is_none() {
                labels.push(offset);
            }
            let label = self.message.get(offset..offset + 1 + length).filter(|_| length < 64)?;
            name.extend(label.to_ascii_lowercase());
            offset += 1 + length;
            if length == 0 {
                break;
            }
        }
        let end = end.unwrap_or(offset);
        if end > limit {
            return Some((None, end));
        }
        self.labels.extend(labels);
        Some((Some(name).filter(|name| name.len() <= 255), end))
    }
}

/// Reads the records of a message with one question, up to where it is truncated; returns whether it is complete.
pub(crate) fn records(message: &[u8]) -> (Vec<ReadRecord>, bool) {
    let mut records = Vec::new();
    let is_complete = read_records(message, &mut records).is_some();
    (records, is_complete)
}

fn read_records(message: &[u8], records: &mut Vec<ReadRecord>) -> Option<()> {
    let mut names = NameReader { message, labels: HashSet::new() };
    let (question_name, end) = names.read(12, message.len())?;
    let mut offset = question_name.map(|_| end + 4)?;
    for section in 0..3 {
        for _ in 0..u16_at(message, 6 + 2 * section)? {
            let start = offset;
            let (owner, end) = names.read(offset, message.len())?;
            offset = end;
            let rtype = u16_at(message, offset)?;
            let class = u16_at(message, offset + 2)?;
            let ttl = u32::from_be_bytes(message.get(offset + 4..offset + 8)?.try_into().ok()?);
            let length = usize::from(u16_at(message, offset + 8)?);
            let octets = message.get(offset + 10..offset + 10 + length)?.to_vec();
            let decompressed = decompress(&mut names, offset + 10, length, rtype);
            let followed_owner = follow(message, start).map(|(name, _)| name);
            let target = follow(message, offset + 10).filter(|(_, end)| *end <= offset + 10 + length);
            let followed_target = target.map(|(name, _)| name);
            let followed_data = follow_data(message, offset + 10, length, rtype);
            offset += 10 + length;
            let is_readable = decompressed.is_some();
            let data = decompressed.unwrap_or_else(|| octets.clone());
            records.push(ReadRecord {
                section,
                owner,
                rtype,
                class,
                ttl,
                data,
                is_readable,
                octets,
                followed_owner,
                followed_data,
                followed_target,
            });
        }
    }
    Some(())
}

/// Returns the octets before the names in the data of a type, and the number of these names.
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

/// Returns data with their names written out in lower case; `None` where a name cannot be read.
fn decompress(names: &mut NameReader<'_>, start: usize, length: usize, rtype: u16) -> Option<Vec<u8>> {
    let (before, count) = names_in(rtype);
    let mut offset = start + before;
    let mut data = names.message.get(start..offset)?.to_vec();
    for _ in 0..count {
        let (name, end) = names.read(offset, start + length)?;
        data.extend(name?);
        offset = end;
    }
    data.extend(names.message.get(offset..start + length)?);
    Some(data)
}

/// Reads a name at an offset wherever its pointers lead, backwards and behind the header: the name in lower case, and
/// the offset behind it.
fn follow(message: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let (mut offset, mut lowest) = (start, start);
    let mut end = None;
    loop {
        let length = usize::from(*message.get(offset)?);
        if length >= 0xc0 {
            end.get_or_insert(offset + 2);
            offset = usize::from(u16_at(message, offset)? & 0x3fff);
            if !(12..lowest).contains(&offset) {
                return None;
            }
            lowest = offset;
            continue;
        }
        name.extend(message.get(offset..offset + 1 + length).filter(|_| length < 64)?.to_ascii_lowercase());
        offset += 1 + length;
        if length == 0 {
            return (name.len() <= 255).then(|| (name, end.unwrap_or(offset)));
        }
    }
}

/// Returns data with their names written out like those of [`follow`].
fn follow_data(message: &[u8], start: usize, length: usize, rtype: u16) -> Option<Vec<u8>> {
    let (before, count) = names_in(rtype);
    let mut offset = start + before;
    let mut data = message.get(start..offset)?.to_vec();
    for _ in 0..count {
        let (name, end) = follow(message, offset)?;
        data.extend(name);
        offset = end;
    }
    data.extend(message.get(offset..start + length)?);
    Some(data)
}

/// Reads the records of a message of ours, which must be complete; without OPT.
pub(crate) fn sent_records(message: &[u8]) -> Vec<ReadRecord> {
    let (mut records, is_complete) = records(message);
    assert!(is_complete, "a message of ours is truncated");
    records.retain(|record| record.rtype != OPT);
    records
}

/// Reads the records of a message of ours so that they can be compared with the received records that they pass on.
pub(crate) fn comparable_records(message: &[u8], received: &[ReadRecord]) -> Vec<ReadRecord> {
    let mut sent = sent_records(message);
    for (sent, received) in sent.iter_mut().zip(received) {
        *sent = received.comparable(sent.clone());
    }
    sent
}

/// Sets all TTLs to 0.
pub(crate) fn without_ttls(mut records: Vec<ReadRecord>) -> Vec<ReadRecord> {
    records.iter_mut().for_each(|record| record.ttl = 0);
    records
}

//! Filter of the answer section by owner name: a record belongs there if its owner is the name in the question, a name
//! that a CNAME or DNAME record leads to from there, or the owner of a DNAME record above such a name (RFC 6672).
//! Stub resolvers exist that compare no owners, and would take a record of another name for an answer.

use std::collections::{HashMap, HashSet};

use super::codes::{class, rtype};
use super::name::MAX_NAME_LEN;
use super::rdata::{RdataLayout, rdata_layout};
use super::{Header, MAX_MESSAGE_LEN, Malformed, Name, Record, Records, Section, put_u16, u16_at};

/// The maximum number of names that are followed from the question on. Resolvers follow far fewer aliases; the bound
/// keeps the work proportional to the message, also where DNAME records lead to ever longer names.
const MAX_NAMES: usize = 128;
/// The maximum number of steps through labels and pointers when two names are compared in place.
const MAX_STEPS: usize = 256;
/// The two upper bits of a compression pointer (RFC 1035 §4.1.4).
const POINTER_BITS: u16 = 0xc000;
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, Header::LENGTH as u8];

/// Returns whether the owner of a record is anything but a pointer to the question, so that it has to be compared.
pub(super) fn has_other_owner(wire: &[u8], record: &Record) -> bool {
    wire.get(record.start..record.start + 2) != Some(&POINTER_TO_QUESTION)
}

/// Returns the message without the answer records of unrelated owners, and with all names written out; `None` when
/// there are no such records. The message must have no OPT record, and its question must end at `question_end`.
///
/// # Errors
///
/// [`Malformed`] when a name of a record that stays cannot be read, or names written out are too long for a message.
pub(super) fn drop_unrelated(wire: &[u8], question_end: usize) -> Result<Option<Vec<u8>>, Malformed> {
    let header = Header::read(wire).ok_or(Malformed)?;
    let class = u16_at(wire, question_end - 2).ok_or(Malformed)?;
    let answers = || {
        let records = Records::new(wire, &header, question_end).filter_map(Result::ok);
        records.take_while(|record| record.section == Section::Answer)
    };
    // Names in data of other classes are not validated.
    if class == class::IN && is_chain_in_order(wire, answers()) {
        return Ok(None);
    }
    let answers: Vec<Record> = answers().collect();
    let is_related = related(wire, class, &answers)?;
    if is_related.iter().all(|is_related| *is_related) {
        return Ok(None);
    }
    let mut out = wire.get(..question_end).ok_or(Malformed)?.to_vec();
    let mut answer_count = 0;
    for (index, record) in Records::new(wire, &header, question_end).enumerate() {
        if is_related.get(index).is_some_and(|is_related| !is_related) {
            continue;
        }
        answer_count += u16::from(index < is_related.len());
        write_decompressed(wire, &record?, &mut out)?;
        if out.len() > MAX_MESSAGE_LEN {
            return Err(Malformed);
        }
    }
    put_u16(&mut out, 6, answer_count);
    Ok(Some(out))
}

/// Returns whether the owners follow each other as aliases do in a usual response: each record belongs to the name that
/// the alias before leads to, or, like its signatures, to the owner of that alias. Allocates nothing.
fn is_chain_in_order(wire: &[u8], mut answers: impl Iterator<Item = Record>) -> bool {
    // Offsets of names. Both are related.
    let mut previous = Header::LENGTH;
    let mut current = Header::LENGTH;
    answers.all(|record| {
        let is_related = is_same_name(wire, record.start, current) || is_same_name(wire, record.start, previous);
        if record.rtype == rtype::CNAME && record.class == class::IN {
            previous = record.start;
            current = record.data.start;
        }
        is_related
    })
}

/// Returns whether two names of a message, compressed or not, are equal in any case; `false` when one is malformed.
fn is_same_name(wire: &[u8], mut one: usize, mut other: usize) -> bool {
    for _ in 0..MAX_STEPS {
        if one == other {
            return true;
        }
        let (Some(length), Some(other_length)) = (wire.get(one), wire.get(other)) else { return false };
        for offset in [&mut one, &mut other] {
            let Some(pointer) = u16_at(wire, *offset).filter(|pointer| *pointer >= POINTER_BITS) else { continue };
            let target = usize::from(pointer & !POINTER_BITS);
            if target >= *offset || target < Header::LENGTH {
                return false;
            }
            *offset = target;
        }
        if *length >= 64 || *other_length >= 64 {
            if (64..192).contains(length) || (64..192).contains(other_length) {
                return false;
            }
            // One was a pointer: the label of the other is compared in the next step.
            continue;
        }
        if length != other_length {
            return false;
        }
        if *length == 0 {
            return true;
        }
        let end = 1 + usize::from(*length);
        let (Some(label), Some(other_label)) = (wire.get(one..one + end), wire.get(other..other + end)) else {
            return false;
        };
        if !label.eq_ignore_ascii_case(other_label) {
            return false;
        }
        one += end;
        other += end;
    }
    false
}

/// Records of one owner.
#[derive(Default)]
struct OwnerRecords {
    /// Positions in the answer section.
    indices: Vec<usize>,
    /// Targets of the CNAME records.
    cnames: Vec<Name>,
    /// Target of the first DNAME record; there is one at most (RFC 6672 §2.4).
    dname: Option<Name>,
}

/// Returns for each answer record whether its owner is related to the question, whatever the order of the records.
fn related(wire: &[u8], class: u16, answers: &[Record]) -> Result<Vec<bool>, Malformed> {
    let mut by_owner: HashMap<Name, OwnerRecords> = HashMap::new();
    let mut has_dname = false;
    for (index, record) in answers.iter().enumerate() {
        let Ok(owner) = Name::read(wire, record.start) else { continue };
        let records = by_owner.entry(owner.lower()).or_default();
        records.indices.push(index);
        if record.class != class {
            continue;
        }
        match record.rtype {
            rtype::CNAME => records.cnames.extend(target(wire, record)),
            rtype::DNAME if records.dname.is_none() => {
                records.dname = target(wire, record);
                has_dname |= records.dname.is_some();
            }
            _ => {}
        }
    }
    let mut is_related = vec![false; answers.len()];
    let mut names = vec![Name::read(wire, Header::LENGTH)?.lower()];
    let mut known: HashSet<Name> = names.iter().cloned().collect();
    let mut next = 0;
    while let Some(name) = names.get(next).cloned() {
        next += 1;
        let mut targets = Vec::new();
        for (depth, suffix) in name.suffixes().take(if has_dname { usize::MAX } else { 1 }).enumerate() {
            let Some(records) = by_owner.get_mut(suffix) else { continue };
            if depth == 0 {
                targets.append(&mut records.cnames);
            } else if let Some(target) = &records.dname {
                let prefix = &name.as_bytes()[..name.as_bytes().len() - suffix.len()];
                let substituted = [prefix, target.as_bytes()].concat();
                targets.extend((substituted.len() <= MAX_NAME_LEN).then(|| Name(substituted.into())));
            } else {
                continue;
            }
            // Each owner is related once.
            for index in records.indices.drain(..) {
                is_related[index] = true;
            }
        }
        for target in targets {
            if names.len() < MAX_NAMES && known.insert(target.clone()) {
                names.push(target);
            }
        }
    }
    Ok(is_related)
}

/// Returns the target of an alias, in lower case; `None` when it does not end within the record's data, which are not
/// validated in classes other than IN.
fn target(wire: &[u8], record: &Record) -> Option<Name> {
    let end = Name::skip(wire, record.data.start).ok()?;
    let is_within = end <= record.data.end;
    is_within.then(|| Name::read(wire, record.data.start).ok())?.map(|name| name.lower())
}

/// Appends a record with its owner, and the names in its data as far as its layout is known, written out.
pub(super) fn write_decompressed(wire: &[u8], record: &Record, out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.extend_from_slice(Name::read(wire, record.start)?.as_bytes());
    out.extend_from_slice(wire.get(record.ttl_offset - 4..record.data.start).ok_or(Malformed)?);
    let data_start = out.len();
    let layout = rdata_layout(record.rtype).filter(|layout| layout.name_count > 0);
    let mut offset = record.data.start;
    if let Some(RdataLayout { prefix_len, name_count, .. }) = layout {
        let names_start = offset + prefix_len;
        out.extend_from_slice(wire.get(offset..names_start).ok_or(Malformed)?);
        offset = names_start;
        for _ in 0..name_count {
            out.extend_from_slice(Name::read(wire, offset)?.as_bytes());
            offset = Name::skip(wire, offset)?;
        }
    }
    // Fails when a name does not end within its record.
    out.extend_from_slice(wire.get(offset..record.data.end).ok_or(Malformed)?);
    let length = u16::try_from(out.len() - data_start).map_err(|_| Malformed)?;
    put_u16(out, data_start - 2, length);
    Ok(())
}

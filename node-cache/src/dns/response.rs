//! A response as it is kept: the bytes of another server or of our own, without what belongs to one hop.

use super::codes::{class, rcode, rtype};
use super::compress::compress;
use super::lifetime::ResponseTtl;
use super::question::Question;
use super::validate::{LONGEST, ValidatedRecords, WithoutOpt, validate, without_opt};
use super::{Header, Malformed, Name, Record, Records, Section, flag, put_u16, u16_at, u32_at};

/// Octets of the five numbers at the end of an SOA record (RFC 1035 §3.3.13).
const SOA_NUMBERS: usize = 20;

/// A response in wire form with number 0 and without EDNS, checked once when it came in: everything in it can be
/// walked over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    wire: Vec<u8>,
    ttl_offsets: Box<[u16]>,
    question_end: u16,
    rcode: u16,
    lifetime: ResponseTtl,
    ede: Option<u16>,
    from: u16,
    /// Whether names may be written out in its records.
    names: bool,
}

/// Why a packet is not the answer that is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not a response to this question under this number. It says nothing about anything.
    #[error("not a response to this question")]
    Unrelated,
    /// A response that says it could not read the question, as servers do that do not know EDNS.
    #[error("the server could not read the question")]
    Unreadable,
}

impl From<Malformed> for ResponseError {
    fn from(Malformed: Malformed) -> Self {
        Self::Unrelated
    }
}

impl Response {
    /// Checks and cleans a packet that came from a server which was asked `question` under the number `id`.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]; the caller goes on waiting for the true one.
    pub fn read(packet: &[u8], id: u16, question: &Question) -> Result<Self, ResponseError> {
        let header = Header::read(packet).ok_or(ResponseError::Unrelated)?;
        if header.id != id || !header.has(flag::QR) || header.opcode() != 0 || packet.len() > LONGEST {
            return Err(ResponseError::Unrelated);
        }
        if header.rcode() == rcode::FORMERR && header.counts == [0; 4] {
            return Err(ResponseError::Unreadable);
        }
        let name = question.name.as_bytes();
        let name_end = Header::LENGTH + name.len();
        let echoed = packet.get(Header::LENGTH..name_end).ok_or(ResponseError::Unrelated)?;
        if header.counts[0] != 1
            || !echoed.eq_ignore_ascii_case(name)
            || u16_at(packet, name_end) != Some(question.rtype)
            || u16_at(packet, name_end + 2) != Some(question.class)
        {
            return Err(ResponseError::Unrelated);
        }
        let question_end = name_end + 4;
        let (WithoutOpt { mut wire, edns, written_out }, checked) = match validate(packet, &header, question_end)? {
            Some((message, checked)) => (message, Some(checked)),
            None => (without_opt(packet, &header, question_end)?, None),
        };
        // Names of records may point at it, and nobody shall see in which case it was asked.
        wire[Header::LENGTH..name_end].copy_from_slice(name);
        if header.rcode() == rcode::FORMERR && edns.is_none() {
            return Err(ResponseError::Unreadable);
        }
        let code = header.rcode() | edns.map_or(0, |edns| u16::from(edns.extended_rcode) << 4);
        let ede = edns.and_then(|edns| edns.ede);
        let shorter = if written_out { compress(&wire, question_end) } else { None };
        Ok(match (shorter, checked) {
            (None, Some(checked)) => Self::of_checked(wire, checked, question_end, code, ede)?,
            (shorter, _) => Self::from_wire(shorter.unwrap_or(wire), question_end, code, ede)?,
        })
    }

    /// A response to this question that holds no record.
    #[must_use]
    pub fn empty(question: &Question, code: u16) -> Self {
        Self::with_records(question, code, &[])
    }

    /// A response of our own: each record is the answer's owner name, of this type, TTL and data (65,535 octets at the
    /// most).
    #[must_use]
    pub fn with_records(question: &Question, code: u16, records: &[(u16, u32, Vec<u8>)]) -> Self {
        let section = question.section();
        let mut wire = vec![0; Header::LENGTH];
        wire.extend_from_slice(&section);
        let mut ttl_offsets = Vec::with_capacity(records.len());
        for (rtype, ttl, data) in records {
            wire.extend_from_slice(&[0xc0, 12]);
            wire.extend_from_slice(&rtype.to_be_bytes());
            wire.extend_from_slice(&question.class.to_be_bytes());
            ttl_offsets.push(u16::try_from(wire.len()).unwrap_or(u16::MAX));
            wire.extend_from_slice(&ttl.to_be_bytes());
            wire.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
            wire.extend_from_slice(data);
        }
        let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
        Header { id: 0, flags: flag::QR | (code & 0x0f), counts: [1, count, 0, 0] }.write(&mut wire);
        Self {
            wire,
            ttl_offsets: ttl_offsets.into(),
            question_end: u16::try_from(Header::LENGTH + section.len()).unwrap_or(u16::MAX),
            rcode: code,
            lifetime: ResponseTtl::Uncacheable,
            ede: None,
            from: 0,
            names: true,
        }
    }

    /// A denial of our own, for which the SOA record of this zone with these data (65,535 octets at the most) vouches
    /// (RFC 2308 §2).
    #[must_use]
    pub fn denied(question: &Question, code: u16, zone: &Name, ttl: u32, soa: &[u8]) -> Self {
        let Self { mut wire, question_end, .. } = Self::empty(question, code);
        put_u16(&mut wire, 8, 1);
        wire.extend_from_slice(zone.as_bytes());
        wire.extend_from_slice(&[rtype::SOA, class::IN].map(u16::to_be_bytes).concat());
        let ttl_offsets = u16::try_from(wire.len()).into_iter().collect();
        wire.extend_from_slice(&ttl.to_be_bytes());
        wire.extend_from_slice(&u16::try_from(soa.len()).unwrap_or(u16::MAX).to_be_bytes());
        wire.extend_from_slice(soa);
        Self {
            wire,
            ttl_offsets,
            question_end,
            rcode: code,
            lifetime: ResponseTtl::Uncacheable,
            ede: None,
            from: 0,
            names: true,
        }
    }

    /// This denial for a name below the one that it denies (RFC 8020 §2): NXDOMAIN with the same SOA record, in which
    /// every name is written out. None when this is no denial of a name, or nobody vouches for it.
    #[must_use]
    pub fn below(&self, question: &Question) -> Option<Self> {
        if self.rcode != rcode::NXDOMAIN || self.has_answer() {
            return None;
        }
        let soa = self.records().into_iter().find(|record| {
            (record.section, record.rtype, record.class) == (Section::Authority, rtype::SOA, class::IN)
        })?;
        let contact = Name::skip(&self.wire, soa.data.start).ok()?;
        let data = [
            Name::read(&self.wire, soa.data.start).ok()?.as_bytes(),
            Name::read(&self.wire, contact).ok()?.as_bytes(),
            self.wire.get(soa.data.end.checked_sub(SOA_NUMBERS)?..soa.data.end)?,
        ]
        .concat();
        let denial = Self::denied(question, rcode::NXDOMAIN, &self.owner(&soa)?, soa.ttl, &data);
        Some(Self { lifetime: self.lifetime, ede: self.ede, ..denial })
    }

    fn from_wire(wire: Vec<u8>, question_end: usize, code: u16, ede: Option<u16>) -> Result<Self, Malformed> {
        let header = Header::read(&wire).ok_or(Malformed)?;
        let mut checked = ValidatedRecords::begin(&wire, &header, question_end);
        for record in Records::new(&wire, &header, question_end) {
            checked.add(&wire, &record?);
        }
        Self::of_checked(wire, checked, question_end, code, ede)
    }

    fn of_checked(
        wire: Vec<u8>,
        checked: ValidatedRecords,
        question_end: usize,
        code: u16,
        ede: Option<u16>,
    ) -> Result<Self, Malformed> {
        let ValidatedRecords { ttl_offsets, lives, names, sound } = checked;
        let (header, question_end) = (Header::read(&wire).ok_or(Malformed)?, u16::try_from(question_end));
        let question_end = question_end.ok().filter(|_| sound).ok_or(Malformed)?;
        let lifetime = lives.lifetime(&header, code);
        Ok(Self { wire, ttl_offsets: ttl_offsets.into(), question_end, rcode: code, lifetime, ede, from: 0, names })
    }

    /// A response that was checked when it came in and has been kept since, from its parts.
    #[must_use]
    pub(crate) const fn kept(
        wire: Vec<u8>,
        ttl_offsets: Box<[u16]>,
        question_end: u16,
        rcode: u16,
        lifetime: ResponseTtl,
        ede: Option<u16>,
    ) -> Self {
        Self { wire, ttl_offsets, question_end, rcode, lifetime, ede, from: 0, names: true }
    }

    /// Where the question section ends.
    #[must_use]
    pub const fn question_end(&self) -> u16 {
        self.question_end
    }

    /// The bytes: a whole message with number 0.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Where in the bytes a TTL stands.
    #[must_use]
    pub fn ttl_offsets(&self) -> &[u16] {
        &self.ttl_offsets
    }

    /// Whether all of its TTLs are the same.
    #[must_use]
    pub fn has_one_ttl(&self) -> bool {
        let mut ttls = self.ttl_offsets.iter().map(|offset| u32_at(&self.wire, usize::from(*offset)));
        let first = ttls.next();
        ttls.all(|ttl| Some(ttl) == first)
    }

    /// The code, with the upper bits that EDNS adds.
    #[must_use]
    pub const fn rcode(&self) -> u16 {
        self.rcode
    }

    /// Whether it says neither what there is nor that there is nothing.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        !matches!(self.rcode, rcode::NOERROR | rcode::NXDOMAIN)
    }

    /// How long it may be kept.
    #[must_use]
    pub const fn lifetime(&self) -> ResponseTtl {
        self.lifetime
    }

    /// The Extended DNS Error that came with it.
    #[must_use]
    pub const fn ede(&self) -> Option<u16> {
        self.ede
    }

    /// The number of the server that it came from; 0 for none.
    #[must_use]
    pub const fn from(&self) -> u16 {
        self.from
    }

    /// It came from the server with this number.
    pub const fn set_upstream(&mut self, server: u16) {
        self.from = server;
    }

    /// Whether it was cut off.
    #[must_use]
    pub fn truncated(&self) -> bool {
        Header::read(&self.wire).is_some_and(|header| header.has(flag::TC))
    }

    /// Whether it holds any record that was asked for, or an alias.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        Header::read(&self.wire).is_some_and(|header| header.counts[1] > 0)
    }

    /// Takes AD away: from a server that does not validate for us it means nothing.
    pub fn clear_authentic_data(&mut self) {
        self.wire[3] &= !u8::try_from(flag::AD).unwrap_or_default();
    }

    /// Puts labels into lower case that repeat those of a question in random case: nobody shall see what belongs to a hop.
    /// `asked` is the name as it was sent. Nothing changes its length.
    pub fn restore_case(&mut self, asked: &[u8]) {
        if !self.names {
            return;
        }
        for record in self.records() {
            // What a type holds in another class nobody knows.
            let in_data = match record.rtype {
                _ if record.class != class::IN => None,
                rtype::NS | rtype::CNAME | rtype::PTR | rtype::SOA => Some(record.data.start),
                rtype::MX => Some(record.data.start + 2),
                rtype::SRV => Some(record.data.start + 6),
                _ => None,
            };
            // The second name of an SOA record stands behind the first (RFC 1035 §3.3.13).
            let contact = in_data.filter(|_| record.rtype == rtype::SOA);
            let contact = contact.and_then(|first| Name::skip(&self.wire, first).ok());
            for start in [Some(record.start), in_data, contact].into_iter().flatten() {
                self.forget_case_at(start, asked);
            }
        }
    }

    /// The same for the labels of one name up to a pointer, which leads to a name that was seen before.
    fn forget_case_at(&mut self, start: usize, asked: &[u8]) {
        let mut at = start;
        while let Some(length @ 1..=63) = self.wire.get(at).map(|length| usize::from(*length)) {
            let Some(label) = self.wire.get_mut(at..at + 1 + length) else { return };
            if labels(asked).any(|asked| asked == label) {
                label.make_ascii_lowercase();
            }
            at += 1 + length;
        }
    }

    /// Its records.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let header = Header::read(&self.wire);
        let records = header.map(|header| Records::new(&self.wire, &header, usize::from(self.question_end)));
        records.into_iter().flatten().filter_map(Result::ok).collect()
    }

    /// The owner name of one of its records.
    #[must_use]
    pub fn owner(&self, record: &Record) -> Option<Name> {
        Name::read(&self.wire, record.start).ok()
    }
}

/// The labels of a name that is not compressed, each with its length octet.
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let length = usize::from(*rest.first().filter(|length| **length > 0)?);
        let (label, behind) = rest.split_at_checked(1 + length)?;
        rest = behind;
        Some(label)
    })
}

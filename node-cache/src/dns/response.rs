//! A response as the cache stores it: of an upstream or of this process itself, without anything that belongs to one
//! hop.

use super::codes::{class, ede, rcode, rtype};
use super::compress::compress;
use super::owner_filter::drop_unrelated;
use super::question::Question;
use super::referral::is_referral;
use super::response_error::{ResponseError, bare_error, fault, whole_records};
use super::ttl::{ResponseTtl, TtlOffsets, lower_ttls};
use super::validate::{StrippedMessage, ValidatedRecords, strip_opt, validate};
use super::{Header, MAX_MESSAGE_LEN, Malformed, Name, Record, Records, Section, flag, put_u16, u16_at, u32_at};

/// Octets of the five numbers at the end of an SOA record's data (RFC 1035 §3.3.13).
const SOA_NUMBERS_LEN: usize = 20;

/// A response in wire format with ID 0 and without EDNS. Validated once, when it is made: all its records can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    wire: Vec<u8>,
    ttl_offsets: TtlOffsets,
    question_end: u16,
    rcode: u16,
    ttl: ResponseTtl,
    ede: Option<u16>,
    upstream_id: u16,
    /// Whether the records may hold uncompressed names.
    may_hold_names: bool,
    /// Whether the answer section had an alias when the response arrived.
    has_alias: bool,
    /// Whether the response ends with an alias whose target other servers know.
    is_partial: bool,
    edns_reply: EdnsReply,
    /// Whether the response stands for an error without a question.
    is_bare_error: bool,
}

/// Sign in a response of its server's support of EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdnsReply {
    /// The server supports EDNS: the response has an OPT record.
    Supported,
    /// The response has no OPT record, and no failure rcode either.
    Absent,
    /// A failure without an OPT record: a query with one may be what the server fails on.
    Suspect,
    /// FORMERR, NOTIMP without an OPT record, BADVERS, or an OPT record that cannot be read (RFC 6891 §6.1.3 and §7).
    Rejected,
}

impl EdnsReply {
    const fn new(rcode: u16, has_opt: bool) -> Self {
        match (rcode, has_opt) {
            // A server that does not know EDNS may copy the OPT record of the query.
            (rcode::FORMERR | rcode::BADVERS, _) | (rcode::NOTIMP, false) => Self::Rejected,
            (_, true) => Self::Supported,
            (rcode::NOERROR | rcode::NXDOMAIN, false) => Self::Absent,
            (_, false) => Self::Suspect,
        }
    }
}

impl Response {
    /// Validates a packet as the response to the query with this ID and question, and strips what belongs to one hop.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]. The packet may be forged, and the true response may still come.
    pub fn read(packet: &[u8], id: u16, question: &Question) -> Result<Self, ResponseError> {
        let header = Header::read(packet).ok_or(ResponseError::Malformed)?;
        if !header.has(flag::QR) || header.opcode() != 0 || packet.len() > MAX_MESSAGE_LEN {
            return Err(ResponseError::Malformed);
        }
        if header.id != id {
            return Err(ResponseError::WrongId);
        }
        if let Some(rcode) = bare_error(packet, &header) {
            return Err(ResponseError::BareError(rcode));
        }
        let name = question.name.as_bytes();
        let name_end = Header::LENGTH + name.len();
        let echoed_name = packet.get(Header::LENGTH..name_end).ok_or(ResponseError::WrongQuestion)?;
        if header.counts[0] != 1
            || !echoed_name.eq_ignore_ascii_case(name)
            || u16_at(packet, name_end) != Some(question.rtype)
            || u16_at(packet, name_end + 2) != Some(question.class)
        {
            return Err(ResponseError::WrongQuestion);
        }
        let question_end = name_end + 4;
        Self::read_records(packet, &header, question, question_end)
            .map_err(|Malformed| fault(packet, &header, question_end))
    }

    /// Reads what there is of a response that breaks off ([`ResponseError::Incomplete`]): its whole records, as a
    /// truncated response.
    ///
    /// # Errors
    ///
    /// [`ResponseError`] when that part cannot be read either.
    pub fn read_incomplete(packet: &[u8], id: u16, question: &Question) -> Result<Self, ResponseError> {
        let header = Header::read(packet).ok_or(ResponseError::Malformed)?;
        let question_end = Header::LENGTH + question.name.as_bytes().len() + 4;
        Self::read(&whole_records(packet, &header, question_end), id, question)
    }

    /// Validates and strips the records of the response to this question, which ends at `question_end`.
    fn read_records(
        packet: &[u8],
        header: &Header,
        question: &Question,
        question_end: usize,
    ) -> Result<Self, Malformed> {
        let (StrippedMessage { mut wire, edns, mut is_compressible, has_other_owners }, mut records) =
            match validate(packet, header, question_end)? {
                Some((message, records)) => (message, Some(records)),
                None => (strip_opt(packet, header, question_end)?, None),
            };
        // Owner names may point to the question, and no client shall see the random case of the query (0x20).
        wire[Header::LENGTH..question_end - 4].copy_from_slice(question.name.as_bytes());
        let rcode = header.rcode() | edns.map_or(0, |edns| u16::from(edns.extended_rcode) << 4);
        let ede = edns.and_then(|edns| edns.ede);
        if records.as_ref().is_some_and(|records| !records.is_valid) {
            return Err(Malformed);
        }
        let edns_reply = EdnsReply::new(rcode, edns.is_some());
        let is_without_recursion = header.flags & (flag::AA | flag::TC | flag::RA) == 0;
        if is_without_recursion && rcode == rcode::NOERROR && header.counts[1] == 0 && header.counts[2] > 0 {
            // A referral is no answer: the server does not recurse, and knows nothing of the name.
            if is_referral(packet, header, question_end) {
                return Ok(Self { edns_reply, ..Self::server_failure(question) });
            }
        }
        if has_other_owners && let Some(filtered) = drop_unrelated(&wire, question_end)? {
            wire = filtered;
            records = None;
            is_compressible = true;
        }
        let compressed = if is_compressible { compress(&wire, question_end) } else { None };
        let mut response = match (compressed, records) {
            (None, Some(records)) => Self::from_validated(wire, records, question_end, rcode, ede)?,
            (compressed, _) => Self::from_wire(compressed.unwrap_or(wire), question_end, rcode, ede)?,
        };
        response.edns_reply = edns_reply;
        Ok(response)
    }

    /// Assembles a response from the parts of one that was validated before.
    #[must_use]
    pub(crate) const fn from_parts(
        wire: Vec<u8>,
        ttl_offsets: TtlOffsets,
        question_end: u16,
        rcode: u16,
        ttl: ResponseTtl,
        ede: Option<u16>,
    ) -> Self {
        Self {
            wire,
            ttl_offsets,
            question_end,
            rcode,
            ttl,
            ede,
            upstream_id: 0,
            may_hold_names: true,
            has_alias: false,
            is_partial: false,
            edns_reply: EdnsReply::Absent,
            is_bare_error: false,
        }
    }

    /// Makes a response to a question without records.
    #[must_use]
    pub fn empty(question: &Question, rcode: u16) -> Self {
        Self::with_records(question, rcode, &[])
    }

    /// Makes the SERVFAIL response to a query that is sent to no upstream, because their packet budgets have no room.
    #[must_use]
    pub fn budget_exhausted(question: &Question) -> Self {
        Self { ede: Some(ede::BUDGET_EXHAUSTED), ..Self::empty(question, rcode::SERVFAIL) }
    }

    /// Makes the SERVFAIL response that stands for a server which gave no answer.
    fn server_failure(question: &Question) -> Self {
        Self { ede: Some(ede::NO_REACHABLE_AUTHORITY), ..Self::empty(question, rcode::SERVFAIL) }
    }

    /// Makes the SERVFAIL response that stands for an error with this rcode which came without its question
    /// ([`ResponseError::BareError`]), or with an OPT record that cannot be read (as FORMERR).
    #[must_use]
    pub fn bare_error(question: &Question, rcode: u16) -> Self {
        Self { edns_reply: EdnsReply::new(rcode, false), is_bare_error: true, ..Self::server_failure(question) }
    }

    /// Makes a response to a question with these records in the answer section: type, TTL in seconds and data (65,535
    /// octets at most) of each. Their owner is the name of the question.
    #[must_use]
    pub fn with_records(question: &Question, rcode: u16, records: &[(u16, u32, Vec<u8>)]) -> Self {
        let section = question.section();
        let mut wire = vec![0; Header::LENGTH];
        wire.extend_from_slice(&section);
        let mut ttl_offsets = TtlOffsets::with_capacity(records.len());
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
        Header { id: 0, flags: flag::QR | (rcode & 0x0f), counts: [1, count, 0, 0] }.write(&mut wire);
        let question_end = u16::try_from(Header::LENGTH + section.len()).unwrap_or(u16::MAX);
        Self::from_parts(wire, ttl_offsets, question_end, rcode, ResponseTtl::Uncacheable, None)
    }

    /// Makes a negative response (RFC 2308 §2) with the SOA record of `zone` in the authority section. `ttl` is in
    /// seconds, `soa` the data of the record (65,535 octets at most).
    #[must_use]
    pub fn negative(question: &Question, rcode: u16, zone: &Name, ttl: u32, soa: &[u8]) -> Self {
        let Self { mut wire, question_end, .. } = Self::empty(question, rcode);
        put_u16(&mut wire, 8, 1);
        wire.extend_from_slice(zone.as_bytes());
        wire.extend_from_slice(&[rtype::SOA, class::IN].map(u16::to_be_bytes).concat());
        let ttl_offsets = u16::try_from(wire.len()).into_iter().collect();
        wire.extend_from_slice(&ttl.to_be_bytes());
        wire.extend_from_slice(&u16::try_from(soa.len()).unwrap_or(u16::MAX).to_be_bytes());
        wire.extend_from_slice(soa);
        Self::from_parts(wire, ttl_offsets, question_end, rcode, ResponseTtl::Uncacheable, None)
    }

    /// Makes the NXDOMAIN response for a name below the one that this response denies (NXDOMAIN cut, RFC 8020 §2), with
    /// the same SOA record, uncompressed. `None` when this response is not NXDOMAIN, has records in the answer section
    /// (a CNAME chain), or has no SOA record.
    #[must_use]
    pub fn nxdomain_for(&self, question: &Question) -> Option<Self> {
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
            self.wire.get(soa.data.end.checked_sub(SOA_NUMBERS_LEN)?..soa.data.end)?,
        ]
        .concat();
        let negative = Self::negative(question, rcode::NXDOMAIN, &self.owner(&soa)?, soa.ttl, &data);
        Some(Self { ttl: self.ttl, ede: self.ede, ..negative })
    }

    /// Assembles a response from a message whose records were validated before.
    pub(super) fn from_wire(
        wire: Vec<u8>,
        question_end: usize,
        rcode: u16,
        ede: Option<u16>,
    ) -> Result<Self, Malformed> {
        let header = Header::read(&wire).ok_or(Malformed)?;
        let mut records = ValidatedRecords::new(&wire, &header, question_end);
        for record in Records::new(&wire, &header, question_end) {
            records.add(&wire, &record?);
        }
        Self::from_validated(wire, records, question_end, rcode, ede)
    }

    fn from_validated(
        mut wire: Vec<u8>,
        records: ValidatedRecords,
        question_end: usize,
        rcode: u16,
        ede: Option<u16>,
    ) -> Result<Self, Malformed> {
        let ValidatedRecords { ttl_offsets, ttl_summary, may_hold_names, has_alias, is_valid, .. } = records;
        let header = Header::read(&wire).ok_or(Malformed)?;
        if !is_valid {
            return Err(Malformed);
        }
        // Nothing behind this hop takes a stale response for a fresh one.
        let is_stale = ede::is_stale(ede);
        let ttl = if is_stale { ResponseTtl::Uncacheable } else { ttl_summary.ttl(&header, rcode) };
        if is_stale || ttl_summary.has_excessive_ttl() {
            lower_ttls(&mut wire, &header, question_end, is_stale);
        }
        let question_end = u16::try_from(question_end).map_err(|_| Malformed)?;
        let response = Self::from_parts(wire, ttl_offsets, question_end, rcode, ttl, ede);
        Ok(Self { may_hold_names, has_alias, ..response })
    }

    /// Returns the offset behind the question section.
    #[must_use]
    pub const fn question_end(&self) -> u16 {
        self.question_end
    }

    /// Returns the name in the question, in wire format.
    #[must_use]
    pub fn question_name(&self) -> &[u8] {
        self.wire.get(Header::LENGTH..usize::from(self.question_end).saturating_sub(4)).unwrap_or_default()
    }

    /// Returns type and class in the question.
    #[must_use]
    pub fn question_type_and_class(&self) -> Option<(u16, u16)> {
        let end = usize::from(self.question_end);
        Some((u16_at(&self.wire, end.checked_sub(4)?)?, u16_at(&self.wire, end.checked_sub(2)?)?))
    }

    /// Returns the response in wire format, with ID 0.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Returns the offset of each record's TTL.
    #[must_use]
    pub fn ttl_offsets(&self) -> &[u16] {
        &self.ttl_offsets
    }

    /// Returns whether all records have the same TTL.
    #[must_use]
    pub fn has_uniform_ttl(&self) -> bool {
        let mut ttls = self.ttl_offsets.iter().map(|offset| u32_at(&self.wire, usize::from(*offset)));
        let first = ttls.next();
        ttls.all(|ttl| Some(ttl) == first)
    }

    /// Returns the rcode, with the upper bits that EDNS adds.
    #[must_use]
    pub const fn rcode(&self) -> u16 {
        self.rcode
    }

    /// Returns whether the response is a failure: neither NOERROR nor NXDOMAIN.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        rcode::is_failure(self.rcode)
    }

    /// Returns whether the response settles its question: neither a failure nor truncated.
    #[must_use]
    pub fn is_conclusive(&self) -> bool {
        !self.is_failure() && !self.is_truncated()
    }

    /// Returns what the response says about its server's support of EDNS.
    #[must_use]
    pub const fn edns_reply(&self) -> EdnsReply {
        self.edns_reply
    }

    /// Returns whether the response stands for an error that came without its question: whoever guessed ID and port may
    /// have sent it, so that it is not cached.
    #[must_use]
    pub const fn is_bare_error(&self) -> bool {
        self.is_bare_error
    }

    /// Returns how long the response may be cached.
    #[must_use]
    pub const fn ttl(&self) -> ResponseTtl {
        self.ttl
    }

    /// Returns the info-code of the upstream's Extended DNS Error.
    #[must_use]
    pub const fn ede(&self) -> Option<u16> {
        self.ede
    }

    /// Returns whether the upstream marks the response as stale (RFC 8767, RFC 8914 §4.4 and §4.20): it could not
    /// refresh it.
    #[must_use]
    pub const fn is_stale(&self) -> bool {
        ede::is_stale(self.ede)
    }

    /// Returns whether a resolver of this tier could send its upstreams no more packets. That says nothing about the
    /// name.
    #[must_use]
    pub fn is_budget_exhausted(&self) -> bool {
        self.is_failure() && self.ede == Some(ede::BUDGET_EXHAUSTED)
    }

    /// Returns whether a resolver of this tier says that its upstreams failed: a failure of the name, which another
    /// resolver with the same upstreams could only repeat.
    #[must_use]
    pub fn is_upstream_failure(&self) -> bool {
        self.is_failure() && self.ede == Some(ede::UPSTREAMS_FAILED)
    }

    /// Returns whether a resolver of this tier refuses the query for lack of room. That says nothing about the name.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        self.is_failure() && self.ede == Some(ede::OVERLOADED)
    }

    /// Returns whether a resolver of this tier has no answer yet, while its query goes on. A failure of now, and none
    /// to be cached.
    #[must_use]
    pub fn is_still_in_flight(&self) -> bool {
        self.is_failure() && self.ede == Some(ede::STILL_IN_FLIGHT)
    }

    /// Returns whether a resolver of this tier fails for a reason of this moment, which says nothing about the name and
    /// is not cached: no budget, no room, or a query that goes on.
    #[must_use]
    pub fn is_momentary_failure(&self) -> bool {
        self.is_budget_exhausted() || self.is_overload() || self.is_still_in_flight()
    }

    /// Returns whether a fallback of this tier denies the name or has no record of the type. Data from the upstreams
    /// are better, however old.
    #[must_use]
    pub fn is_denied_by_fallback(&self) -> bool {
        !self.is_failure() && self.ede == Some(ede::DENIED_BY_FALLBACK)
    }

    /// Marks a response of a fallback as [`Self::is_denied_by_fallback`] if it denies the name, an alias's target
    /// included, or has no record of the type.
    pub fn mark_denial_by_fallback(&mut self) {
        let has_record_of = |rtype: u16| {
            let mut records = self.records().into_iter();
            records.any(|record| record.section == Section::Answer && record.rtype == rtype)
        };
        let has_data = || self.question_type_and_class().is_some_and(|(rtype, _)| has_record_of(rtype));
        if self.is_conclusive() && !self.is_partial && (self.rcode == rcode::NXDOMAIN || !has_data()) {
            self.ede = Some(ede::DENIED_BY_FALLBACK);
        }
    }

    /// Returns the ID of the upstream that sent the response; 0 for none.
    #[must_use]
    pub const fn upstream_id(&self) -> u16 {
        self.upstream_id
    }

    /// Sets the ID of the upstream that sent the response.
    pub const fn set_upstream_id(&mut self, upstream_id: u16) {
        self.upstream_id = upstream_id;
    }

    /// Returns whether the answer section had an alias (CNAME) when the response arrived.
    #[must_use]
    pub const fn has_alias(&self) -> bool {
        self.has_alias
    }

    /// Returns whether the response is partial: it ends with an alias whose target other servers know
    /// ([`super::alias`]).
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Marks a response that consists of aliases as partial. It may be cached for the lowest TTL of its records.
    #[must_use]
    pub(crate) fn into_partial(mut self, upstream_id: u16) -> Self {
        let ttls = self.ttl_offsets.iter().filter_map(|offset| u32_at(&self.wire, usize::from(*offset)));
        self.ttl = match ttls.min() {
            Some(ttl @ 1..) if !self.is_stale() => ResponseTtl::Positive(ttl),
            _ => ResponseTtl::Uncacheable,
        };
        Self { is_partial: true, upstream_id, ..self }
    }

    /// Returns whether the response is truncated (TC).
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        Header::read(&self.wire).is_some_and(|header| header.has(flag::TC))
    }

    /// Marks the response as truncated (TC), and so as not to be cached.
    pub fn set_truncated(&mut self) {
        if let Some(mut header) = Header::read(&self.wire) {
            header.flags |= flag::TC;
            header.write(&mut self.wire);
        }
        self.ttl = ResponseTtl::Uncacheable;
    }

    /// Returns whether the answer section has any record, a CNAME record included.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        Header::read(&self.wire).is_some_and(|header| header.counts[1] > 0)
    }

    /// Returns whether two responses agree: they have the same rcode, and the same records in the answer section, in
    /// any order and with any TTLs.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.rcode == other.rcode && self.sorted_answers() == other.sorted_answers()
    }

    /// Returns type, class, owner name and data of each record in the answer section, in an order of their own.
    fn sorted_answers(&self) -> Vec<(u16, u16, Option<Name>, &[u8])> {
        let records = self.records().into_iter().filter(|record| record.section == Section::Answer);
        let data = |record: &Record| self.wire.get(record.data.clone()).unwrap_or_default();
        let parts = |record: Record| (record.rtype, record.class, self.owner(&record), data(&record));
        let mut answers: Vec<_> = records.map(parts).collect();
        answers.sort_unstable_by(|(rtype, _, _, data), (other_rtype, _, _, other_data)| {
            (rtype, data).cmp(&(other_rtype, other_data))
        });
        answers
    }

    /// Clears AD, which means nothing in the response of a server that we do not trust to validate.
    pub fn clear_authentic_data(&mut self) {
        self.wire[3] &= !u8::try_from(flag::AD).unwrap_or_default();
    }

    /// Replaces an Extended DNS Error between the processes of a tier by what others may know of it: a server outside
    /// the tier says nothing with it.
    pub fn clear_tier_error(&mut self) {
        self.ede = self.ede.and_then(ede::public);
    }

    /// Converts labels to lower case that repeat those of a question in random case (0x20), which belongs to one hop.
    /// `sent_name` is the name in the case in which it was sent. No length changes.
    pub fn restore_case(&mut self, sent_name: &[u8]) {
        if !self.may_hold_names {
            return;
        }
        for record in self.records() {
            // Layouts are known for class IN only.
            let name_in_data = match record.rtype {
                _ if record.class != class::IN => None,
                rtype::NS | rtype::CNAME | rtype::PTR | rtype::SOA => Some(record.data.start),
                rtype::MX => Some(record.data.start + 2),
                rtype::SRV => Some(record.data.start + 6),
                _ => None,
            };
            // The second name of an SOA record follows the first (RFC 1035 §3.3.13).
            let contact = name_in_data.filter(|_| record.rtype == rtype::SOA);
            let contact = contact.and_then(|first| Name::skip(&self.wire, first).ok());
            for start in [Some(record.start), name_in_data, contact].into_iter().flatten() {
                self.restore_case_at(start, sent_name);
            }
        }
    }

    /// Restores the case of one name's labels up to a pointer, which leads to a name that was restored before.
    fn restore_case_at(&mut self, start: usize, sent_name: &[u8]) {
        let mut offset = start;
        while let Some(length @ 1..=63) = self.wire.get(offset).map(|length| usize::from(*length)) {
            let Some(label) = self.wire.get_mut(offset..offset + 1 + length) else { return };
            if labels(sent_name).any(|sent| sent == label) {
                label.make_ascii_lowercase();
            }
            offset += 1 + length;
        }
    }

    /// Returns all records of the response.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let header = Header::read(&self.wire);
        let records = header.map(|header| Records::new(&self.wire, &header, usize::from(self.question_end)));
        records.into_iter().flatten().filter_map(Result::ok).collect()
    }

    /// Returns the owner name of a record of the response.
    #[must_use]
    pub fn owner(&self, record: &Record) -> Option<Name> {
        Name::read(&self.wire, record.start).ok()
    }
}

/// Returns the labels of an uncompressed name, each with its length octet.
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let length = usize::from(*rest.first().filter(|length| **length > 0)?);
        let (label, remainder) = rest.split_at_checked(1 + length)?;
        rest = remainder;
        Some(label)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question::plain(&Name::from_text("www.example").unwrap(), rtype::A)
    }

    /// Returns a response to [`question`] with ID 7.
    fn packet() -> Vec<u8> {
        let mut packet =
            Response::with_records(&question(), rcode::NOERROR, &[(rtype::A, 300, vec![192, 0, 2, 1])]).wire;
        put_u16(&mut packet, 0, 7);
        packet
    }

    fn error_after(change: impl FnOnce(&mut Vec<u8>)) -> Option<ResponseError> {
        let mut packet = packet();
        change(&mut packet);
        Response::read(&packet, 7, &question()).err()
    }

    #[test]
    fn a_response_with_another_id_or_question_is_a_near_miss_and_a_broken_one_is_not() {
        assert_eq!(error_after(|_| {}), None);
        for offset in [0, 1] {
            assert_eq!(error_after(|packet| packet[offset] ^= 1), Some(ResponseError::WrongId));
        }
        let question_end = Header::LENGTH + question().section().len();
        for offset in [5, 13, question_end - 3, question_end - 1] {
            assert_eq!(error_after(|packet| packet[offset] ^= 1), Some(ResponseError::WrongQuestion), "{offset}");
        }
        // The query itself, another opcode, fragments, nothing.
        for change in [
            (|packet| packet[2] ^= 0x80) as fn(&mut Vec<u8>),
            |packet| packet[2] ^= 0x28,
            |packet| packet.truncate(11),
            Vec::clear,
        ] {
            assert_eq!(error_after(change), Some(ResponseError::Malformed));
        }
        assert!(ResponseError::WrongId.is_near_miss() && ResponseError::WrongQuestion.is_near_miss());
        assert!(!ResponseError::Malformed.is_near_miss() && !ResponseError::Incomplete.is_near_miss());
    }

    #[test]
    fn an_error_without_its_question_is_one_of_the_server_and_no_answer_without_a_question_is() {
        let bare = |rcode: u8, counts: [u8; 4], behind: &[u8]| {
            let [questions, answers, authorities, additionals] = counts;
            let header = [0, 7, 0x80, rcode, 0, questions, 0, answers, 0, authorities, 0, additionals];
            Response::read(&[&header[..], behind].concat(), 7, &question()).err()
        };
        for rcode in [1, 2, 4, 5, 9] {
            let error = Some(ResponseError::BareError(rcode.into()));
            assert_eq!(bare(rcode, [0; 4], b""), error);
            assert_eq!(bare(rcode, [1, 0, 0, 1], b""), error, "the counts of the query");
            assert_eq!(bare(rcode, [0, 0, 0, 1], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]), error, "with OPT");
            assert_eq!(bare(rcode, [0, 1, 0, 0], b"\x00"), Some(ResponseError::WrongQuestion));
        }
        for rcode in [0, 3] {
            assert_eq!(bare(rcode, [0; 4], b""), Some(ResponseError::WrongQuestion));
        }
        let response = Response::bare_error(&question(), rcode::REFUSED);
        assert_eq!((response.rcode(), response.ede()), (rcode::SERVFAIL, Some(ede::NO_REACHABLE_AUTHORITY)));
        assert!(response.is_bare_error() && response.ttl() == ResponseTtl::Uncacheable);
    }

    /// Returns the rcode of a NOERROR response to [`question`] with these flags and authority records.
    fn rcode_with_authority(flags: u16, records: &[(&str, u16)]) -> u16 {
        let mut packet = Response::empty(&question(), rcode::NOERROR).wire;
        put_u16(&mut packet, 2, flag::QR | flags);
        put_u16(&mut packet, 8, u16::try_from(records.len()).unwrap());
        for (owner, rtype) in records {
            packet.extend_from_slice(Name::from_text(owner).unwrap().as_bytes());
            packet.extend_from_slice(&[*rtype, class::IN, 0, 300].map(u16::to_be_bytes).concat());
            let data =
                if *rtype == rtype::SOA { [&b"\x00\x00"[..], &[0; 20]].concat() } else { b"\x02ns\x00".to_vec() };
            put_data(&mut packet, &data);
        }
        Response::read(&packet, 0, &question()).unwrap().rcode()
    }

    fn put_data(packet: &mut Vec<u8>, data: &[u8]) {
        packet.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        packet.extend_from_slice(data);
    }

    #[test]
    fn a_referral_of_a_server_without_recursion_is_a_failure_and_no_denial_is_one() {
        for zone in [".", "com", "example", "other.example", "www.example"] {
            assert_eq!(rcode_with_authority(0, &[(zone, rtype::NS)]), rcode::SERVFAIL, "{zone}");
            assert_eq!(rcode_with_authority(0, &[(zone, rtype::NS), (zone, rtype::SOA)]), rcode::NOERROR, "{zone}");
            for flags in [flag::RA, flag::AA, flag::TC] {
                assert_eq!(rcode_with_authority(flags, &[(zone, rtype::NS)]), rcode::NOERROR, "{zone}");
            }
        }
        assert_eq!(rcode_with_authority(0, &[("example", rtype::SOA)]), rcode::NOERROR);
        assert_eq!(rcode_with_authority(0, &[]), rcode::NOERROR);
    }

    #[test]
    fn an_error_tells_whether_edns_may_be_its_reason() {
        let reply = |code, has_opt| EdnsReply::new(code, has_opt);
        for code in [rcode::FORMERR, rcode::BADVERS] {
            assert_eq!([reply(code, true), reply(code, false)], [EdnsReply::Rejected; 2]);
        }
        assert_eq!(reply(rcode::NOTIMP, false), EdnsReply::Rejected);
        for code in [rcode::SERVFAIL, rcode::REFUSED, 9] {
            assert_eq!(reply(code, false), EdnsReply::Suspect);
        }
        for code in [rcode::NOERROR, rcode::NXDOMAIN] {
            assert_eq!(reply(code, false), EdnsReply::Absent);
        }
        for code in [rcode::NOERROR, rcode::SERVFAIL, rcode::NOTIMP, rcode::REFUSED] {
            assert_eq!(reply(code, true), EdnsReply::Supported);
        }
    }

    #[test]
    fn responses_agree_in_any_order_of_their_records_and_with_any_ttl() {
        let response = |rcode, addresses: &[u8], ttl| {
            let records: Vec<_> = addresses.iter().map(|last| (rtype::A, ttl, vec![192, 0, 2, *last])).collect();
            Response::with_records(&question(), rcode, &records)
        };
        let one = response(rcode::NOERROR, &[1, 2], 300);
        assert!(one.agrees_with(&response(rcode::NOERROR, &[2, 1], 17)));
        assert!(!one.agrees_with(&response(rcode::NOERROR, &[1], 300)));
        assert!(!one.agrees_with(&response(rcode::NOERROR, &[1, 3], 300)));
        assert!(!response(rcode::NOERROR, &[], 300).agrees_with(&response(rcode::NXDOMAIN, &[], 300)));
    }
}

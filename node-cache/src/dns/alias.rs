//! Aliases that lead out of a scope (RFC 1034 §5.3.3, step 4): the part of a response up to such an alias, the name at
//! which the chain goes on, and the response that joins two parts.

use super::answer::TtlView;
use super::codes::{class, rcode, rtype};
use super::compress::compress;
use super::name::Name;
use super::owner_filter::write_decompressed;
use super::{Header, MAX_MESSAGE_LEN, Record, Response, Section, flag, put_u16, u16_at};

/// The maximum number of aliases that are followed in one response.
const MAX_ALIASES: usize = 16;

/// Returns the part of a response up to the first alias for whose target `leaves` is true, as a partial response: the
/// aliases of the question's name, with their signatures and the DNAME records that they are made of. What the response
/// says about the target is left out. `leaves` gets the target in lower case, and whether the response has data for it.
/// `None` when there is no such alias.
#[must_use]
pub fn split(response: &Response, leaves: impl Fn(&Name, bool) -> bool) -> Option<Response> {
    if !response.has_alias() || response.is_failure() || !leads_on(response) {
        return None;
    }
    let chain = Chain::read(response);
    let has_data = response.rcode() == rcode::NOERROR
        && chain
            .answers
            .iter()
            .any(|answer| Some((answer.record.rtype, class::IN)) == response.question_type_and_class());
    let leaving = chain.links.iter().position(|link| leaves(&link.target, has_data))?;
    let links = chain.links.get(..=leaving)?;
    let owners = || std::iter::once(&chain.name).chain(links.iter().take(leaving).map(|link| &link.target));
    let is_made_of = |zone: &Name| owners().any(|owner| owner != zone && owner.is_within(zone));
    let wire = response.wire();
    let is_kept = |index: usize, Answer { record, owner }: &Answer| match record.rtype {
        rtype::CNAME => links.iter().any(|link| link.answer == index),
        rtype::DNAME => is_made_of(owner),
        rtype::RRSIG => match u16_at(wire, record.data.start) {
            Some(rtype::CNAME) => owners().any(|name| name == owner),
            Some(rtype::DNAME) => is_made_of(owner),
            _ => false,
        },
        _ => false,
    };
    let kept: Vec<&Record> = chain
        .answers
        .iter()
        .enumerate()
        .filter(|(index, answer)| is_kept(*index, answer))
        .map(|(_, answer)| &answer.record)
        .collect();
    let header = Header::read(wire)?;
    let mut message = Joined::new(response, (header.flags & !RCODE_BITS) | rcode::NOERROR);
    kept.iter().try_for_each(|record| message.push(wire, record, TtlView::Original))?;
    let part = message.into_response(rcode::NOERROR, response.ede())?;
    Some(part.into_partial(response.upstream_id()))
}

/// Returns the name at which a partial response goes on, in lower case; `None` for a complete one.
#[must_use]
pub fn continuation(response: &Response) -> Option<Name> {
    if !response.is_partial() {
        return None;
    }
    Chain::read(response).links.pop().map(|link| link.target)
}

/// Joins a partial response and the response for the name at which it goes on, each with its view of TTLs. The result
/// has the question of the first one, the rcode and the authority section of the second one, and AD only if both have
/// it. It is partial if the second one is. `None` when it would be too long.
#[must_use]
pub fn join((first, first_ttls): (&Response, TtlView), (rest, rest_ttls): (&Response, TtlView)) -> Option<Response> {
    let [first_flags, rest_flags] = [Header::read(first.wire())?.flags, Header::read(rest.wire())?.flags];
    let shared = first_flags & rest_flags & (flag::AD | flag::AA);
    let flags = (first_flags & !(flag::AD | flag::AA | RCODE_BITS)) | shared | (rest.rcode() & RCODE_BITS);
    let mut message = Joined::new(first, flags);
    for (response, ttls) in [(first, first_ttls), (rest, rest_ttls)] {
        for record in response.records() {
            let is_kept = match record.section {
                Section::Answer => true,
                Section::Authority => std::ptr::eq(response, rest),
                Section::Additional => false,
            };
            // Names in data of other classes are not validated.
            if is_kept && record.class == class::IN {
                message.push(response.wire(), &record, ttls)?;
            }
        }
    }
    let joined = message.into_response(rest.rcode(), None)?;
    Some(if rest.is_partial() { joined.into_partial(rest.upstream_id()) } else { joined })
}

const RCODE_BITS: u16 = 0x000f;

/// Returns whether an alias is not itself what the question of a response asks for.
fn leads_on(response: &Response) -> bool {
    let question = response.question_type_and_class();
    question.is_some_and(|(qtype, qclass)| qtype != rtype::CNAME && qclass == class::IN)
}

/// A record of class IN of the answer section with its owner, in lower case.
struct Answer {
    record: Record,
    owner: Name,
}

/// An alias that the chain follows.
struct Link {
    /// Position of its record in the answer section.
    answer: usize,
    /// Target, in lower case.
    target: Name,
}

/// The chain of aliases from the name of the question on, each name once.
struct Chain {
    name: Name,
    answers: Vec<Answer>,
    links: Vec<Link>,
}

impl Chain {
    fn read(response: &Response) -> Self {
        let wire = response.wire();
        let records = response.records().into_iter().take_while(|record| record.section == Section::Answer);
        let answers: Vec<_> = records
            .filter(|record| record.class == class::IN)
            .filter_map(|record| Some(Answer { owner: Name::read(wire, record.start).ok()?.lower(), record }))
            .collect();
        let name = Name::read(wire, Header::LENGTH).map_or_else(|_| Name::root(), |name| name.lower());
        let mut links: Vec<Link> = Vec::new();
        while links.len() < MAX_ALIASES {
            let current = links.last().map_or(&name, |link| &link.target);
            let alias =
                answers.iter().position(|Answer { record, owner }| record.rtype == rtype::CNAME && owner == current);
            let record = alias.and_then(|answer| Some((answer, &answers.get(answer)?.record)));
            let Some((answer, record)) = record else { break };
            let Ok(target) = Name::read(wire, record.data.start) else { break };
            let target = target.lower();
            if target == name || links.iter().any(|link| link.target == target) {
                break;
            }
            links.push(Link { answer, target });
        }
        Self { name, answers, links }
    }
}

/// A message that is put together from records of others, their names written out.
struct Joined {
    wire: Vec<u8>,
    question_end: usize,
    counts: [u16; 3],
}

impl Joined {
    /// Begins a message with the question of a response.
    fn new(response: &Response, flags: u16) -> Self {
        let question_end = usize::from(response.question_end());
        let mut wire = response.wire().get(..question_end).unwrap_or_default().to_vec();
        Header { id: 0, flags, counts: [1, 0, 0, 0] }.write(&mut wire);
        Self { wire, question_end, counts: [0; 3] }
    }

    /// Appends a record of another message; `None` when the message gets too long. Sections must come in order.
    fn push(&mut self, source: &[u8], record: &Record, ttls: TtlView) -> Option<()> {
        let ttl_offset = self.wire.len() + Name::read(source, record.start).ok()?.as_bytes().len() + 4;
        write_decompressed(source, record, &mut self.wire).ok()?;
        self.wire.get_mut(ttl_offset..ttl_offset + 4)?.copy_from_slice(&ttls.apply(record.ttl).to_be_bytes());
        let count = match record.section {
            Section::Answer => 0,
            Section::Authority => 1,
            Section::Additional => 2,
        };
        *self.counts.get_mut(count)? += 1;
        (self.wire.len() <= MAX_MESSAGE_LEN).then_some(())
    }

    fn into_response(mut self, rcode: u16, ede: Option<u16>) -> Option<Response> {
        self.counts.iter().enumerate().for_each(|(index, count)| put_u16(&mut self.wire, 6 + 2 * index, *count));
        let wire = compress(&self.wire, self.question_end).unwrap_or(self.wire);
        Response::from_wire(wire, self.question_end, rcode, ede).ok()
    }
}

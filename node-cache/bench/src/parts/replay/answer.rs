//! Judgement of a response: the right answer is known by rule, without a query.

use crate::parts::traces::mail;
use crate::servers::upstream::Answer;

const HEADER: usize = 12;
const A: u16 = 1;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const NXDOMAIN: u8 = 3;
const TRUNCATED: u8 = 0x02;
/// Option of OPT with an Extended DNS Error (RFC 8914), and its codes "Stale Answer" and "Stale NXDOMAIN Answer".
const EXTENDED_ERROR: u16 = 15;
const STALE_CODES: [u16; 2] = [3, 19];
/// TTL with which a cast marks stale answers where its program sends no Extended DNS Errors; longer than any TTL of the
/// world.
pub(super) const STALE_TTL: u32 = 61;

/// Suffix of the domains of the world, in wire form.
const DOMAIN_SUFFIX: &[u8] = b"\x07example";
/// Beginning of the label of a domain.
const DOMAIN_LABEL: &[u8] = b"\x0cdomain";
/// One of this many domains is delegated to an address that answers nothing.
const DEAD_DOMAINS: u64 = 10;

/// Content of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Right,
    Stale,
    Wrong,
    /// SERVFAIL, or another code that is no answer.
    Failure,
}

/// Returns the offset in a name of its domain where that is one that nobody answers for. The name is in wire form and
/// lower case, without its final zero.
pub(super) fn dead_domain(name: &[u8]) -> Option<usize> {
    let offset = name.len().checked_sub(DOMAIN_SUFFIX.len() + 1 + usize::from(DOMAIN_LABEL[0]))?;
    let domain = &name[offset..];
    let is_domain = domain.starts_with(DOMAIN_LABEL) && domain.ends_with(DOMAIN_SUFFIX);
    let number = domain.get(DOMAIN_LABEL.len()..DOMAIN_LABEL.len() + 6)?;
    let number = std::str::from_utf8(number).ok()?.parse::<u64>().ok()?;
    // The most popular domain, of rank 0, answers.
    (is_domain && number % DEAD_DOMAINS == DEAD_DOMAINS - 1).then_some(offset)
}

/// Judges the response to a question, whose name is in wire form and lower case, without its final zero.
pub(super) fn judge(response: &[u8], name: &[u8], rtype: u16) -> Content {
    read(response, name, rtype).unwrap_or(Content::Wrong)
}

fn read(response: &[u8], name: &[u8], rtype: u16) -> Option<Content> {
    let rcode = *response.get(3)? & 0xf;
    if !matches!(rcode, 0 | NXDOMAIN) {
        return Some(Content::Failure);
    }
    let question = response.get(HEADER..HEADER + name.len())?;
    if !question.eq_ignore_ascii_case(name) || response[2] & TRUNCATED != 0 {
        return Some(Content::Wrong);
    }
    let expected = mail::answer(name, rtype);
    let answers = u16::from_be_bytes([response[6], response[7]]);
    let all =
        answers + u16::from_be_bytes([response[8], response[9]]) + u16::from_be_bytes([response[10], response[11]]);
    let wanted = wanted_records(expected);
    if rcode != wanted.0 || answers != u16::from(wanted.1) {
        return Some(Content::Wrong);
    }
    let mut offset = HEADER + name.len() + 5;
    let mut is_stale = false;
    for number in 0..all {
        let record = Record::read(response, offset)?;
        if number < answers && !is_right_record(&record, expected, rtype) {
            return Some(Content::Wrong);
        }
        is_stale |= number < answers && record.ttl == STALE_TTL;
        is_stale |= record.rtype == OPT && has_stale_error(record.data);
        offset = record.end;
    }
    Some(if is_stale { Content::Stale } else { Content::Right })
}

/// Returns the code and the number of answer records.
fn wanted_records(answer: Answer) -> (u8, u8) {
    match answer {
        Answer::Addresses(count, _) | Answer::MailHosts(count, _) => (0, count),
        Answer::HostName(_) | Answer::Text(..) => (0, 1),
        Answer::NoData(..) => (0, 0),
        Answer::NxDomain(..) => (NXDOMAIN, 0),
    }
}

/// Returns whether a record is one of the answer. Names in data may be compressed: of them the type counts alone.
fn is_right_record(record: &Record<'_>, answer: Answer, rtype: u16) -> bool {
    record.rtype == rtype
        && match (answer, rtype) {
            (Answer::Addresses(1, _), A) => *record.data == [203, 0, 113, 0],
            (Answer::Addresses(1, _), AAAA) => {
                record.data.len() == 16 && record.data.starts_with(&[0x20, 1, 0xd, 0xb8])
            }
            (Answer::Text(length, _), TXT) => record.data.first() == Some(&length),
            (Answer::MailHosts(..), MX) | (Answer::HostName(_), PTR) => !record.data.is_empty(),
            _ => false,
        }
}

fn has_stale_error(mut options: &[u8]) -> bool {
    while let [code_high, code_low, length_high, length_low, rest @ ..] = options {
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
        let Some((option, others)) = rest.split_at_checked(length) else { return false };
        if u16::from_be_bytes([*code_high, *code_low]) == EXTENDED_ERROR && option.len() >= 2 {
            return STALE_CODES.contains(&u16::from_be_bytes([option[0], option[1]]));
        }
        options = others;
    }
    false
}

/// Resource record of a message.
struct Record<'a> {
    rtype: u16,
    ttl: u32,
    data: &'a [u8],
    end: usize,
}

impl<'a> Record<'a> {
    fn read(message: &'a [u8], offset: usize) -> Option<Self> {
        let fields = name_end(message, offset)?;
        let fixed: &[u8; 10] = message.get(fields..fields + 10)?.try_into().ok()?;
        let end = fields + 10 + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        Some(Self {
            rtype: u16::from_be_bytes([fixed[0], fixed[1]]),
            ttl: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            data: message.get(fields + 10..end)?,
            end,
        })
    }
}

/// Returns the offset behind a name.
fn name_end(message: &[u8], mut offset: usize) -> Option<usize> {
    loop {
        match *message.get(offset)? {
            0 => return Some(offset + 1),
            length if length < 64 => offset += 1 + usize::from(length),
            _ => return Some(offset + 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, STALE_TTL, TXT, dead_domain, judge};
    use crate::load::queries;
    use crate::parts::traces::mail;
    use crate::servers::upstream::write_response;

    const LISTED: &[u8] = b"\x011\x012\x013\x0220\x0blist3-dnsbl\x07example";
    const DOMAIN: &[u8] = b"\x0cdomain000007\x07example";

    fn response(name: &[u8], rtype: u16) -> Vec<u8> {
        let (mut query, mut response) = (Vec::new(), Vec::new());
        queries::append(name, rtype, &mut query);
        assert!(write_response(&query, mail::answer, &mut response));
        response
    }

    #[test]
    fn what_the_world_says_is_right_and_anything_else_is_wrong() {
        for (name, rtype) in [(LISTED, 1), (DOMAIN, TXT), (DOMAIN, 15), (DOMAIN, 28)] {
            let mut response = response(name, rtype);
            assert_eq!(judge(&response, name, rtype), Content::Right, "{rtype}");
            response[3] ^= 3;
            assert_eq!(judge(&response, name, rtype), Content::Wrong, "another code for {rtype}");
            response[3] = 2;
            assert_eq!(judge(&response, name, rtype), Content::Failure, "{rtype}");
        }
        let text = response(DOMAIN, TXT);
        assert_eq!(judge(&text[..text.len() - 1], DOMAIN, TXT), Content::Wrong, "broken off");
    }

    #[test]
    fn stale_answers_are_told_by_their_error_or_by_their_ttl() {
        let mut response = response(DOMAIN, TXT);
        let ttl = 12 + DOMAIN.len() + 5 + 6;
        response[ttl..ttl + 4].copy_from_slice(&STALE_TTL.to_be_bytes());
        assert_eq!(judge(&response, DOMAIN, TXT), Content::Stale);
        response[ttl..ttl + 4].copy_from_slice(&7_u32.to_be_bytes());
        response[11] = 1;
        response.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 15, 0, 2, 0, 3]);
        assert_eq!(judge(&response, DOMAIN, TXT), Content::Stale);
        *response.last_mut().unwrap() = 22;
        assert_eq!(judge(&response, DOMAIN, TXT), Content::Right);
    }

    #[test]
    fn a_tenth_of_the_domains_is_dead_with_all_names_below_them() {
        let name = |number: usize| format!("\x0cdomain{number:06}\x07example").into_bytes();
        assert_eq!((0..1000).filter(|number| dead_domain(&name(*number)).is_some()).count(), 100);
        assert_eq!(dead_domain(&[b"\x06_dmarc", &name(19)[..]].concat()), Some(7));
        assert_eq!((dead_domain(&name(0)), dead_domain(LISTED), dead_domain(b"\x07example")), (None, None, None));
    }
}

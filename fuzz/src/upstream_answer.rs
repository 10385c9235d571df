//! Packets from an upstream. Whatever is taken for a response is passed on as it was received, but for TTLs, ID, case
//! and OPT, completely or up to the end of a record. What breaks off is read up to there, as truncated; a referral of a
//! server that does not recurse is a failure.

use std::time::Duration;

use node_cache::dns::answer::{Answer, TtlView};
use node_cache::dns::query::Query;
use node_cache::dns::question::Question;
use node_cache::dns::{Edns, Name, Response, ResponseError, ResponseTtl};

use crate::message::{OPT, ReadRecord, comparable_records, records, sent_records, u16_at};

const TCP: Duration = Duration::from_secs(10);
/// Types whose data hold no names (A, AAAA, TXT): behind OPT only records of these are passed on.
const TYPES_WITHOUT_NAMES: [u16; 3] = [1, 28, 16];

/// Takes a packet for the response to the question that it repeats.
pub fn run(packet: &[u8]) {
    let Some(id) = u16_at(packet, 0) else { return };
    let question =
        repeated_question(packet).unwrap_or_else(|| Question::plain(&Name::from_text("www.example").unwrap(), 1));
    let response = match Response::read(packet, id, &question) {
        Ok(response) => response,
        Err(ResponseError::Incomplete) => return assert_incomplete(packet, id, &question),
        Err(_) => return,
    };
    assert!(Response::read(packet, !id, &question).is_err(), "with another ID");
    let other = Question { rtype: !question.rtype, ..question.clone() };
    assert!(Response::read(packet, id, &other).is_err(), "to another question");
    let (received, is_complete) = records(packet);
    if is_referral(packet, &received) {
        assert!(response.rcode() == 2 && response.ede() == Some(22) && response.records().is_empty());
        return assert_eq!(response.ttl(), ResponseTtl::Uncacheable);
    }
    let PassedOn { records, is_all } = passed_on(&received);
    let Some(mut records) = without_unrelated(records, &question) else { return };
    records.iter_mut().for_each(|record| record.ttl = lowered_ttl(record, response.ede()));
    // What is not passed on is not validated either.
    assert!(is_complete || !is_all, "a truncated packet is taken for a response");
    assert_sent(&response, &question, &records);
    assert_lifetime(&response, &records);
    assert_rewritten(response, packet, &records);
}

/// Asserts that a packet which breaks off is never cached, and that its whole records are what is left of it.
fn assert_incomplete(packet: &[u8], id: u16, question: &Question) {
    let (received, is_complete) = records(packet);
    assert!(!is_complete, "all records are there");
    let Ok(response) = Response::read_incomplete(packet, id, question) else { return };
    assert!(response.is_truncated() && !response.is_conclusive());
    assert_eq!(response.ttl(), ResponseTtl::Uncacheable);
    assert!(response.records().len() <= received.len());
}

/// Returns whether a packet is a referral of a server that does not recurse: NOERROR without AA, TC, RA and answers,
/// with NS records and no SOA record in the authority section.
fn is_referral(packet: &[u8], received: &[ReadRecord]) -> bool {
    let has = |section, rtype| received.iter().any(|record| (record.section, record.rtype) == (section, rtype));
    let extended_rcode = received.iter().find(|record| record.rtype == OPT).map_or(0, |opt| opt.ttl >> 24);
    let is_plain = packet[2] & 0x06 == 0 && packet[3] & 0x8f == 0 && extended_rcode == 0;
    is_plain && u16_at(packet, 6) == Some(0) && has(1, 2) && !has(1, 6)
}

/// Returns the question of a packet, whatever else the packet is.
pub(crate) fn repeated_question(packet: &[u8]) -> Option<Question> {
    let (name, end) = Name::read_uncompressed(packet, 12).ok()?;
    let question = Question::plain(&name, u16_at(packet, end)?);
    Some(Question { class: u16_at(packet, end + 2)?, ..question })
}

/// Records that are passed on to clients.
struct PassedOn {
    records: Vec<ReadRecord>,
    /// Whether these are all records but OPT.
    is_all: bool,
}

/// Returns the records that are passed on: all before OPT, and behind it those without names, up to the first other
/// one.
fn passed_on(received: &[ReadRecord]) -> PassedOn {
    let before = received.iter().position(|record| record.rtype == OPT).unwrap_or(received.len());
    let behind = received.get(before + 1..).unwrap_or_default();
    let without_names = behind.iter().take_while(|record| TYPES_WITHOUT_NAMES.contains(&record.rtype));
    let records: Vec<_> = received[..before].iter().chain(without_names).cloned().collect();
    let is_all = records.len() == before + behind.len();
    PassedOn { records, is_all }
}

/// Returns the records without answers of names that the question does not lead to; `None` when it leads to more names
/// than are followed.
fn without_unrelated(records: Vec<ReadRecord>, question: &Question) -> Option<Vec<ReadRecord>> {
    const MAX_NAMES: usize = 128;
    let mut names = vec![question.name.as_bytes().to_vec()];
    let mut related: Vec<bool> = records.iter().map(|record| record.section != 0).collect();
    let mut next = 0;
    while let Some(name) = names.get(next).cloned() {
        next += 1;
        let suffixes = Name::read_uncompressed(&name, 0).unwrap().0;
        for (depth, suffix) in suffixes.suffixes().enumerate() {
            let is_owner =
                |record: &ReadRecord| record.section == 0 && record.followed_owner.as_deref() == Some(suffix);
            let is_alias = |record: &ReadRecord, rtype: u16| {
                is_owner(record) && (record.rtype, record.class) == (rtype, question.class)
            };
            let dname = records.iter().find(|record| is_alias(record, 39) && record.followed_target.is_some());
            let targets: Vec<Vec<u8>> = match (depth, dname) {
                (0, _) => {
                    let aliases = records.iter().filter(|record| is_alias(record, 5));
                    aliases.filter_map(|record| record.followed_target.clone()).collect()
                }
                (_, Some(dname)) => {
                    vec![[&name[..name.len() - suffix.len()], dname.followed_target.as_ref().unwrap()].concat()]
                }
                (_, None) => continue,
            };
            for (record, is_related) in records.iter().zip(&mut related) {
                *is_related |= is_owner(record);
            }
            for target in targets {
                if target.len() <= 255 && !names.contains(&target) {
                    names.push(target);
                }
            }
        }
        if names.len() > MAX_NAMES {
            return None;
        }
    }
    if related.iter().all(|is_related| *is_related) {
        return Some(records);
    }
    let kept = records.into_iter().zip(related).filter(|(_, is_related)| *is_related);
    Some(kept.map(|(record, _)| record.written_out()).collect())
}

/// Returns the TTL that is passed on for a received one: 0 for 2³¹ and more, also for an SOA record with such a
/// MINIMUM, and at most 30 in a response that is marked as stale.
fn lowered_ttl(record: &ReadRecord, ede: Option<u16>) -> u32 {
    let is_soa = (record.section, record.rtype, record.class) == (1, 6, 1);
    let is_excessive = |ttl: u32| ttl >> 31 == 1;
    if is_excessive(record.ttl) || (is_soa && record.octets[record.octets.len() - 4] >> 7 == 1) {
        return 0;
    }
    if matches!(ede, Some(3 | 19)) { record.ttl.min(30) } else { record.ttl }
}

/// Asserts that a response has the received records, over TCP all of them, over UDP as many as fit.
fn assert_sent(response: &Response, question: &Question, received: &[ReadRecord]) {
    let upper = Name::read_uncompressed(&question.name.as_bytes().to_ascii_uppercase(), 0).unwrap().0;
    let plain = Query { id: 9, class: question.class, ..Query::plain(upper, question.rtype) };
    let with_edns = Query { edns: Some(Edns { udp_size: 800, ..Edns::default() }), ..plain.clone() };
    for query in [plain, with_edns] {
        for age in [TtlView::Original, TtlView::Cached { age: 100, cap: 3600 }, TtlView::Stale] {
            let answer = Answer { ttl_view: age, ..Answer::local(response.clone(), Some(3)) };
            let complete = answer.to_tcp_wire(&query, TCP);
            let aged = |record: &ReadRecord| ReadRecord { ttl: age.apply(record.ttl), ..record.clone() };
            let expected: Vec<_> = received.iter().map(aged).collect();
            let sent = comparable_records(&complete, &expected);
            assert_eq!(sent, expected);
            let truncated = answer.to_udp_wire(&query);
            assert!(truncated.len() <= if query.edns.is_some() { 800 } else { 512 });
            let sent_truncated = comparable_records(&truncated, &expected);
            assert_eq!(sent_truncated, sent[..sent_truncated.len()]);
            let missing = &sent[sent_truncated.len()..];
            let is_tc_due = missing.iter().any(|record| record.section < 2);
            assert!(!is_tc_due || truncated[2] & 0x02 != 0, "TC");
            assert_eq!(complete[2] & 0x06, response.wire()[2] & 0x06, "AA and TC");
            assert!(complete[3] & 0x80 != 0 && complete[2] & 0x80 != 0, "RA and QR");
            assert_eq!(complete[..2], [0, 9]);
            assert!(complete[12..].starts_with(query.name.as_bytes()));
        }
    }
}

/// Asserts that a response is cached no longer than its shortest TTL, and not at all when one counts as zero or the
/// response is stale.
fn assert_lifetime(response: &Response, received: &[ReadRecord]) {
    let shortest = received.iter().map(|record| record.ttl).min();
    match response.ttl() {
        _ if response.is_stale() => assert_eq!(response.ttl(), ResponseTtl::Uncacheable),
        ResponseTtl::Positive(ttl) => assert_eq!(Some(ttl), shortest.filter(|shortest| *shortest > 0)),
        ResponseTtl::Negative(ttl) => assert!(ttl > 0 && shortest.is_some_and(|shortest| ttl <= shortest)),
        ResponseTtl::Uncacheable => {}
    }
    assert_eq!(response.ttl_offsets().len(), received.len());
}

/// Asserts that rewriting a response before it is cached changes nothing but what it should.
fn assert_rewritten(mut response: Response, packet: &[u8], received: &[ReadRecord]) {
    let (question_name, _) = Name::read_uncompressed(response.wire(), 12).unwrap();
    let descendant = Question::plain(&Name::from_text("a.b.example").unwrap(), 28);
    if let Some(denial) = response.nxdomain_for(&descendant) {
        assert_eq!((denial.rcode(), denial.ttl()), (3, response.ttl()));
        assert_eq!(sent_records(denial.wire()).len(), 1);
    }
    response.restore_case(&packet[12..12 + question_name.as_bytes().len() - 1]);
    response.clear_authentic_data();
    assert!(response.wire()[3] & 0x20 == 0);
    let lower_case = |record: &ReadRecord| ReadRecord { data: record.data.to_ascii_lowercase(), ..record.clone() };
    let lower = |records: &[ReadRecord]| records.iter().map(lower_case).collect::<Vec<_>>();
    assert_eq!(lower(&comparable_records(response.wire(), received)), lower(received));
}

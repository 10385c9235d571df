//! What another server sends. Whatever is taken for an answer is said as it was told, but for TTLs, number, case and
//! OPT, in whole or up to the end of a record.

use std::time::Duration;

use node_cache::dns::answer::{Answer, ReplyTransport, TtlView};
use node_cache::dns::query::Query;
use node_cache::dns::question::Question;
use node_cache::dns::{Edns, Name, Response, ResponseTtl};

use crate::message::{OPT, Told, records, said, said_of, u16_at};

const TCP: ReplyTransport = ReplyTransport::Tcp { idle: Duration::from_secs(10) };
/// Types whose data hold no names: behind OPT only they are passed on.
const WITHOUT_NAMES: [u16; 3] = [1, 28, 16];

/// Takes a packet for the answer to the question that it repeats.
pub fn run(packet: &[u8]) {
    let Some(id) = u16_at(packet, 0) else { return };
    let question = repeated(packet).unwrap_or_else(|| Question::plain(&Name::from_text("www.example").unwrap(), 1));
    let Ok(response) = Response::read(packet, id, &question) else { return };
    assert!(Response::read(packet, !id, &question).is_err(), "under another number");
    let other = Question { rtype: !question.rtype, ..question.clone() };
    assert!(Response::read(packet, id, &other).is_err(), "to another question");
    let (told, is_whole) = records(packet);
    let (told, is_all_passed_on) = passed_on(&told);
    // Nobody looks at what is left out anyway.
    assert!(is_whole || !is_all_passed_on, "what is believed breaks off");
    assert_said(&response, &question, &told);
    assert_lifetime(&response, &told);
    changed(response, packet, &told);
}

/// The question of a packet, whatever else it is.
fn repeated(packet: &[u8]) -> Option<Question> {
    let (name, end) = Name::read_plain(packet, 12).ok()?;
    let question = Question::plain(&name, u16_at(packet, end)?);
    Some(Question { class: u16_at(packet, end + 2)?, ..question })
}

/// What is passed on: everything before OPT, and behind it what can be; whether that is all but OPT.
fn passed_on(told: &[Told]) -> (Vec<Told>, bool) {
    let before = told.iter().position(|record| record.rtype == OPT).unwrap_or(told.len());
    let behind = told.get(before + 1..).unwrap_or_default();
    let without_names = behind.iter().take_while(|record| WITHOUT_NAMES.contains(&record.rtype));
    let passed_on: Vec<_> = told[..before].iter().chain(without_names).cloned().collect();
    let is_all = passed_on.len() == before + behind.len();
    (passed_on, is_all)
}

fn assert_said(response: &Response, question: &Question, told: &[Told]) {
    let upper = Name::read_plain(&question.name.as_bytes().to_ascii_uppercase(), 0).unwrap().0;
    let plain = Query { id: 9, class: question.class, ..Query::plain(upper, question.rtype) };
    let with_edns = Query { edns: Some(Edns { udp_size: 800, ..Edns::default() }), ..plain.clone() };
    for query in [plain, with_edns] {
        for age in [TtlView::Original, TtlView::Cached { age: 100, cap: 3600 }, TtlView::Stale] {
            let answer = Answer { age, ..Answer::local(response.clone(), Some(3)) };
            let whole = answer.to_wire(&query, TCP);
            let shown = |told: &Told| Told { ttl: age.shown(told.ttl), ..told.clone() };
            let expected: Vec<_> = told.iter().map(shown).collect();
            let said_whole = said_of(&whole, &expected);
            assert_eq!(said_whole, expected);
            let cut = answer.to_wire(&query, ReplyTransport::Udp);
            assert!(cut.len() <= if query.edns.is_some() { 800 } else { 512 });
            let said_cut = said_of(&cut, &expected);
            assert_eq!(said_cut, said_whole[..said_cut.len()]);
            let missing = &said_whole[said_cut.len()..];
            let cut_off = missing.iter().any(|record| record.section < 2);
            assert!(!cut_off || cut[2] & 0x02 != 0, "TC");
            assert_eq!(whole[2] & 0x06, response.wire()[2] & 0x06, "AA and TC");
            assert!(whole[3] & 0x80 != 0 && whole[2] & 0x80 != 0, "RA and QR");
            assert_eq!(whole[..2], [0, 9]);
            assert!(whole[12..].starts_with(query.name.as_bytes()));
        }
    }
}

/// It is kept no longer than its shortest TTL, and not at all when one counts as zero.
fn assert_lifetime(response: &Response, told: &[Told]) {
    let shortest = told.iter().map(|record| if record.ttl > 0x7fff_ffff { 0 } else { record.ttl }).min();
    match response.lifetime() {
        ResponseTtl::Positive(life) => assert_eq!(Some(life), shortest.filter(|shortest| *shortest > 0)),
        ResponseTtl::Negative(life) => assert!(life > 0 && shortest.is_some_and(|shortest| life <= shortest)),
        ResponseTtl::Uncacheable => {}
    }
    assert_eq!(response.ttl_offsets().len(), told.len());
}

/// What is done with an answer before it is kept changes nothing but what it should.
fn changed(mut response: Response, packet: &[u8], told: &[Told]) {
    let (asked, _) = Name::read_plain(response.wire(), 12).unwrap();
    let below = Question::plain(&Name::from_text("a.b.example").unwrap(), 28);
    if let Some(denial) = response.below(&below) {
        assert_eq!((denial.rcode(), denial.lifetime()), (3, response.lifetime()));
        assert_eq!(said(denial.wire()).len(), 1);
    }
    response.restore_case(&packet[12..12 + asked.as_bytes().len() - 1]);
    response.clear_authentic_data();
    assert!(response.wire()[3] & 0x20 == 0);
    let octets = |told: &Told| Told { data: told.data.to_ascii_lowercase(), ..told.clone() };
    let lower = |records: &[Told]| records.iter().map(octets).collect::<Vec<_>>();
    assert_eq!(lower(&said_of(response.wire(), told)), lower(told));
}

//! Two responses of which the second continues the first: it answers for the name to which an alias of the first one
//! leads. What is kept of the first one is its aliases alone, and the whole is a response whose records all follow from
//! the question.
//!
//! Format of the bytes: length of the first packet (two octets), that packet, then of the second response the flags,
//! three counts of one octet each, and everything behind the question.

use std::sync::Arc;
use std::time::Instant;

use node_cache::cache::{Cache, Key, Lookup, Policy};
use node_cache::dns::answer::TtlView;
use node_cache::dns::codes::{class, rcode, rtype};
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response, ResponseTtl, alias};

use crate::message::{ReadRecord, records, u16_at};
use crate::upstream_answer::repeated_question;

/// Answer records of a response, at most, for which every name is followed.
const MAX_FOLLOWED: usize = 100;
/// Octets of a message and its names written out that surely fit.
const SURELY_FITS: usize = 2000;
/// Bits of AD and of the rcode in the fourth octet.
const AD: u8 = 0x20;

/// Takes two packets for a response and its continuation.
pub fn run(data: &[u8]) {
    let Some(length) = u16_at(data, 0) else { return };
    let Some((first, rest)) = data[2..].split_at_checked(length.into()) else { return };
    let (Some(id), Some(question)) = (u16_at(first, 0), repeated_question(first)) else { return };
    let Ok(first) = Response::read(first, id, &question) else { return };
    let Some(partial) = alias::split(&first, |target, _| leaves(target)) else { return };
    let target = alias::continuation(&partial).expect("a partial response leads somewhere");
    assert!(leaves(&target) && alias::continuation(&first).is_none());
    assert_partial(&partial, &first, &question);
    assert_cached(&partial, &question);
    let continued = Question { name: target, ..question.clone() };
    if let Some(rest) = read_response(&continued, rest) {
        assert_joined(&partial, &rest, &question);
    }
}

/// Returns whether a name is in another scope, in this target: half of the names are.
fn leaves(name: &Name) -> bool {
    name.as_bytes().get(1).is_some_and(|letter| letter % 2 == 1)
}

/// Reads the response to a question; `None` where it is none.
fn read_response(question: &Question, response: &[u8]) -> Option<Response> {
    let [flags_high, flags_low, answers, authorities, additionals, behind @ ..] = response else { return None };
    let header = [0, 0, *flags_high, *flags_low, 0, 1, 0, *answers, 0, *authorities, 0, *additionals];
    Response::read(&[&header[..], &question.section(), behind].concat(), 0, question).ok()
}

/// Asserts that a part has nothing but aliases of the whole, and can be read like a response.
fn assert_partial(partial: &Response, first: &Response, question: &Question) {
    let (kept, _) = records(partial.wire());
    let (all, _) = records(first.wire());
    assert!(!kept.is_empty() && kept.len() <= all.len());
    assert_eq!((partial.rcode(), u16_at(partial.wire(), 6)), (rcode::NOERROR, u16::try_from(kept.len()).ok()));
    for record in &kept {
        assert!(matches!(record.rtype, rtype::CNAME | rtype::DNAME | rtype::RRSIG), "{record:?}");
        assert!(all.iter().any(|each| (each.rtype, each.ttl) == (record.rtype, record.ttl)), "{record:?}");
    }
    let again = Response::read(partial.wire(), 0, question).expect("a part is a response");
    assert_eq!(records(again.wire()).0.len(), kept.len());
    match partial.ttl() {
        ResponseTtl::Positive(ttl) => assert_eq!(kept.iter().map(|record| record.ttl).min(), Some(ttl)),
        ResponseTtl::Negative(_) => panic!("an alias is no denial"),
        ResponseTtl::Uncacheable => {
            assert!(partial.is_stale() || kept.iter().any(|record| record.ttl == 0));
        }
    }
}

/// Asserts that a part is partial in the cache, too.
fn assert_cached(partial: &Response, question: &Question) {
    let ResponseTtl::Positive(_) = partial.ttl() else { return };
    let cache = Cache::new(256 << 10);
    let key = Key::new(1, question);
    let now = Instant::now();
    cache.insert(&key, &Arc::new(partial.clone()), now);
    let (Lookup::Fresh(answer) | Lookup::RefreshDue(answer)) = cache.get(&key, now, &Policy::default()) else {
        return assert!(partial.wire().len() > SURELY_FITS, "a part is cached");
    };
    assert_eq!(answer.response.wire(), partial.wire());
    assert_eq!(alias::continuation(&answer.response), alias::continuation(partial));
}

/// Asserts that the whole has all records of both parts, and nothing to which the question does not lead.
fn assert_joined(partial: &Response, rest: &Response, question: &Question) {
    let ttls = TtlView::Cached { age: 7, cap: 3600 };
    let Some(whole) = alias::join((partial, TtlView::Original), (rest, ttls)) else {
        // A name of the second response may lead nowhere.
        let is_followed = |record: &ReadRecord| record.followed_owner.is_some() && record.followed_data.is_some();
        let fits = partial.wire().len() + rest.wire().len() < SURELY_FITS;
        return assert!(!fits || !records(rest.wire()).0.iter().all(is_followed), "a whole that fits");
    };
    let [of_partial, mut of_rest, of_whole] = [partial, rest, &whole].map(|part| records(part.wire()).0);
    of_rest.retain(|record| record.class == class::IN);
    let in_sections = |records: &[ReadRecord], sections: std::ops::RangeInclusive<usize>| {
        records.iter().filter(|record| sections.contains(&record.section)).count()
    };
    assert_eq!(in_sections(&of_whole, 0..=0), of_partial.len() + in_sections(&of_rest, 0..=0));
    assert_eq!(in_sections(&of_whole, 1..=2), in_sections(&of_rest, 1..=1));
    let sent = of_partial.iter().map(|record| record.ttl);
    let sent = sent.chain(of_rest.iter().filter(|record| record.section < 2).map(|record| ttls.apply(record.ttl)));
    let ttls: Vec<u32> = of_whole.iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, sent.collect::<Vec<_>>());
    assert_eq!(whole.rcode() & 0x0f, rest.rcode() & 0x0f);
    assert_eq!(whole.wire()[3] & AD, partial.wire()[3] & rest.wire()[3] & AD);
    assert!(!whole.is_partial());
    if !rest.is_failure() && of_whole.len() < MAX_FOLLOWED {
        let again = Response::read(whole.wire(), 0, question).expect("a whole is a response");
        assert_eq!(records(again.wire()).0.len(), of_whole.len());
    }
}

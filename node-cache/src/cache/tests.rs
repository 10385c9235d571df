use std::time::{Duration, Instant};

use super::*;
use crate::dns::Name;
use crate::dns::answer::TtlView;
use crate::dns::codes::{class, ede, rtype};
use crate::dns::question::Question;

const POLICY: Policy = Policy { max_ttl: 3600, negative_max_ttl: 30, serve_stale: 600 };

fn question(name: &str) -> Question {
    Question::plain(&Name::from_text(name).unwrap(), rtype::A)
}

/// Returns a response of an upstream with one address and this TTL.
fn positive(question: &Question, ttl: u32) -> Arc<Response> {
    received(question, &Response::with_records(question, rcode::NOERROR, &[(rtype::A, ttl, vec![192, 0, 2, 1])]))
}

/// Returns a response as it is after it was received from an upstream.
fn received(question: &Question, response: &Response) -> Arc<Response> {
    Arc::new(Response::read(response.wire(), 0, question).unwrap())
}

/// Returns a negative response of an upstream with an SOA record of this TTL and minimum.
fn negative(question: &Question, rcode: u16, ttl: u32, minimum: u32) -> Arc<Response> {
    let mut soa = vec![0, 0];
    soa.extend([0; 16]);
    soa.extend(minimum.to_be_bytes());
    let mut wire = Response::with_records(question, rcode, &[(rtype::SOA, ttl, soa)]).wire().to_vec();
    wire[6..10].copy_from_slice(&[0, 0, 0, 1]);
    Arc::new(Response::read(&wire, 0, question).unwrap())
}

/// Returns a response of an upstream with one address, marked as stale by this Extended DNS Error.
fn stale(question: &Question, code: u16) -> Arc<Response> {
    let mut wire = positive(question, 30).wire().to_vec();
    crate::dns::Edns { ede: Some(code), ..crate::dns::Edns::default() }.append(&mut wire);
    Arc::new(Response::read(&wire, 0, question).unwrap())
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_answer_is_fresh_for_its_ttl_due_in_the_last_tenth_of_it_then_stale_then_gone() {
    let cache = Cache::new(1 << 20);
    let question = question("a.example");
    let key = Key::new(1, &question);
    let start = Instant::now();
    cache.insert(&key, &positive(&question, 300), start);
    assert!(matches!(cache.get(&key, start + seconds(269), &POLICY), Lookup::Fresh(_)), "no refresh is due");
    let Lookup::RefreshDue(answer) = cache.get(&key, start + seconds(299), &POLICY) else { panic!("not due") };
    assert_eq!(answer.ttl_view, TtlView::Cached { age: 299, cap: 3600 });
    let Lookup::Stale(answer) = cache.get(&key, start + seconds(300), &POLICY) else { panic!("not stale") };
    assert_eq!((answer.ttl_view, answer.ede), (TtlView::Stale, Some(ede::STALE_ANSWER)));
    assert!(matches!(cache.get(&key, start + seconds(899), &POLICY), Lookup::Stale(_)));
    assert!(matches!(cache.get(&key, start + seconds(900), &POLICY), Lookup::Miss));
}

#[test]
fn a_lowered_cap_applies_to_entries_that_are_cached_already() {
    let cache = Cache::new(1 << 20);
    let question = question("a.example");
    let key = Key::new(1, &question);
    let start = Instant::now();
    cache.insert(&key, &positive(&question, 300), start);
    let lowered = Policy { max_ttl: 60, serve_stale: 0, ..POLICY };
    let Lookup::RefreshDue(answer) = cache.get(&key, start + seconds(59), &lowered) else { panic!("not fresh") };
    assert_eq!(answer.ttl_view, TtlView::Cached { age: 59, cap: 60 });
    assert!(matches!(cache.get(&key, start + seconds(60), &lowered), Lookup::Miss));
}

#[test]
fn a_negative_response_expires_after_the_least_of_ttl_minimum_and_cap() {
    let question = question("a.example");
    let key = Key::new(1, &question);
    for (ttl, minimum, expiry) in [(20, 900, 20), (900, 10, 10), (900, 900, 30)] {
        for rcode in [rcode::NXDOMAIN, rcode::NOERROR] {
            let cache = Cache::new(1 << 20);
            let start = Instant::now();
            cache.insert(&key, &negative(&question, rcode, ttl, minimum), start);
            assert!(
                matches!(
                    cache.get(&key, start + seconds(expiry - 1), &POLICY),
                    Lookup::Fresh(_) | Lookup::RefreshDue(_)
                ),
                "{ttl} {minimum}"
            );
            let Lookup::Stale(answer) = cache.get(&key, start + seconds(expiry), &POLICY) else {
                panic!("{ttl} {minimum}")
            };
            let is_nxdomain = rcode == rcode::NXDOMAIN;
            assert_eq!(answer.ede, Some(if is_nxdomain { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER }));
        }
    }
}

#[test]
fn an_uncacheable_response_is_not_cached_and_removes_the_previous_entry() {
    let question = question("a.example");
    let key = Key::new(1, &question);
    let now = Instant::now();
    let without_soa = received(&question, &Response::empty(&question, rcode::NXDOMAIN));
    for uncacheable in [positive(&question, 0), positive(&question, 0x8000_0000), without_soa] {
        let cache = Cache::new(1 << 20);
        cache.insert(&key, &positive(&question, 300), now);
        cache.insert(&key, &uncacheable, now);
        assert!(matches!(cache.get(&key, now, &POLICY), Lookup::Miss), "{uncacheable:?}");
    }
    let cache = Cache::new(1 << 20);
    cache.insert(&key, &positive(&question, 300), now);
    cache.insert(&key, &received(&question, &Response::empty(&question, rcode::SERVFAIL)), now);
    assert!(matches!(cache.get(&key, now, &POLICY), Lookup::Fresh(_)), "a failure removes nothing");
}

#[test]
fn answers_of_different_scopes_and_flags_are_kept_apart() {
    let cache = Cache::new(1 << 20);
    let question_a = question("a.example");
    let now = Instant::now();
    cache.insert(&Key::new(1, &question_a), &positive(&question_a, 300), now);
    assert!(matches!(cache.get(&Key::new(1, &question("A.EXAMPLE")), now, &POLICY), Lookup::Fresh(_)));
    let others = [
        Key::new(2, &question_a),
        Key::new(1, &Question { dnssec_ok: true, ..question_a.clone() }),
        Key::new(1, &Question { checking_disabled: true, ..question_a.clone() }),
        Key::new(1, &Question { rtype: rtype::AAAA, ..question_a.clone() }),
        Key::new(1, &Question { class: class::CH, ..question_a.clone() }),
    ];
    for other in others {
        assert!(matches!(cache.get(&other, now, &POLICY), Lookup::Miss), "{other:?}");
    }
}

#[test]
fn a_stale_answer_of_another_cache_gains_no_second_window() {
    let question = question("a.example");
    let key = Key::new(1, &question);
    let cache = Cache::new(1 << 20);
    let now = Instant::now();
    for code in [ede::STALE_ANSWER, ede::STALE_NXDOMAIN] {
        let stale_at_upstream = stale(&question, code);
        cache.insert(&key, &stale_at_upstream, now);
        assert!(matches!(cache.get(&key, now, &POLICY), Lookup::Miss), "fresh or stale here");
        assert_eq!(cache.failure(&key, now).unwrap().response, Some(stale_at_upstream), "not repeated");
        assert!(cache.failure(&key, now + seconds(5)).is_none(), "not repeated for long");
    }
}

#[test]
fn a_stale_answer_of_another_cache_removes_nothing() {
    let question = question("a.example");
    let key = Key::new(1, &question);
    let cache = Cache::new(1 << 20);
    let now = Instant::now();
    cache.insert(&key, &positive(&question, 300), now);
    cache.insert(&key, &stale(&question, ede::STALE_ANSWER), now + seconds(299));
    let Lookup::Stale(answer) = cache.get(&key, now + seconds(899), &POLICY) else { panic!("removed") };
    assert_eq!(answer.response.wire(), positive(&question, 300).wire());
    assert!(matches!(cache.get(&key, now + seconds(900), &POLICY), Lookup::Miss), "a second window");
}

#[test]
fn a_failure_is_remembered_briefly_and_longer_when_it_repeats_until_an_answer_comes() {
    let cache = Cache::new(1 << 20);
    let question = question("a.example");
    let key = Key::new(1, &question);
    let start = Instant::now();
    let millis = |millis| start + Duration::from_millis(millis);
    cache.insert_failure(&key, None, start);
    assert!(cache.failure(&key, millis(999)).is_some());
    assert!(cache.failure(&key, millis(1000)).is_none());
    cache.insert_failure(&key, None, millis(1000));
    assert!(cache.failure(&key, millis(2999)).is_some());
    for _ in 0..9 {
        cache.insert_failure(&key, None, millis(3000));
    }
    assert!(cache.failure(&key, millis(7999)).is_some());
    assert!(cache.failure(&key, millis(8000)).is_none());
    cache.insert_failure(&key, None, millis(8000));
    cache.insert(&key, &positive(&question, 300), millis(8000));
    assert!(cache.failure(&key, millis(8000)).is_none());
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let cache = Cache::new(256 << 10);
    let now = Instant::now();
    for number in 0..5000 {
        let question = question(&format!("name-{number}.example"));
        cache.insert(&Key::new(1, &question), &positive(&question, 300), now);
        cache.insert_failure(&Key::new(2, &question), None, now);
    }
    assert!(cache.bytes() <= 256 << 10, "{}", cache.bytes());
    assert!(cache.entries() > 100, "{}", cache.entries());
}

#[test]
fn nxdomain_holds_for_all_types_of_its_name() {
    let cache = Cache::new(1 << 20);
    let a = question("a.example");
    let aaaa = Question { rtype: rtype::AAAA, ..question("a.example") };
    let key_a = Key::new(1, &a);
    let key_aaaa = Key::new(1, &aaaa);
    let now = Instant::now();
    let is_fresh = |key: &Key, age| matches!(cache.get(key, now + seconds(age), &POLICY), Lookup::Fresh(_));
    cache.insert(&key_aaaa, &positive(&aaaa, 10), now);
    cache.insert(&key_a, &negative(&a, rcode::NXDOMAIN, 900, 900), now);
    assert!(is_fresh(&key_a, 1) && is_fresh(&key_aaaa, 1), "the entry of the other type stays until it expires");
    let Lookup::Fresh(answer) = cache.get(&key_aaaa, now + seconds(11), &POLICY) else { panic!("not NXDOMAIN") };
    assert_eq!(answer.response.rcode(), rcode::NXDOMAIN);
    cache.insert(&key_aaaa, &negative(&aaaa, rcode::NOERROR, 900, 900), now);
    assert!(is_fresh(&key_aaaa, 1) && !is_fresh(&key_a, 1), "a name with another answer exists");
}

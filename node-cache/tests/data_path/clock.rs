//! Time in the cache is a parameter that moves forward only, at any pace. Nothing reads the wall clock (`clippy.toml`
//! forbids it), so setting the clock changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache::cache::{Cache, Key, Lookup, Policy};
use node_cache::dns::answer::TtlView;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
use proptest::test_runner::Config;

/// Milliseconds between two lookups: none while a process is stopped, up to a second, minutes, a day and more, more
/// than 32 bits hold.
fn jump() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..1_000_u64, 1_000..600_000_u64, 86_000_000..90_000_000_u64, Just(1 << 33)]
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn nothing_expires_early_or_late_however_time_jumps_or_stalls(
        ttl in 1..200_000_u32, max_ttl in 0..100_000_u32, serve_stale in 0..100_000_u32, jumps in vec(jump(), 1..50),
    ) {
        let policy = Policy { max_ttl, negative_max_ttl: max_ttl, serve_stale };
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype::A);
        let records = [(rtype::A, ttl, vec![192, 0, 2, 1])];
        let wire = Response::with_records(&question, rcode::NOERROR, &records).wire().to_vec();
        let response = Arc::new(Response::read(&wire, 0, &question).unwrap());
        let cache = Cache::new(64 << 10);
        let key = Key::new(1, &question);
        let start = Instant::now();
        cache.insert(&key, &response, start);
        let life = 1000 * u64::from(ttl.min(max_ttl));
        let end = life + 1000 * u64::from(serve_stale);
        let mut passed = 0;
        for jump in jumps {
            passed += jump;
            // Also at the moments that the jump has skipped: the first and the last of each state.
            for at in [passed, life.saturating_sub(1), life, end.saturating_sub(1), end] {
                match cache.get(&key, start + Duration::from_millis(at), &policy) {
                    Lookup::Fresh(response) | Lookup::RefreshDue(response) => {
                        assert!(at < life, "late: {at} of {life}");
                        let age = u32::try_from(at / 1000).unwrap();
                        assert_eq!(response.ttl_view, TtlView::Cached { age, cap: max_ttl });
                    }
                    Lookup::Stale(response) => {
                        assert!((life..end).contains(&at), "{at} of {life} and {end}");
                        assert_eq!(response.ttl_view, TtlView::Stale);
                    }
                    Lookup::Miss => assert!(at >= end, "early: {at} of {end}"),
                }
            }
        }
    }
}

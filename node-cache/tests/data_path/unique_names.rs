//! A cache flooded with unique names.

use std::sync::Arc;
use std::time::Instant;

use node_cache::cache::{Cache, Key, Lookup, Policy};
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response};

const BYTES: u64 = 4 << 20;
const HOT_NAMES: usize = 1_000;
/// Names of the flood between two lookups of a name in use.
const UNIQUE_PER_LOOKUP: usize = 20;
const POLICY: Policy = Policy { max_ttl: 3600, negative_max_ttl: 30, serve_stale: 3600 };

fn flood(count: usize) {
    let cache = Cache::new(BYTES);
    let now = Instant::now();
    let key = |name: &str| Key::new(1, &Question::plain(&Name::from_text(name).unwrap(), rtype::A));
    let question = Question::plain(&Name::from_text("n0000000.flood.example").unwrap(), rtype::A);
    let records = [(rtype::A, 3600, vec![192, 0, 2, 1])];
    let wire = Response::with_records(&question, rcode::NOERROR, &records).wire().to_vec();
    // The records are the same for all of them.
    let response = Arc::new(Response::read(&wire, 0, &question).unwrap());
    let hot: Vec<Key> = (0..HOT_NAMES).map(|number| key(&format!("h{number:07}.in-use.example"))).collect();
    for key in hot.iter().chain(&hot) {
        if matches!(cache.get(key, now, &POLICY), Lookup::Miss) {
            cache.insert(key, &response, now);
        }
    }
    let mut lookups = 0;
    let mut misses = 0;
    for number in 0..count {
        cache.insert(&key(&format!("n{number:07}.flood.example")), &response, now);
        if number % UNIQUE_PER_LOOKUP == 0 {
            let key = &hot[number / UNIQUE_PER_LOOKUP % HOT_NAMES];
            lookups += 1;
            if matches!(cache.get(key, now, &POLICY), Lookup::Miss) {
                misses += 1;
                cache.insert(key, &response, now);
            }
        }
    }
    assert!(cache.bytes() <= BYTES, "{}", cache.bytes());
    assert!(cache.entries() < count as u64 / 2, "nothing had to leave: {}", cache.entries());
    assert!(100 * misses <= lookups, "{misses} of {lookups} were not there any more");
}

#[test]
fn a_flood_of_unique_names_leaves_the_names_in_use_in_memory() {
    flood(200_000);
}

#[test]
#[ignore = "minutes; run by make test-long"]
fn ten_million_unique_names_leave_the_names_in_use_in_memory() {
    flood(10_000_000);
}

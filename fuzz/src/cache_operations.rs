//! Operations on the cache, beside a model of it. A lookup finds the response that was inserted last, for exactly as
//! long as its TTL and the policy allow; in a small cache it may have been evicted. The cache never has more bytes
//! than allowed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache::cache::{Cache, Key, Lookup, Policy};
use node_cache::dns::answer::TtlView;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response};

/// Sizes of caches in bytes.
const SMALL_CACHE: u64 = 24 << 10;
const LARGE_CACHE: u64 = 512 << 10;
/// Bytes of inserted responses up to which a large cache evicts nothing.
const MAX_BYTES_WITHOUT_EVICTION: usize = 24 << 10;
/// Longer sequences show nothing that shorter ones do not.
const MAX_OPERATIONS: usize = 300;
/// TTLs in seconds, also those that count as zero (RFC 2181 §8).
const TTLS: [u32; 8] = [1, 2, 30, 300, 5000, 0x7fff_ffff, 0x8000_0000, 0];
/// Milliseconds that pass: none, one, values around the limits, an hour, a day, more than 32 bits.
const PAUSES: [u64; 8] = [0, 1, 899, 1_000, 29_999, 3_600_000, 86_400_000, 1 << 33];
const POLICIES: [Policy; 4] = [
    Policy { max_ttl: 3600, negative_max_ttl: 30, serve_stale: 3600 },
    Policy { max_ttl: 60, negative_max_ttl: 5, serve_stale: 0 },
    Policy { max_ttl: u32::MAX, negative_max_ttl: u32::MAX, serve_stale: u32::MAX },
    Policy { max_ttl: 0, negative_max_ttl: 0, serve_stale: 10 },
];

/// Reader of choices, one from each byte; zeros follow the last byte.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }
}

/// Key of a cache entry: one of sixteen names, two types, two scopes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct EntryKey {
    name: usize,
    rtype: u16,
    scope: u64,
}

impl EntryKey {
    fn choose(choices: &mut Choices<'_>) -> Self {
        let choice = choices.next();
        let rtype = if choice & 0x10 == 0 { rtype::A } else { rtype::AAAA };
        Self { name: choice & 0x0f, rtype, scope: u64::from(choice & 0x20 == 0) }
    }

    /// Returns the key of a denial of the name (NXDOMAIN), which holds for all types: type 0.
    fn of_any_type(self) -> Self {
        Self { rtype: 0, ..self }
    }

    fn name(self) -> Name {
        Name::from_text(&format!("name-{}.example", self.name)).unwrap()
    }

    fn question(self) -> Question {
        Question::plain(&self.name(), self.rtype)
    }

    fn key(self) -> Key {
        Key::new(self.scope, &self.question())
    }
}

/// Entry of the model.
struct ModelEntry {
    response: Arc<Response>,
    inserted_at: u64,
    ttl: u32,
    negative: bool,
}

/// Freshness of an entry, with its age in seconds and the upper bound of the TTL that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    Fresh(u64, u32),
    /// The last tenth of the TTL begins with this millisecond, and with one of the cache's ticks in it: a refresh may
    /// be due or not.
    MaybeDue(u64, u32),
    RefreshDue(u64, u32),
    Stale,
    Expired,
}

impl ModelEntry {
    fn freshness(&self, now: u64, policy: &Policy) -> Freshness {
        let max_ttl = if self.negative { policy.negative_max_ttl } else { policy.max_ttl };
        let ttl = 1000 * u64::from(self.ttl.min(max_ttl));
        let cap = if self.negative { self.ttl.min(max_ttl) } else { max_ttl };
        let age = now.saturating_sub(self.inserted_at);
        match () {
            () if age < ttl && 10 * age < 9 * ttl => Freshness::Fresh(age / 1000, cap),
            () if age < ttl && 10 * age == 9 * ttl => Freshness::MaybeDue(age / 1000, cap),
            () if age < ttl => Freshness::RefreshDue(age / 1000, cap),
            () if age < ttl + 1000 * u64::from(policy.serve_stale) => Freshness::Stale,
            () => Freshness::Expired,
        }
    }
}

/// Cached failure (RFC 9520): its time, and for how many milliseconds it is cached.
struct ModelFailure {
    failed_at: u64,
    duration: u64,
}

/// Cache under test, and the model of what it holds. Times are milliseconds since `started`.
struct Model {
    cache: Cache,
    started: Instant,
    max_bytes: u64,
    now: u64,
    policy: Policy,
    entries: HashMap<EntryKey, ModelEntry>,
    failures: HashMap<EntryKey, ModelFailure>,
    /// Bytes of all responses that were inserted, at most.
    inserted_bytes: usize,
    /// Number of the last response, which makes it different from all others.
    serial: u32,
}

/// Runs a sequence of operations.
pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let first = choices.next();
    let max_bytes = if first & 1 == 0 { LARGE_CACHE } else { SMALL_CACHE };
    let cache = Cache::new(max_bytes);
    let started = Instant::now();
    let mut model = Model {
        cache,
        started,
        max_bytes,
        now: 0,
        policy: POLICIES[(first >> 1) % POLICIES.len()],
        entries: HashMap::new(),
        failures: HashMap::new(),
        inserted_bytes: 0,
        serial: 0,
    };
    for _ in 0..MAX_OPERATIONS {
        if choices.0.is_empty() {
            break;
        }
        model.step(&mut choices);
    }
    let mut next = Some(0);
    while let Some(from) = next {
        next = model.cache.flush(from, |_| true).next;
    }
    assert_eq!(model.cache.entries(), 0);
}

impl Model {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.next() % 10 {
            0 => self.now += PAUSES[choices.next() % PAUSES.len()],
            1 => self.policy = POLICIES[choices.next() % POLICIES.len()],
            2 => self.insert_failure(choices),
            3 => self.flush(EntryKey::choose(choices)),
            4..=7 => self.insert(choices),
            _ => self.check(EntryKey::choose(choices)),
        }
        assert!(self.cache.bytes() <= self.max_bytes, "{} of {}", self.cache.bytes(), self.max_bytes);
    }

    fn instant(&self) -> Instant {
        // The cache started a little earlier. Times that are whole milliseconds apart here are so there.
        self.started + Duration::from_millis(self.now)
    }

    fn insert(&mut self, choices: &mut Choices<'_>) {
        let key = EntryKey::choose(choices);
        let choice = choices.next();
        let ttl = TTLS[choice % TTLS.len()];
        let (code, negative) =
            [(rcode::NOERROR, false), (rcode::NOERROR, true), (rcode::NXDOMAIN, true), (rcode::SERVFAIL, false)]
                [(choice >> 3) % 4];
        let of_type = choice & 0x20 != 0;
        let records = if choice & 0x40 == 0 { 1 } else { 1 + choices.next() };
        self.serial += 1;
        let response = response(&key.question(), code, negative, ttl, records, self.serial);
        let now = self.instant();
        match of_type {
            true => self.cache.insert_for_type(&key.key(), &response, now),
            false => self.cache.insert(&key.key(), &response, now),
        }
        self.inserted_bytes += response.wire().len() + 2 * response.ttl_offsets().len() + 128;
        if code != rcode::SERVFAIL {
            self.failures.remove(&key);
            let is_denial = code == rcode::NXDOMAIN && !of_type;
            let inserted = if is_denial { key.of_any_type() } else { key };
            let replaced = if is_denial { key } else { key.of_any_type() };
            self.entries.remove(&replaced);
            self.entries.remove(&inserted);
            if (1..0x8000_0000).contains(&ttl) {
                self.entries.insert(inserted, ModelEntry { response, inserted_at: self.now, ttl, negative });
            }
        }
        self.check(key);
    }

    fn insert_failure(&mut self, choices: &mut Choices<'_>) {
        let key = EntryKey::choose(choices);
        self.cache.insert_failure(&key.key(), None, self.instant());
        let previous = self.failures.get(&key).filter(|failure| self.now - failure.failed_at < 15_000);
        let duration = previous.map_or(1000, |failure| (2 * failure.duration).min(5000));
        self.failures.insert(key, ModelFailure { failed_at: self.now, duration });
        self.check(key);
    }

    fn flush(&mut self, key: EntryKey) {
        let name = key.name();
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.cache.flush(from, |parts| parts.name == name).next;
        }
        self.entries.retain(|entry, _| entry.name != key.name);
        self.failures.retain(|failure, _| failure.name != key.name);
        self.check(key);
    }

    /// Asserts that the cache returns for a key what the model has for it.
    fn check(&self, key: EntryKey) {
        let evicts_nothing = self.max_bytes == LARGE_CACHE && self.inserted_bytes < MAX_BYTES_WITHOUT_EVICTION;
        let has_failure = self.cache.failure(&key.key(), self.instant()).is_some();
        let expected = self.failures.get(&key).is_some_and(|failure| self.now - failure.failed_at < failure.duration);
        assert!(has_failure == expected || !evicts_nothing && !has_failure, "failures");
        let found = self.cache.get(&key.key(), self.instant(), &self.policy);
        let exact = self.entries.get(&key);
        let denial = self.entries.get(&key.of_any_type());
        // A full cache may have evicted either.
        let possible: &[_] = match evicts_nothing {
            true => &[(exact, denial)],
            false => &[(exact, denial), (exact, None), (None, denial), (None, None)],
        };
        let is_allowed = possible.iter().any(|(exact, denial)| self.is_expected(&found, *exact, *denial));
        assert!(is_allowed, "{found:?} at {}", self.now);
    }

    /// Returns whether this should be found in a cache with these entries: the exact entry before it expires, else a
    /// denial of the name, else a stale entry.
    fn is_expected(&self, found: &Lookup, exact: Option<&ModelEntry>, denial: Option<&ModelEntry>) -> bool {
        let freshness = |entry: Option<&ModelEntry>| {
            entry.map_or(Freshness::Expired, |entry| entry.freshness(self.now, &self.policy))
        };
        let is_fresh =
            |freshness| matches!(freshness, Freshness::Fresh(..) | Freshness::MaybeDue(..) | Freshness::RefreshDue(..));
        let of_exact = freshness(exact);
        let of_denial = freshness(denial);
        let denial_counts = is_fresh(of_denial) || of_exact == Freshness::Expired;
        let (freshness, entry) = match is_fresh(of_exact) || !denial_counts {
            true => (of_exact, exact),
            false => (of_denial, denial),
        };
        let (age, answer) = match (found, freshness) {
            (Lookup::Miss, Freshness::Expired) => return true,
            (Lookup::Fresh(answer), Freshness::Fresh(age, cap) | Freshness::MaybeDue(age, cap))
            | (Lookup::RefreshDue(answer), Freshness::MaybeDue(age, cap) | Freshness::RefreshDue(age, cap)) => {
                (TtlView::Cached { age: age.try_into().unwrap_or(u32::MAX), cap }, answer)
            }
            (Lookup::Stale(answer), Freshness::Stale) => (TtlView::Stale, answer),
            _ => return false,
        };
        answer.ttl_view == age && entry.is_some_and(|entry| are_equal(&answer.response, &entry.response))
    }
}

/// Returns whether two responses are equal but for the type in the question: a denial has the type of the query that
/// finds it, not that of the query for which it was inserted.
fn are_equal(one: &Response, other: &Response) -> bool {
    let without_type = |response: &Response| {
        let (header, behind) = response.wire().split_at(12);
        let (name, _) = Name::read_uncompressed(response.wire(), 12).unwrap();
        [header, name.as_bytes(), &behind[name.as_bytes().len() + 4..]].concat()
    };
    let is_wire_equal = without_type(one) == without_type(other);
    is_wire_equal && one.ttl_offsets() == other.ttl_offsets() && one.ttl() == other.ttl()
}

/// Returns a response as an upstream sends it; its serial makes it different from all others.
fn response(question: &Question, code: u16, negative: bool, ttl: u32, records: usize, serial: u32) -> Arc<Response> {
    let mut wire = match negative {
        true => {
            // Two root names, then five numbers: serial, refresh, retry, expire, minimum.
            let soa = [&[0, 0][..], &serial.to_be_bytes(), &[0; 12], &ttl.to_be_bytes()].concat();
            Response::with_records(question, code, &[(rtype::SOA, ttl, soa)]).wire().to_vec()
        }
        false => {
            let data = serial.to_be_bytes().repeat(if question.rtype == rtype::A { 1 } else { 4 });
            Response::with_records(question, code, &vec![(question.rtype, ttl, data); records]).wire().to_vec()
        }
    };
    if negative {
        wire[6..10].copy_from_slice(&[0, 0, 0, 1]);
    }
    Arc::new(Response::read(&wire, 0, question).unwrap())
}

//! The cache beside a model of it, over any sequence of operations. What is found is what was put in last and is said
//! for exactly as long as it may be; in a small cache it may be gone. There are never more bytes than allowed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_cache::cache::{Cache, Key, Lookup, Policy};
use node_cache::dns::answer::TtlView;
use node_cache::dns::codes::{rcode, rtype};
use node_cache::dns::question::Question;
use node_cache::dns::{Name, Response};

const SMALL: u64 = 24 << 10;
const LARGE: u64 = 512 << 10;
/// As long as no more bytes came in, nothing has to leave a large cache.
const NOTHING_LEAVES: usize = 24 << 10;
/// More of them show nothing that fewer do not.
const MOST_OPERATIONS: usize = 300;
const TTLS: [u32; 8] = [1, 2, 30, 300, 5000, 0x7fff_ffff, 0x8000_0000, 0];
/// Milliseconds that pass: none at all, next to nothing, the bounds of things, a day, longer than 32 bits count.
const PAUSES: [u64; 8] = [0, 1, 899, 1_000, 29_999, 3_600_000, 86_400_000, 1 << 33];
const POLICIES: [Policy; 4] = [
    Policy { max_ttl: 3600, negative_max_ttl: 30, serve_stale: 3600 },
    Policy { max_ttl: 60, negative_max_ttl: 5, serve_stale: 0 },
    Policy { max_ttl: u32::MAX, negative_max_ttl: u32::MAX, serve_stale: u32::MAX },
    Policy { max_ttl: 0, negative_max_ttl: 0, serve_stale: 10 },
];

/// Bytes as a sequence of choices; zeros follow when there are no more.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }
}

/// What is asked: one of sixteen names, two types, two scopes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Asked {
    name: usize,
    rtype: u16,
    scope: u64,
}

impl Asked {
    fn choose(choices: &mut Choices<'_>) -> Self {
        let choice = choices.next();
        let rtype = if choice & 0x10 == 0 { rtype::A } else { rtype::AAAA };
        Self { name: choice & 0x0f, rtype, scope: u64::from(choice & 0x20 == 0) }
    }

    /// What is true of the name whatever is asked is kept under type 0.
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

struct Kept {
    response: Arc<Response>,
    at: u64,
    ttl: u32,
    negative: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh(u64, u32),
    /// The last tenth begins with this millisecond, and with one of the ticks in it: it may be due or not.
    NearlyDue(u64, u32),
    Due(u64, u32),
    Stale,
    Over,
}

impl Kept {
    fn at(&self, now: u64, policy: &Policy) -> State {
        let most = if self.negative { policy.negative_max_ttl } else { policy.max_ttl };
        let life = 1000 * u64::from(self.ttl.min(most));
        let cap = if self.negative { self.ttl.min(most) } else { most };
        let age = now.saturating_sub(self.at);
        match () {
            () if age < life && 10 * age < 9 * life => State::Fresh(age / 1000, cap),
            () if age < life && 10 * age == 9 * life => State::NearlyDue(age / 1000, cap),
            () if age < life => State::Due(age / 1000, cap),
            () if age < life + 1000 * u64::from(policy.serve_stale) => State::Stale,
            () => State::Over,
        }
    }
}

struct Failed {
    at: u64,
    lasts: u64,
}

struct Model {
    cache: Cache,
    began: Instant,
    bytes: u64,
    now: u64,
    policy: Policy,
    kept: HashMap<Asked, Kept>,
    failed: HashMap<Asked, Failed>,
    came_in: usize,
    number: u32,
}

/// Runs a sequence of operations.
pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let first = choices.next();
    let bytes = if first & 1 == 0 { LARGE } else { SMALL };
    let cache = Cache::new(bytes);
    let began = Instant::now();
    let mut model = Model {
        cache,
        began,
        bytes,
        now: 0,
        policy: POLICIES[(first >> 1) % POLICIES.len()],
        kept: HashMap::new(),
        failed: HashMap::new(),
        came_in: 0,
        number: 0,
    };
    for _ in 0..MOST_OPERATIONS {
        if choices.0.is_empty() {
            break;
        }
        model.step(&mut choices);
    }
    let mut next = Some(0);
    while let Some(from) = next {
        next = model.cache.flush(from, |_| true).1;
    }
    assert_eq!(model.cache.entries(), 0);
}

impl Model {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.next() % 10 {
            0 => self.now += PAUSES[choices.next() % PAUSES.len()],
            1 => self.policy = POLICIES[choices.next() % POLICIES.len()],
            2 => self.fail(choices),
            3 => self.flush(Asked::choose(choices)),
            4..=7 => self.insert(choices),
            _ => self.check(Asked::choose(choices), self.now),
        }
        assert!(self.cache.bytes() <= self.bytes, "{} of {}", self.cache.bytes(), self.bytes);
    }

    fn time(&self, now: u64) -> Instant {
        // The cache began a little earlier. What is whole milliseconds apart here is so there.
        self.began + Duration::from_millis(now)
    }

    fn insert(&mut self, choices: &mut Choices<'_>) {
        let asked = Asked::choose(choices);
        let choice = choices.next();
        let ttl = TTLS[choice % TTLS.len()];
        let (code, negative) =
            [(rcode::NOERROR, false), (rcode::NOERROR, true), (rcode::NXDOMAIN, true), (rcode::SERVFAIL, false)]
                [(choice >> 3) % 4];
        let of_type = choice & 0x20 != 0;
        let records = if choice & 0x40 == 0 { 1 } else { 1 + choices.next() };
        self.number += 1;
        let response = response(&asked.question(), code, negative, ttl, records, self.number);
        let now = self.time(self.now);
        match of_type {
            true => self.cache.insert_for_type(&asked.key(), &response, now),
            false => self.cache.insert(&asked.key(), &response, now),
        }
        self.came_in += response.wire().len() + 2 * response.ttl_offsets().len() + 128;
        if code != rcode::SERVFAIL {
            self.failed.remove(&asked);
            let denied = code == rcode::NXDOMAIN && !of_type;
            let (kept, ended) = match denied {
                true => (asked.of_any_type(), asked),
                false => (asked, asked.of_any_type()),
            };
            self.kept.remove(&ended);
            self.kept.remove(&kept);
            if (1..0x8000_0000).contains(&ttl) {
                self.kept.insert(kept, Kept { response, at: self.now, ttl, negative });
            }
        }
        self.check(asked, self.now);
    }

    fn fail(&mut self, choices: &mut Choices<'_>) {
        let asked = Asked::choose(choices);
        self.cache.insert_failure(&asked.key(), None, self.time(self.now));
        let before = self.failed.get(&asked).filter(|failed| self.now - failed.at < 15_000);
        let lasts = before.map_or(1000, |failed| (2 * failed.lasts).min(5000));
        self.failed.insert(asked, Failed { at: self.now, lasts });
        self.check(asked, self.now);
    }

    fn flush(&mut self, asked: Asked) {
        let (name, mut next) = (asked.name(), Some(0));
        while let Some(from) = next {
            next = self.cache.flush(from, |parts| parts.name == name).1;
        }
        self.kept.retain(|kept, _| kept.name != asked.name);
        self.failed.retain(|failed, _| failed.name != asked.name);
        self.check(asked, self.now);
    }

    fn check(&self, asked: Asked, now: u64) {
        let nothing_left = self.bytes == LARGE && self.came_in < NOTHING_LEAVES;
        let failure = self.cache.failure(&asked.key(), self.time(now)).is_some();
        let failed = self.failed.get(&asked).is_some_and(|failed| now - failed.at < failed.lasts);
        assert!(failure == failed || !nothing_left && !failure, "failures");
        let found = self.cache.get(&asked.key(), self.time(now), &self.policy);
        let (exact, denial) = (self.kept.get(&asked), self.kept.get(&asked.of_any_type()));
        // Either may have left a cache that is full.
        let possible: &[_] = match nothing_left {
            true => &[(exact, denial)],
            false => &[(exact, denial), (exact, None), (None, denial), (None, None)],
        };
        let allowed = possible.iter().any(|(exact, denial)| self.says(&found, *exact, *denial, now));
        assert!(allowed, "{found:?} at {now}");
    }

    /// Whether this is what should be found when these are kept: the exact answer in its time, else that the name does
    /// not exist, else what is past its time.
    fn says(&self, found: &Lookup, exact: Option<&Kept>, denial: Option<&Kept>, now: u64) -> bool {
        let state = |kept: Option<&Kept>| kept.map_or(State::Over, |kept| kept.at(now, &self.policy));
        let in_time = |state| matches!(state, State::Fresh(..) | State::NearlyDue(..) | State::Due(..));
        let (of_exact, of_denial) = (state(exact), state(denial));
        let denial_counts = in_time(of_denial) || of_exact == State::Over;
        let (state, kept) = match in_time(of_exact) || !denial_counts {
            true => (of_exact, exact),
            false => (of_denial, denial),
        };
        let (shown, answer) = match (found, state) {
            (Lookup::Miss, State::Over) => return true,
            (Lookup::Fresh(answer), State::Fresh(age, cap) | State::NearlyDue(age, cap))
            | (Lookup::RefreshDue(answer), State::NearlyDue(age, cap) | State::Due(age, cap)) => {
                (TtlView::Cached { age: age.try_into().unwrap_or(u32::MAX), cap }, answer)
            }
            (Lookup::Stale(answer), State::Stale) => (TtlView::Stale, answer),
            _ => return false,
        };
        answer.age == shown && kept.is_some_and(|kept| are_same(&answer.response, &kept.response))
    }
}

/// Whether two responses say the same. A denial repeats the type that is asked for, whichever it was told for.
fn are_same(one: &Response, other: &Response) -> bool {
    let told = |response: &Response| {
        let (head, behind) = response.wire().split_at(12);
        let (name, _) = Name::read_plain(response.wire(), 12).unwrap();
        [head, name.as_bytes(), &behind[name.as_bytes().len() + 4..]].concat()
    };
    told(one) == told(other) && one.ttl_offsets() == other.ttl_offsets() && one.lifetime() == other.lifetime()
}

/// A response as a server sends it, unlike all others by its number.
fn response(asked: &Question, code: u16, negative: bool, ttl: u32, records: usize, number: u32) -> Arc<Response> {
    let mut wire = match negative {
        true => {
            // Two roots, then five numbers: serial, refresh, retry, expire, minimum.
            let soa = [&[0, 0][..], &number.to_be_bytes(), &[0; 12], &ttl.to_be_bytes()].concat();
            Response::with_records(asked, code, &[(rtype::SOA, ttl, soa)]).wire().to_vec()
        }
        false => {
            let data = number.to_be_bytes().repeat(if asked.rtype == rtype::A { 1 } else { 4 });
            Response::with_records(asked, code, &vec![(asked.rtype, ttl, data); records]).wire().to_vec()
        }
    };
    if negative {
        wire[6..10].copy_from_slice(&[0, 0, 0, 1]);
    }
    Arc::new(Response::read(&wire, 0, asked).unwrap())
}

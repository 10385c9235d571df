//! Inspection and flush of the cache by operators (people). Not for the query path.

use std::time::Instant;

use super::Cache;
use super::header::{EntryHeader, Policy, TICKS_PER_SECOND, Windows};
use super::key::{Key, KeyParts};
use super::table::Class;
use crate::dns::codes::rcode;
use crate::metrics::ClassUsage;

/// Facts about one cache entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// Rcode of the response.
    pub rcode: u16,
    /// Info-code of the response's Extended DNS Error (RFC 8914).
    pub ede: Option<u16>,
    /// Length of the message in octets.
    pub message_len: usize,
    /// Seconds since the response was stored.
    pub age: u64,
    /// Seconds from storing to expiry: the capped TTL.
    pub ttl: u64,
    /// Seconds from expiry to the end of the serve-stale window.
    pub stale_window: u64,
    /// ID of the upstream that sent the response; 0 for none.
    pub server_id: u16,
}

impl EntryInfo {
    fn new(header: &EntryHeader, now: u64, policy: &Policy) -> Self {
        let Windows { fresh, stale } = header.windows(policy);
        Self {
            rcode: header.rcode(),
            ede: header.ede(),
            message_len: header.message_len(),
            age: header.age(now) / TICKS_PER_SECOND,
            ttl: fresh,
            stale_window: stale,
            server_id: header.server_id(),
        }
    }
}

impl std::fmt::Display for EntryInfo {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rcode, ede, message_len, age, ttl, stale_window, .. } = self;
        formatter.write_str(rcode::name(*rcode))?;
        if let Some(ede) = ede {
            write!(formatter, " (EDE {ede})")?;
        }
        write!(formatter, ", {message_len} octets, age {age} s, ")?;
        let seconds_until = |end: u64| end.checked_sub(*age).filter(|seconds| *seconds > 0);
        match (seconds_until(*ttl), seconds_until(ttl + stale_window)) {
            (Some(fresh), _) if *stale_window == 0 => write!(formatter, "fresh for {fresh} s more"),
            (Some(fresh), _) => write!(formatter, "fresh for {fresh} s more, then stale for {stale_window} s"),
            (None, Some(stale)) => write!(formatter, "stale for {stale} s more"),
            (None, None) => write!(formatter, "expired"),
        }
    }
}

/// Result of one step of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushStep {
    /// Number of entries that the step removed.
    pub removed: usize,
    /// Position for the next step; `None` after the last one.
    pub next: Option<usize>,
}

impl Cache {
    /// Returns the current usage of each class: positive answers, negative answers, failures.
    #[must_use]
    pub fn usage_by_class(&self) -> [ClassUsage; 3] {
        let answers = |class, name| {
            let usage = self.answers.usage_of(class);
            ClassUsage { class: name, bytes: usage.bytes as u64, entries: usage.entries as u64 }
        };
        let bytes = self.failures.bytes() as u64;
        let entries = self.failures.entry_count() as u64;
        [
            answers(Class::Positive, "positive"),
            answers(Class::Negative, "negative"),
            ClassUsage { class: "failures", bytes, entries },
        ]
    }

    /// Returns facts about the entry of exactly this key, expired or not.
    #[must_use]
    pub fn inspect(&self, key: &Key, now: Instant, policy: &Policy) -> Option<EntryInfo> {
        self.inspect_words(key.as_words(), now, policy)
    }

    /// Returns facts about the entry that denies this key's name for all types (NXDOMAIN), expired or not.
    #[must_use]
    pub fn covering_denial(&self, key: &Key, now: Instant, policy: &Policy) -> Option<EntryInfo> {
        self.inspect_words(key.typeless().as_words(), now, policy)
    }

    fn inspect_words(&self, words: &[u64], now: Instant, policy: &Policy) -> Option<EntryInfo> {
        let header = self.answers.visit(self.answers.hash(words), words, EntryHeader::load)?;
        Some(EntryInfo::new(&header, self.ticks_at(now), policy))
    }

    /// Runs one step of a flush: removes the entries, in a part of the cache, whose keys match `predicate`. Start with
    /// 0 and continue with [`FlushStep::next`]. The first step clears matching failures too.
    pub fn flush(&self, from: usize, mut predicate: impl FnMut(&KeyParts) -> bool) -> FlushStep {
        if from == 0 {
            self.failures.clear_where(|key| KeyParts::read(key).is_some_and(|parts| predicate(&parts)));
        }
        let mut removed = 0;
        let next = self.answers.sweep(from, |key, _| {
            let is_match = KeyParts::read(key).is_some_and(|parts| predicate(&parts));
            removed += usize::from(is_match);
            is_match
        });
        FlushStep { removed, next }
    }

    /// Passes the entries in a part of the cache to `visit`. Returns the position to continue from; `None` at the end.
    /// Start with 0.
    pub fn visit(
        &self,
        from: usize,
        now: Instant,
        policy: &Policy,
        mut visit: impl FnMut(KeyParts, EntryInfo),
    ) -> Option<usize> {
        let now = self.ticks_at(now);
        self.answers.sweep(from, |key, value| {
            if let (Some(parts), Some(header)) = (KeyParts::read(key), EntryHeader::from_words(value)) {
                visit(parts, EntryInfo::new(&header, now, policy));
            }
            false
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cache::Freshness;
    use crate::dns::codes::rtype;
    use crate::dns::question::Question;
    use crate::dns::{Name, Response};

    /// Returns a response of an upstream with one record: an address, or the SOA record of NXDOMAIN.
    fn received(question: &Question, exists: bool) -> Arc<Response> {
        let (rcode, record) = match exists {
            true => (rcode::NOERROR, (rtype::A, 60, vec![192, 0, 2, 1])),
            false => (rcode::NXDOMAIN, (rtype::SOA, 60, [&[0; 18][..], &60_u32.to_be_bytes()].concat())),
        };
        let mut wire = Response::with_records(question, rcode, &[record]).wire().to_vec();
        if !exists {
            wire[6..10].copy_from_slice(&[0, 0, 0, 1]);
        }
        Arc::new(Response::read(&wire, 0, question).unwrap())
    }

    #[test]
    fn the_text_of_an_entry_agrees_with_its_freshness_to_the_millisecond() {
        let cache = Cache::new(1 << 20);
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype::A);
        let key = Key::new(1, &question);
        let stored_at = Instant::now();
        cache.insert(&key, &received(&question, true), stored_at);
        let inspect_at = |millis, serve_stale| {
            let policy = Policy { max_ttl: 3600, negative_max_ttl: 30, serve_stale };
            let now = stored_at + Duration::from_millis(millis);
            let words = cache.answers.get(cache.answers.hash(key.as_words()), key.as_words()).unwrap();
            let freshness = EntryHeader::from_words(&words).unwrap().freshness(cache.ticks_at(now), &policy);
            (cache.inspect(&key, now, &policy).unwrap().to_string(), freshness)
        };
        for (millis, serve_stale, expected) in [
            (0, 100, "age 0 s, fresh for 60 s more, then stale for 100 s"),
            (59_998, 100, "age 59 s, fresh for 1 s more, then stale for 100 s"),
            (59_998, 0, "age 59 s, fresh for 1 s more"),
            (60_000, 100, "age 60 s, stale for 100 s more"),
            (60_000, 0, "age 60 s, expired"),
            (159_998, 100, "age 159 s, stale for 1 s more"),
            (160_000, 100, "age 160 s, expired"),
        ] {
            let (text, freshness) = inspect_at(millis, serve_stale);
            assert!(text.ends_with(expected), "{millis} ms: {text}");
            let agrees = match freshness {
                Freshness::Fresh(_) | Freshness::RefreshDue(_) => expected.contains("fresh for"),
                Freshness::Stale(_) => expected.contains(" s, stale for") && !expected.contains("fresh"),
                Freshness::Expired => expected.ends_with("expired"),
            };
            assert!(agrees, "{millis} ms: {text}, {freshness:?}");
        }
    }

    #[test]
    fn the_usage_of_the_classes_adds_up_to_that_of_the_cache() {
        let cache = Cache::new(1 << 20);
        let now = Instant::now();
        let question = |name: String| Question::plain(&Name::from_text(&name).unwrap(), rtype::A);
        for number in 0..300_u32 {
            let question_of_entry = question(format!("n{number}.example"));
            let key = Key::new(1, &question_of_entry);
            cache.insert(&key, &received(&question_of_entry, number % 3 > 0), now);
            if number % 10 == 0 {
                cache.insert_failure(&Key::new(1, &question(format!("f{number}.example"))), None, now);
            }
        }
        let [positive, negative, failures] = cache.usage_by_class();
        assert_eq!((positive.entries, negative.entries), (200, 100));
        assert!(positive.bytes > 0 && negative.bytes > 0);
        assert!(failures.entries == 30, "{failures:?}");
        assert_eq!(cache.bytes(), positive.bytes + negative.bytes + failures.bytes);
        assert_eq!(cache.entries(), positive.entries + negative.entries);
    }
}

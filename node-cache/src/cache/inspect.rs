//! Looking at what is kept, and forgetting it, for whoever looks after a tier. Not for the way of a question.

use std::time::Instant;

use super::header::SECOND;
use super::{Cache, Class, EntryHeader, Key, KeyParts, Policy};
use crate::dns::codes::rcode;
use crate::metrics::ClassUsage;

/// How one answer is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// Its code.
    pub rcode: u16,
    /// Octets of the message.
    pub octets: usize,
    /// Seconds since it came in.
    pub age: u64,
    /// Seconds from when it came in in which it is in its time.
    pub life: u64,
    /// Seconds after that in which it serves while others fail.
    pub stale: u64,
    /// The number of the server that it came from; 0 for none.
    pub from: u16,
}

impl EntryInfo {
    fn new(head: &EntryHeader, now: u64, policy: &Policy) -> Self {
        let (life, stale) = head.windows(policy);
        Self { rcode: head.rcode(), octets: head.length(), age: head.age(now) / SECOND, life, stale, from: head.from() }
    }
}

impl std::fmt::Display for EntryInfo {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rcode: code, octets, age, life, stale, .. } = self;
        write!(formatter, "{}, {octets} octets, came {age} s ago, ", rcode::name(*code))?;
        match (
            life.checked_sub(*age).filter(|left| *left > 0),
            (life + stale).checked_sub(*age).filter(|left| *left > 0),
        ) {
            (Some(left), _) if *stale == 0 => write!(formatter, "fresh for {left} s more"),
            (Some(left), _) => write!(formatter, "fresh for {left} s more, then stale for {stale} s"),
            (None, Some(left)) => write!(formatter, "stale for {left} s more"),
            (None, None) => write!(formatter, "over"),
        }
    }
}

impl Cache {
    /// What is held now, by class: answers that say what there is, those that say there is nothing, and failures.
    #[must_use]
    pub fn held(&self) -> [ClassUsage; 3] {
        let answers = |class, name| {
            let usage = self.answers.usage_of(class);
            ClassUsage { class: name, bytes: usage.bytes as u64, entries: usage.entries as u64 }
        };
        let (bytes, entries) = (self.failures.bytes() as u64, self.failures.entries() as u64);
        [
            answers(Class::Positive, "positive"),
            answers(Class::Negative, "negative"),
            ClassUsage { class: "failures", bytes, entries },
        ]
    }

    /// How the answer under exactly this key is kept.
    #[must_use]
    pub fn see(&self, key: &Key, now: Instant, policy: &Policy) -> Option<EntryInfo> {
        self.see_words(key.as_words(), now, policy)
    }

    /// How that is kept which is true of this key's name whatever its type is.
    #[must_use]
    pub fn covering_denial(&self, key: &Key, now: Instant, policy: &Policy) -> Option<EntryInfo> {
        self.see_words(key.of_any_type().as_words(), now, policy)
    }

    fn see_words(&self, words: &[u64], now: Instant, policy: &Policy) -> Option<EntryInfo> {
        let head = self.answers.visit(self.answers.hash(words), words, EntryHeader::read)?;
        Some(EntryInfo::new(&head, self.clock(now), policy))
    }

    /// Forgets a part of the answers whose keys are meant, with their failures; gives how many, and where to go on from
    /// until all were looked at. Begin with 0.
    pub fn flush(&self, from: usize, mut meant: impl FnMut(&KeyParts) -> bool) -> (usize, Option<usize>) {
        if from == 0 {
            self.failures.clear_where(|key| KeyParts::read(key).is_some_and(|parts| meant(&parts)));
        }
        let mut forgotten = 0;
        let next = self.answers.sweep(from, |key, _| {
            let forget = KeyParts::read(key).is_some_and(|parts| meant(&parts));
            forgotten += usize::from(forget);
            forget
        });
        (forgotten, next)
    }

    /// Shows a part of the answers; gives where to go on from until all were shown. Begin with 0.
    pub fn visit(
        &self,
        from: usize,
        now: Instant,
        policy: &Policy,
        mut show: impl FnMut(KeyParts, EntryInfo),
    ) -> Option<usize> {
        let now = self.clock(now);
        self.answers.sweep(from, |key, value| {
            if let (Some(parts), Some(head)) = (KeyParts::read(key), EntryHeader::of_copy(value)) {
                show(parts, EntryInfo::new(&head, now, policy));
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

    /// A response with one record, as another server sends it: an address, or the SOA record that goes with a denial.
    fn received(question: &Question, there: bool) -> Arc<Response> {
        let (code, record) = match there {
            true => (rcode::NOERROR, (rtype::A, 60, vec![192, 0, 2, 1])),
            false => (rcode::NXDOMAIN, (rtype::SOA, 60, [&[0; 18][..], &60_u32.to_be_bytes()].concat())),
        };
        let mut wire = Response::with_records(question, code, &[record]).wire().to_vec();
        if !there {
            wire[6..10].copy_from_slice(&[0, 0, 0, 1]);
        }
        Arc::new(Response::read(&wire, 0, question).unwrap())
    }

    #[test]
    fn what_is_seen_agrees_with_what_would_be_said_to_the_millisecond() {
        let cache = Cache::new(1 << 20);
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype::A);
        let key = Key::new(1, &question);
        let came = Instant::now();
        cache.insert(&key, &received(&question, true), came);
        let at = |millis, serve_stale| {
            let policy = Policy { max_ttl: 3600, negative_max_ttl: 30, serve_stale };
            let now = came + Duration::from_millis(millis);
            let kept = cache.answers.get(cache.answers.hash(key.as_words()), key.as_words()).unwrap();
            let state = EntryHeader::of_copy(&kept).unwrap().at(cache.clock(now), &policy);
            (cache.see(&key, now, &policy).unwrap().to_string(), state)
        };
        for (millis, serve_stale, seen) in [
            (0, 100, "came 0 s ago, fresh for 60 s more, then stale for 100 s"),
            (59_998, 100, "came 59 s ago, fresh for 1 s more, then stale for 100 s"),
            (59_998, 0, "came 59 s ago, fresh for 1 s more"),
            (60_000, 100, "came 60 s ago, stale for 100 s more"),
            (60_000, 0, "came 60 s ago, over"),
            (159_998, 100, "came 159 s ago, stale for 1 s more"),
            (160_000, 100, "came 160 s ago, over"),
        ] {
            let (text, state) = at(millis, serve_stale);
            assert!(text.ends_with(seen), "{millis} ms: {text}");
            let agrees = match state {
                Freshness::Fresh(_) | Freshness::RefreshDue(_) => seen.contains("fresh for"),
                Freshness::Stale(_) => seen.contains("ago, stale for"),
                Freshness::Expired => seen.ends_with("over"),
            };
            assert!(agrees, "{millis} ms: {text}, {state:?}");
        }
    }

    #[test]
    fn each_class_is_held_for_itself_and_all_together_are_the_whole() {
        let cache = Cache::new(1 << 20);
        let now = Instant::now();
        let question = |name: String| Question::plain(&Name::from_text(&name).unwrap(), rtype::A);
        for number in 0..300_u32 {
            let asked = question(format!("n{number}.example"));
            cache.insert(&Key::new(1, &asked), &received(&asked, number % 3 > 0), now);
            if number % 10 == 0 {
                cache.insert_failure(&Key::new(1, &question(format!("f{number}.example"))), None, now);
            }
        }
        let [positive, negative, failures] = cache.held();
        assert_eq!((positive.entries, negative.entries), (200, 100));
        assert!(positive.bytes > 0 && negative.bytes > 0);
        assert!(failures.entries == 30, "{failures:?}");
        assert_eq!(cache.bytes(), positive.bytes + negative.bytes + failures.bytes);
        assert_eq!(cache.entries(), positive.entries + negative.entries);
    }
}

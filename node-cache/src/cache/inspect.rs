//! Looking at what is kept, and forgetting it, for whoever looks after a tier. Not for the way of a question.

use std::time::Instant;

use super::{Cache, Head, Key, KeyParts, LONGEST, Policy};
use crate::packet::numbers::rcode;

/// How one answer is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
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
}

impl Seen {
    fn new(head: &Head, now: u64, policy: &Policy) -> Self {
        let (life, stale) = head.windows(policy);
        Self { rcode: head.rcode, octets: head.length(), age: head.age(now) / 1000, life, stale }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rcode: code, octets, age, life, stale } = self;
        write!(formatter, "{}, {octets} octets, came {age} s ago, ", rcode::name(*code))?;
        match (
            life.checked_sub(*age).filter(|left| *left > 0),
            (life + stale).checked_sub(*age).filter(|left| *left > 0),
        ) {
            (Some(left), _) => write!(formatter, "fresh for {left} s more, then stale for {stale} s"),
            (None, Some(left)) => write!(formatter, "stale for {left} s more"),
            (None, None) => write!(formatter, "over"),
        }
    }
}

impl Cache {
    /// How the answer under exactly this key is kept.
    #[must_use]
    pub fn see(&self, key: &Key, now: Instant, policy: &Policy) -> Option<Seen> {
        let mut bytes = vec![0; LONGEST];
        let length = self.answers.get(self.answers.hash(key.as_words()), key.as_words(), &mut bytes)?;
        Some(Seen::new(&Head::read(&bytes[..length])?, self.clock(now), policy))
    }

    /// How that is kept which is true of this key's name whatever its type is.
    #[must_use]
    pub fn see_denial(&self, key: &Key, now: Instant, policy: &Policy) -> Option<Seen> {
        self.see(&key.of_any_type(), now, policy)
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
        mut show: impl FnMut(KeyParts, Seen),
    ) -> Option<usize> {
        let now = self.clock(now);
        self.answers.sweep(from, |key, value| {
            if let (Some(parts), Some(head)) = (KeyParts::read(key), Head::read(bytemuck::cast_slice(value))) {
                show(parts, Seen::new(&head, now, policy));
            }
            false
        })
    }
}

//! How long one answer lives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answer::{Age, Answer, Origin};
use crate::packet::numbers::{ede, rcode};
use crate::packet::{Lifetime, Response};

use super::Found;

/// Bounds on how long answers live. They are applied on reading, so that a change has its effect on what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest life of an answer, and the longest TTL that is shown, in seconds.
    pub max_ttl: u32,
    /// The same for answers that say there is nothing.
    pub negative_max_ttl: u32,
    /// Seconds after that life in which the answer may still serve while others fail; 0: never.
    pub serve_stale: u32,
}

impl Policy {
    /// The life of an answer in seconds, and the longest TTL that it shows.
    fn life_and_cap(&self, response: &Response) -> (u32, u32) {
        match response.lifetime() {
            Lifetime::Positive(ttl) => (ttl.min(self.max_ttl), self.max_ttl),
            // The SOA record's TTL would outlive what it denies (RFC 2308 §5).
            Lifetime::Negative(ttl) => (ttl.min(self.negative_max_ttl), ttl.min(self.negative_max_ttl)),
            Lifetime::None => (0, self.max_ttl),
        }
    }

    /// An answer that has just come in.
    #[must_use]
    pub fn new_answer(&self, response: Arc<Response>) -> Answer {
        let (_, cap) = self.life_and_cap(&response);
        Answer { response, age: Age::Kept { age: 0, cap }, ede: None, origin: Origin::Upstream }
    }
}

/// An answer and when it came in.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) response: Arc<Response>,
    pub(super) stored: Instant,
}

impl Entry {
    pub(super) fn at(&self, now: Instant, policy: &Policy) -> Found {
        let (life, cap) = policy.life_and_cap(&self.response);
        let age = now.saturating_duration_since(self.stored);
        let answer = |age, ede, origin| Answer { response: self.response.clone(), age, ede, origin };
        if age < Duration::from_secs(life.into()) {
            let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            return Found::Fresh(answer(Age::Kept { age, cap }, None, Origin::Memory));
        }
        // What was stale already where it came from has no second window here.
        let second_hand = matches!(self.response.ede(), Some(ede::STALE_ANSWER | ede::STALE_NXDOMAIN));
        let window = Duration::from_secs(u64::from(life) + u64::from(policy.serve_stale));
        if second_hand || age >= window {
            return Found::Nothing;
        }
        let denies = self.response.rcode() == rcode::NXDOMAIN;
        let code = if denies { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER };
        Found::Stale(answer(Age::Stale, Some(code), Origin::Stale))
    }
}

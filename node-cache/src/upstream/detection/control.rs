//! Control queries: names that an upstream answered fast a moment ago and still has in its cache, so that it needs
//! nobody to answer them again. Silence for them says nothing of the names.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most names that are kept.
const MAX_NAMES: usize = 64;
/// Age up to which a name serves.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Shortest TTL that must be left when a name is asked again.
const MIN_TTL_LEFT: Duration = Duration::from_secs(5);
/// Shortest interval between two names that are kept: the names cover the last 30 s, and few answers cost anything.
const RECORD_INTERVAL: Duration = Duration::from_millis(400);

/// Names that an upstream answered fast, each of another registered domain. `Q` is the question.
#[derive(Debug)]
pub struct ControlNames<Q> {
    /// The oldest first.
    names: VecDeque<ControlName<Q>>,
    next_record: Option<Instant>,
}

#[derive(Debug)]
struct ControlName<Q> {
    question: Q,
    domain: u64,
    answered_at: Instant,
    expires_at: Instant,
    queried: u32,
}

impl<Q> Default for ControlNames<Q> {
    fn default() -> Self {
        Self { names: VecDeque::new(), next_record: None }
    }
}

impl<Q: Clone> ControlNames<Q> {
    /// Returns when the next answer may be recorded; `None` at once. Callers keep it in an atomic, so that most answers
    /// cost one load.
    #[must_use]
    pub const fn next_record(&self) -> Option<Instant> {
        self.next_record
    }

    /// Records an answer within the p95 latency, with this TTL, for a name of a registered domain with this hash. While
    /// names of enough domains are known, one of the domain is replaced, so that no domain has two.
    pub fn record(&mut self, question: Q, domain: u64, ttl: Duration, now: Instant) {
        if self.next_record.is_some_and(|at| now < at) || ttl <= MIN_TTL_LEFT {
            return;
        }
        self.next_record = Some(now + RECORD_INTERVAL);
        self.names.retain(|name| name.domain != domain && is_eligible(name, now));
        if self.names.len() >= MAX_NAMES {
            self.names.pop_front();
        }
        self.names.push_back(ControlName { question, domain, answered_at: now, expires_at: now + ttl, queried: 0 });
    }

    /// Returns the name that was queried least, of those the latest one, and counts the query.
    pub fn pick(&mut self, now: Instant) -> Option<Q> {
        let eligible = self.names.iter_mut().rev().filter(|name| is_eligible(name, now));
        let name = eligible.min_by_key(|name| name.queried)?;
        name.queried += 1;
        Some(name.question.clone())
    }

    /// Returns the number of names that may be queried at `now`.
    #[must_use]
    pub fn eligible(&self, now: Instant) -> usize {
        self.names.iter().filter(|name| is_eligible(name, now)).count()
    }
}

fn is_eligible<Q>(name: &ControlName<Q>, now: Instant) -> bool {
    now.saturating_duration_since(name.answered_at) <= MAX_AGE && name.expires_at >= now + MIN_TTL_LEFT
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_name_serves_for_thirty_seconds_and_not_in_the_last_five_of_its_ttl() {
        let start = Instant::now();
        let mut names = ControlNames::default();
        names.record("long", 1, HOUR, start);
        names.record("short", 2, 15 * SECOND, start + SECOND);
        names.record("shorter", 3, 5 * SECOND, start + 2 * SECOND);
        let eligible = [3, 12, 29, 31].map(|second| names.eligible(start + second * SECOND));
        assert_eq!(eligible, [2, 1, 1, 0]);
        assert_eq!(names.pick(start + 31 * SECOND), None);
    }

    #[test]
    fn names_are_queried_in_turns_the_latest_first() {
        let start = Instant::now();
        let mut names = ControlNames::default();
        for (name, second) in [("a", 0), ("b", 1), ("c", 2)] {
            names.record(name, u64::from(second), HOUR, start + second * SECOND);
        }
        let picked: Vec<_> = (0..4).filter_map(|_| names.pick(start + 3 * SECOND)).collect();
        assert_eq!(picked, ["c", "b", "a", "c"]);
    }

    #[test]
    fn a_domain_has_one_name_and_no_more_than_sixty_four_are_kept() {
        let start = Instant::now();
        let mut names = ControlNames::default();
        (0..200_u32).for_each(|n| names.record(n, u64::from(n % 3), HOUR, start + n * RECORD_INTERVAL));
        assert_eq!(names.eligible(start + 200 * RECORD_INTERVAL), 3);
        (0..10_000_u32).for_each(|n| names.record(n, n.into(), HOUR, start + HOUR + n * Duration::from_millis(1)));
        assert!(names.names.len() <= MAX_NAMES);
        assert!((20..=26).contains(&names.names.len()), "one in 400 ms: {}", names.names.len());
    }
}

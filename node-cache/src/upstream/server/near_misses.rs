//! Near misses by registered domain: whoever forges responses for a domain has to guess for many of its queries, and
//! soon all of them go over TCP, where there is nothing to guess. Only the domain that is guessed at is affected. Pure:
//! the time is a parameter.

use std::time::{Duration, Instant};

use crate::dns::Name;

/// Queries with near misses in [`WINDOW`] after which all queries for a domain go over TCP.
const MAX_QUERIES: u32 = 4;
/// Time in which queries with near misses are counted together.
const WINDOW: Duration = Duration::from_secs(30);
/// How long queries for a domain go over TCP. Then they show whether somebody still guesses.
const TCP_PERIOD: Duration = Duration::from_secs(60);
/// Most registered domains that are kept for a server. A domain that makes room loses its count, not the protection of
/// each single query.
const MAX_DOMAINS: usize = 64;

/// Registered domains with near misses in responses of one server.
#[derive(Debug, Default)]
pub(super) struct NearMissDomains {
    domains: Vec<NearMissDomain>,
    /// When the last of the domains returns to UDP: until then each query looks for its domain.
    over_tcp_until: Option<Instant>,
}

#[derive(Debug)]
struct NearMissDomain {
    domain: Name,
    /// Start of the window.
    since: Instant,
    /// Queries with near misses in the window.
    queries: u32,
    over_tcp_until: Option<Instant>,
}

impl NearMissDomain {
    fn is_over_tcp(&self, now: Instant) -> bool {
        self.over_tcp_until.is_some_and(|until| now < until)
    }

    fn is_kept(&self, now: Instant) -> bool {
        self.is_over_tcp(now) || now.saturating_duration_since(self.since) < WINDOW
    }
}

impl NearMissDomains {
    /// Returns whether queries for `name` go over TCP at `now`. Costs a comparison while none do.
    pub(super) fn is_over_tcp(&self, name: &Name, now: Instant) -> bool {
        if self.over_tcp_until.is_none_or(|until| now >= until) {
            return false;
        }
        let domain = name.registered_domain();
        self.domains.iter().any(|known| known.domain == domain && known.is_over_tcp(now))
    }

    /// Records a query for `name` that had a near miss. Returns whether queries for its domain go over TCP from then
    /// on, and none did before.
    pub(super) fn record(&mut self, name: &Name, now: Instant) -> bool {
        let was_over_tcp = self.over_tcp_until.is_some_and(|until| now < until);
        self.domains.retain(|known| known.is_kept(now));
        let domain = name.registered_domain();
        let index = self.domains.iter().position(|known| known.domain == domain).unwrap_or_else(|| {
            if self.domains.len() >= MAX_DOMAINS {
                let oldest = (0..self.domains.len()).min_by_key(|index| self.domains[*index].since);
                oldest.map(|index| self.domains.swap_remove(index));
            }
            self.domains.push(NearMissDomain { domain, since: now, queries: 0, over_tcp_until: None });
            self.domains.len() - 1
        });
        let Some(known) = self.domains.get_mut(index) else { return false };
        if now.saturating_duration_since(known.since) >= WINDOW {
            (known.since, known.queries) = (now, 0);
        }
        known.queries = known.queries.saturating_add(1);
        if known.queries < MAX_QUERIES {
            return false;
        }
        known.over_tcp_until = Some(now + TCP_PERIOD);
        self.over_tcp_until = known.over_tcp_until;
        !was_over_tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    /// Returns the domains after a near miss for each of these names.
    fn after_near_misses(names: &[&str], now: Instant) -> NearMissDomains {
        let mut domains = NearMissDomains::default();
        for text in names {
            domains.record(&name(text), now);
        }
        domains
    }

    #[test]
    fn a_domain_that_is_guessed_at_goes_over_tcp_for_a_minute_and_no_other_one_does() {
        let now = Instant::now();
        let guessed = ["a.one.example", "b.one.example", "c.one.example"];
        let mut domains = after_near_misses(&guessed, now);
        assert!(!domains.is_over_tcp(&name("a.one.example"), now), "three queries are not enough");
        assert!(domains.record(&name("d.one.example"), now));
        assert!(!domains.record(&name("d.one.example"), now), "it is reported once");
        assert!(domains.is_over_tcp(&name("e.one.example"), now + 59 * SECOND));
        assert!(!domains.is_over_tcp(&name("e.one.example"), now + 60 * SECOND));
        for other in ["a.two.example", "example", ".", "one.example.net"] {
            assert!(!domains.is_over_tcp(&name(other), now), "{other}");
        }
    }

    #[test]
    fn rare_near_misses_change_nothing() {
        let start = Instant::now();
        let mut domains = NearMissDomains::default();
        for number in 0..100 {
            let now = start + number * WINDOW / 3;
            assert!(!domains.record(&name("www.example"), now), "{number}");
            assert!(!domains.is_over_tcp(&name("www.example"), now));
        }
    }

    #[test]
    fn domains_are_bounded_and_the_one_counted_first_makes_room() {
        let start = Instant::now();
        let mut domains = after_near_misses(&["a.first.example"; 4], start);
        assert!(domains.is_over_tcp(&name("a.first.example"), start));
        for number in 0..MAX_DOMAINS {
            domains.record(&name(&format!("a.domain-{number}.example")), start + SECOND);
        }
        assert_eq!(domains.domains.len(), MAX_DOMAINS);
        assert!(!domains.is_over_tcp(&name("a.first.example"), start + SECOND));
        domains.record(&name("a.example"), start + 2 * WINDOW);
        assert_eq!(domains.domains.len(), 1, "those of an earlier window are forgotten");
    }
}

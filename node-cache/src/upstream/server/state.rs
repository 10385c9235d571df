//! State of one server: health, latency, the query to probe it with, 0x20 support. Pure: the time is a parameter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::{CircuitBreaker, Health};
use crate::dns::question::Question;

/// How long a server that does not echo the case of names is queried without 0x20.
const NO_0X20_PERIOD: Duration = Duration::from_secs(600);
/// Shortest interval between two probes of a down server with the unanswered question itself.
const SAME_NAME_INTERVAL: Duration = Duration::from_secs(30);

/// State of one server.
#[derive(Debug, Default)]
pub(super) struct ServerState {
    breaker: CircuitBreaker,
    recovered_at: Option<Instant>,
    unanswered: Option<UnansweredQuestion>,
    case_not_echoed_at: Option<Instant>,
}

/// The last question that a server did not answer before it went down.
#[derive(Clone, Debug)]
struct UnansweredQuestion {
    question: Arc<Question>,
    sent_at: Instant,
}

/// Question of a due probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeQuestion {
    /// The question itself that the server did not answer.
    Same(Arc<Question>),
    /// A name below that of this question, with a random label, so that the query is not repeated.
    Below(Arc<Question>),
}

impl ServerState {
    /// Returns the health at `now`.
    pub(super) fn health(&self, now: Instant) -> Health {
        self.breaker.health(now)
    }

    /// Returns the smoothed latency; zero before the first response.
    pub(super) fn latency(&self) -> Duration {
        self.breaker.latency()
    }

    /// Returns the p95 latency; `None` with fewer than 16 samples.
    pub(super) fn p95(&self) -> Option<Duration> {
        self.breaker.p95()
    }

    /// Records a response. Returns whether the server is up again with it.
    pub(super) fn record_response(&mut self, round_trip: Duration, now: Instant) -> bool {
        let recovers = self.breaker.health(now) != Health::Up;
        self.breaker.record_response(round_trip);
        if recovers {
            self.recovered_at = Some(now);
        }
        recovers
    }

    /// Records a query without a response in time. Returns whether the server goes down with this failure.
    pub(super) fn record_failure(&mut self, question: &Arc<Question>, now: Instant) -> bool {
        // The name of a query to a server that is down may be made up.
        if self.breaker.health(now) == Health::Up {
            self.unanswered = Some(UnansweredQuestion { question: question.clone(), sent_at: now });
        }
        self.breaker.record_failure(now)
    }

    /// Records that a probe is sent: the next one is due a second later.
    pub(super) fn record_probe(&mut self, now: Instant) {
        self.breaker.record_probe(now);
    }

    /// Returns when the server last came up again after it was down.
    pub(super) const fn recovered_at(&self) -> Option<Instant> {
        self.recovered_at
    }

    /// Returns the question of the probe that is due at `now`, and records the probe. `None` while the server is up,
    /// before the next probe is due, or if there is no unanswered question.
    pub(super) fn take_probe(&mut self, now: Instant) -> Option<ProbeQuestion> {
        if self.breaker.health(now) != Health::ProbeDue {
            return None;
        }
        self.breaker.record_probe(now);
        let UnansweredQuestion { question, sent_at } = self.unanswered.as_mut()?;
        if now.saturating_duration_since(*sent_at) < SAME_NAME_INTERVAL {
            return Some(ProbeQuestion::Below(question.clone()));
        }
        *sent_at = now;
        Some(ProbeQuestion::Same(question.clone()))
    }

    /// Returns whether the server echoes the 0x20 case of names, as far as is known.
    pub(super) fn echoes_case(&self, now: Instant) -> bool {
        self.case_not_echoed_at.is_none_or(|at| now.saturating_duration_since(at) >= NO_0X20_PERIOD)
    }

    /// Records that the server does not echo the case of names. Returns whether this is the first time.
    pub(super) fn record_case_not_echoed(&mut self, now: Instant) -> bool {
        self.case_not_echoed_at.replace(now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::rtype;

    const ROUND_TRIP: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn question(name: &str) -> Arc<Question> {
        Arc::new(Question::plain(&Name::from_text(name).unwrap(), rtype::A))
    }

    /// Returns the state of a server that went down at `now` with `question`.
    fn down(question: &Arc<Question>, now: Instant) -> ServerState {
        let mut state = ServerState::default();
        let failures = [(); 3].map(|()| state.record_failure(question, now));
        assert_eq!(failures, [false, false, true]);
        state
    }

    #[test]
    fn a_response_brings_a_server_up_and_its_time_is_remembered() {
        let now = Instant::now();
        let mut state = down(&question("a.example"), now);
        assert_eq!((state.health(now), state.recovered_at()), (Health::Down, None));
        assert!(state.record_response(ROUND_TRIP, now + SECOND));
        assert!(!state.record_response(ROUND_TRIP, now + 2 * SECOND), "it is up already");
        assert_eq!((state.health(now), state.recovered_at()), (Health::Up, Some(now + SECOND)));
    }

    #[test]
    fn a_server_is_probed_below_the_unanswered_name_and_now_and_then_with_it() {
        let now = Instant::now();
        let first = question("a.example");
        let mut state = down(&first, now);
        assert_eq!(state.take_probe(now), None, "it is too early");
        assert_eq!(state.take_probe(now + SECOND), Some(ProbeQuestion::Below(first.clone())));
        assert_eq!(state.take_probe(now + SECOND), None, "one probe at a time");
        // A failure while the server is down does not replace the unanswered question.
        state.record_failure(&question("made-up.example"), now + SECOND);
        assert_eq!(state.take_probe(now + 30 * SECOND), Some(ProbeQuestion::Same(first.clone())));
        assert_eq!(state.take_probe(now + 31 * SECOND), Some(ProbeQuestion::Below(first)));
        state.record_response(ROUND_TRIP, now + 31 * SECOND);
        assert_eq!(state.take_probe(now + 32 * SECOND), None, "it is up");
    }

    #[test]
    fn a_probe_that_is_recorded_puts_the_next_one_off() {
        let now = Instant::now();
        let mut state = down(&question("a.example"), now);
        state.record_probe(now + SECOND);
        assert_eq!(state.take_probe(now + SECOND), None);
        assert!(state.take_probe(now + 2 * SECOND).is_some());
    }

    #[test]
    fn a_server_that_does_not_echo_the_case_is_queried_without_0x20_for_ten_minutes() {
        let now = Instant::now();
        let mut state = ServerState::default();
        assert!(state.echoes_case(now));
        assert!(state.record_case_not_echoed(now) && !state.record_case_not_echoed(now), "it is reported once");
        assert!(!state.echoes_case(now + 599 * SECOND));
        assert!(state.echoes_case(now + 600 * SECOND));
    }
}

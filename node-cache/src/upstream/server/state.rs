//! State of one server: health, latency, the questions to probe it with, 0x20 support. Pure: the time is a parameter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answered_questions::AnsweredQuestions;
use super::health::{CircuitBreaker, Health};
use crate::dns::question::Question;

/// How long a server that does not echo the case of names is queried without 0x20.
const NO_0X20_PERIOD: Duration = Duration::from_secs(600);

/// State of one server.
#[derive(Debug, Default)]
pub(super) struct ServerState {
    breaker: CircuitBreaker,
    recovered_at: Option<Instant>,
    answered: AnsweredQuestions,
    case_not_echoed_at: Option<Instant>,
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

    /// Records a response; `answered` is its question when the rcode is NOERROR or NXDOMAIN. Returns whether the server
    /// is up again with it.
    pub(super) fn record_response(
        &mut self,
        answered: Option<&Arc<Question>>,
        round_trip: Duration,
        now: Instant,
    ) -> bool {
        let recovers = self.breaker.health(now) != Health::Up;
        self.breaker.record_response(round_trip);
        self.answered.record_response(answered, now);
        if recovers {
            self.recovered_at = Some(now);
        }
        recovers
    }

    /// Records a query without a response in time. Returns whether the server goes down with this failure.
    pub(super) fn record_failure(&mut self, question: &Question, now: Instant) -> bool {
        self.answered.record_silence(question);
        self.breaker.record_failure(now)
    }

    /// Records a probe without a response in time. Returns whether the server goes down with this failure.
    pub(super) fn record_probe_failure(&mut self, now: Instant) -> bool {
        self.breaker.record_probe_failure(now)
    }

    /// Returns the questions of the confirmation that is due at `now`, and records it; none while none is due.
    pub(super) fn take_confirmation(&mut self, now: Instant) -> Vec<Arc<Question>> {
        if !self.breaker.is_confirmation_due(now) {
            return Vec::new();
        }
        let questions = self.answered.confirmation();
        self.breaker.start_confirmation(questions.len(), now);
        questions
    }

    /// Returns when the server last came up again after it was down.
    pub(super) const fn recovered_at(&self) -> Option<Instant> {
        self.recovered_at
    }

    /// Returns the question of the probe that is due at `now`, and records the probe: an answered question or the root,
    /// or `fallback` for a server that has answered no question. `None` while the server is up or before the next probe
    /// is due.
    pub(super) fn take_probe(&mut self, fallback: Option<&Arc<Question>>, now: Instant) -> Option<Arc<Question>> {
        if self.breaker.health(now) != Health::ProbeDue {
            return None;
        }
        self.breaker.record_probe(now);
        Some(self.answered.next_probe(fallback, now))
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

    /// Returns the state of a server that answered one question, and then was silent for this one and for all probes.
    fn down(answered: &Arc<Question>, silent: &Question, now: Instant) -> ServerState {
        let mut state = ServerState::default();
        state.record_response(Some(answered), ROUND_TRIP, now);
        let failures = [(); 2].map(|()| state.record_failure(silent, now));
        let confirmation = state.take_confirmation(now);
        assert_eq!((failures, confirmation.len()), ([false; 2], 2));
        assert_eq!(state.take_confirmation(now), [], "one at a time");
        assert!(!state.record_probe_failure(now) && state.record_probe_failure(now));
        state
    }

    #[test]
    fn a_response_brings_a_server_up_and_its_time_is_remembered() {
        let now = Instant::now();
        let mut state = down(&question("a.example"), &question("dead.test"), now);
        assert_eq!((state.health(now), state.recovered_at()), (Health::Down, None));
        assert!(state.record_response(None, ROUND_TRIP, now + SECOND));
        assert!(!state.record_response(None, ROUND_TRIP, now + 2 * SECOND), "it is up already");
        assert_eq!((state.health(now), state.recovered_at()), (Health::Up, Some(now + SECOND)));
    }

    #[test]
    fn a_down_server_is_probed_once_a_second_and_never_with_the_name_that_it_is_silent_for() {
        let now = Instant::now();
        let known = question("a.example");
        let dead = question("dead.test");
        let root = Arc::new(Question::plain(&Name::root(), rtype::NS));
        let mut state = down(&known, &dead, now);
        assert_eq!(state.take_probe(Some(&dead), now), None, "it is too early");
        assert_eq!(state.take_probe(Some(&dead), now + SECOND), Some(root));
        assert_eq!(state.take_probe(Some(&dead), now + SECOND), None, "one probe at a time");
        state.record_failure(&dead, now + 2 * SECOND);
        assert_eq!(state.take_probe(Some(&dead), now + 2 * SECOND), Some(known));
        state.record_response(None, ROUND_TRIP, now + 2 * SECOND);
        assert_eq!(state.take_probe(Some(&dead), now + 4 * SECOND), None, "it is up");
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

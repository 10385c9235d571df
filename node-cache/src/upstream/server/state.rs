//! State of one server: health, outcomes, the questions to probe it with, support of 0x20 and EDNS, near misses, and
//! whether it is closed over TCP. Pure: the time is a parameter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answered_questions::AnsweredQuestions;
use super::case_support::CaseSupport;
use super::edns_support::EdnsSupport;
use super::health::{CircuitBreaker, Health};
use super::lame_domains::LameDomains;
use super::near_misses::NearMissDomains;
use super::outcomes::Outcomes;
use crate::dns::question::Question;
use crate::dns::{EdnsReply, Name};

/// How long a server that does not echo the case of names, or compares them by octet, is queried without 0x20.
const NO_0X20_PERIOD: Duration = Duration::from_secs(600);
/// How long queries that would go over TCP because of near misses stay on UDP after TCP was found closed, and truncated
/// responses wait for a connection but a moment. Where packets to it are dropped, each try costs a second.
const TCP_CLOSED_PERIOD: Duration = Duration::from_secs(30);

/// State of one server.
#[derive(Debug, Default)]
pub(super) struct ServerState {
    breaker: CircuitBreaker,
    pinged_at: Option<Instant>,
    recovered_at: Option<Instant>,
    answered: AnsweredQuestions,
    lower_case_since: Option<(LowerCaseReason, Instant)>,
    case_support: CaseSupport,
    edns: EdnsSupport,
    near_misses: NearMissDomains,
    tcp_closed_at: Option<Instant>,
    outcomes: Outcomes,
    lame_domains: LameDomains,
}

/// Reason for which a server is queried in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowerCaseReason {
    /// The configuration says so.
    Configured,
    /// The server does not echo the case of names.
    CaseNotEchoed,
    /// The server compares names by octet: it denied several in mixed case that it knows in lower case.
    ComparedByOctet,
}

impl LowerCaseReason {
    /// Returns the reason in words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Configured => "by its configuration",
            Self::CaseNotEchoed => "because it changes the case of names",
            Self::ComparedByOctet => "because it compares names by octet",
        }
    }
}

/// Way in which a query is sent to a server of protocol UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct QueryPath {
    /// Whether the case of the name is randomized (0x20).
    pub(in crate::upstream) case_0x20: bool,
    /// Whether the query is sent over TCP, and over UDP only when the server does not respond there.
    pub(in crate::upstream) tcp_first: bool,
    /// Whether a denial is checked by a query in lower case.
    pub(in crate::upstream) checks_denials: bool,
    /// Whether the server is one without EDNS.
    pub(in crate::upstream) without_edns: bool,
}

impl ServerState {
    /// Returns whether the server is suspected: its last queries had no response in time.
    pub(super) const fn is_suspected(&self) -> bool {
        self.breaker.is_suspected()
    }

    /// Returns whether the server has sent any response.
    pub(super) const fn has_responded(&self) -> bool {
        self.breaker.has_answered()
    }

    /// Returns the circuit breaker.
    pub(super) const fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    /// Returns the outcomes of attempts.
    pub(super) const fn outcomes(&mut self) -> &mut Outcomes {
        &mut self.outcomes
    }

    /// Returns the domains with failures that other servers refuted.
    pub(super) const fn lame_domains(&mut self) -> &mut LameDomains {
        &mut self.lame_domains
    }

    /// Records a response; `answered` is its question when the rcode is NOERROR or NXDOMAIN, `edns` what it says about
    /// EDNS when the query had an OPT record. Returns whether the server is up again with it.
    pub(super) fn record_response(
        &mut self,
        answered: Option<&Arc<Question>>,
        edns: Option<EdnsReply>,
        round_trip: Duration,
        now: Instant,
    ) -> bool {
        let recovers = self.breaker.health(now) != Health::Up;
        self.breaker.record_response(round_trip);
        self.answered.record_response(answered, now);
        if let Some(reply) = edns {
            self.edns.record_reply(reply, now);
        }
        if recovers {
            self.recovered_at = Some(now);
        }
        recovers
    }

    /// Returns whether no ping was sent since this time, and records one at `now` if so.
    pub(super) fn take_ping(&mut self, since: Instant, now: Instant) -> bool {
        let is_due = self.pinged_at.is_none_or(|at| at < since);
        if is_due {
            self.pinged_at = Some(now);
        }
        is_due
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

    /// Records a loop probe without a response in time. Returns whether the server goes down with this failure.
    pub(super) fn record_loop_probe_failure(&mut self, now: Instant) -> bool {
        self.breaker.record_loop_probe_failure(now)
    }

    /// Returns the questions of the confirmation that is due at `now`, and records it; none while none is due.
    pub(super) fn take_confirmation(&mut self, max: usize, now: Instant) -> Vec<Arc<Question>> {
        if max == 0 || !self.breaker.is_confirmation_due(now) {
            return Vec::new();
        }
        let questions = self.answered.confirmation(max);
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

    /// Returns the way of a query for `name`.
    pub(super) fn query_path(&self, name: &Name, now: Instant) -> QueryPath {
        let case_0x20 = self.lower_case_reason(now).is_none();
        QueryPath {
            case_0x20,
            tcp_first: self.near_misses.is_over_tcp(name, now) && self.is_tcp_usable(now),
            checks_denials: case_0x20 && !self.case_support.is_shown(),
            without_edns: self.edns.absent_for(now).is_some(),
        }
    }

    /// Returns the support of EDNS.
    pub(super) const fn edns(&self) -> &EdnsSupport {
        &self.edns
    }

    /// Records an error to the query for `name` with EDNS, and an answer to the one without. Returns whether the server
    /// counts as one without EDNS from now on.
    pub(super) fn record_edns_rejection(&mut self, name: &Name, now: Instant) -> bool {
        self.edns.record_rejection(name, now)
    }

    /// Records a query for `name` that had a near miss. Returns whether queries for its domain go over TCP from then
    /// on, and no queries did before.
    pub(super) fn record_near_miss(&mut self, name: &Name, now: Instant) -> bool {
        self.near_misses.record(name, now)
    }

    /// Returns whether the server is open over TCP, as far as is known.
    pub(super) fn is_tcp_usable(&self, now: Instant) -> bool {
        self.tcp_closed_at.is_none_or(|at| now.saturating_duration_since(at) >= TCP_CLOSED_PERIOD)
    }

    /// Records that no connection to the server could be opened.
    pub(super) fn record_tcp_closed(&mut self, now: Instant) {
        self.tcp_closed_at = Some(now);
    }

    /// Returns why the server is queried in lower case; `None` while it is queried in random case.
    pub(super) fn lower_case_reason(&self, now: Instant) -> Option<LowerCaseReason> {
        let (reason, since) = self.lower_case_since?;
        (now.saturating_duration_since(since) < NO_0X20_PERIOD).then_some(reason)
    }

    /// Records that the server does not echo the case of names. Returns whether this is the first time.
    pub(super) fn record_case_not_echoed(&mut self, now: Instant) -> bool {
        self.lower_case_since.replace((LowerCaseReason::CaseNotEchoed, now)).is_none()
    }

    /// Records a response with records to a query in mixed case.
    pub(super) const fn record_known_in_mixed_case(&mut self) {
        self.case_support.record_known();
    }

    /// Records a name that the server denied in mixed case and knew in lower case. Returns whether the server is
    /// queried in lower case from then on.
    pub(super) fn record_known_in_lower_case_only(&mut self, now: Instant) -> bool {
        let compares_by_octet = self.case_support.record_mismatch();
        if compares_by_octet {
            self.lower_case_since = Some((LowerCaseReason::ComparedByOctet, now));
        }
        compares_by_octet
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
        state.record_response(Some(answered), None, ROUND_TRIP, now);
        let failures = [(); 2].map(|()| state.record_failure(silent, now));
        let confirmation = state.take_confirmation(2, now);
        assert_eq!((failures, confirmation.len()), ([false; 2], 2));
        assert_eq!(state.take_confirmation(2, now), [], "one at a time");
        assert!(!state.record_probe_failure(now) && state.record_probe_failure(now));
        state
    }

    #[test]
    fn a_response_brings_a_server_up_and_its_time_is_remembered() {
        let now = Instant::now();
        let mut state = down(&question("a.example"), &question("dead.test"), now);
        assert_eq!((state.breaker.health(now), state.recovered_at()), (Health::Down, None));
        assert!(state.record_response(None, None, ROUND_TRIP, now + SECOND));
        assert!(!state.record_response(None, None, ROUND_TRIP, now + 2 * SECOND), "it is up already");
        assert_eq!((state.breaker.health(now), state.recovered_at()), (Health::Up, Some(now + SECOND)));
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
        state.record_response(None, None, ROUND_TRIP, now + 2 * SECOND);
        assert_eq!(state.take_probe(Some(&dead), now + 4 * SECOND), None, "it is up");
    }

    #[test]
    fn a_server_that_does_not_echo_the_case_is_queried_without_0x20_for_ten_minutes() {
        let now = Instant::now();
        let mut state = ServerState::default();
        let case_0x20 = |state: &ServerState, now| state.query_path(&question("a.example").name, now).case_0x20;
        assert!(case_0x20(&state, now));
        assert!(state.record_case_not_echoed(now) && !state.record_case_not_echoed(now), "it is reported once");
        assert!(!case_0x20(&state, now + 599 * SECOND));
        assert!(case_0x20(&state, now + 600 * SECOND));
    }

    #[test]
    fn denials_are_checked_until_a_name_is_known_in_mixed_case_or_the_server_is_queried_in_lower_case() {
        let now = Instant::now();
        let path = |state: &ServerState, now| {
            let QueryPath { case_0x20, checks_denials, .. } = state.query_path(&question("a.example").name, now);
            (case_0x20, checks_denials)
        };
        let mut state = ServerState::default();
        assert_eq!(path(&state, now), (true, true));
        state.record_known_in_mixed_case();
        assert_eq!(path(&state, now), (true, false));
        assert!([(); 5].iter().all(|()| !state.record_known_in_lower_case_only(now)), "whatever a domain's owner does");
        let mut by_octet = ServerState::default();
        assert_eq!([(); 3].map(|()| by_octet.record_known_in_lower_case_only(now)), [false, false, true]);
        assert_eq!(path(&by_octet, now + 599 * SECOND), (false, false));
        assert_eq!(by_octet.lower_case_reason(now), Some(LowerCaseReason::ComparedByOctet));
        assert_eq!(path(&by_octet, now + 600 * SECOND), (true, true));
        assert!(by_octet.record_known_in_lower_case_only(now + 600 * SECOND), "one name shows it again");
    }

    #[test]
    fn a_domain_that_is_guessed_at_stays_on_udp_while_the_server_is_closed_over_tcp() {
        let now = Instant::now();
        let name = &question("www.example").name;
        let mut state = ServerState::default();
        while !state.record_near_miss(name, now) {
            assert!(!state.query_path(name, now).tcp_first);
        }
        let path = QueryPath { case_0x20: true, tcp_first: true, checks_denials: true, without_edns: false };
        assert_eq!(state.query_path(name, now), path);
        assert!(!state.query_path(&question("www.test").name, now).tcp_first, "another domain");
        state.record_tcp_closed(now);
        assert!(!state.query_path(name, now + 29 * SECOND).tcp_first);
        assert!(state.query_path(name, now + 30 * SECOND).tcp_first);
    }

    #[test]
    fn silent_loop_probes_make_no_server_suspected_that_has_answered() {
        let now = Instant::now();
        let mut state = ServerState::default();
        state.record_response(Some(&question("a.example")), None, ROUND_TRIP, now);
        assert!((0..10).all(|_| !state.record_loop_probe_failure(now)));
        state.record_failure(&question("dead.test"), now);
        assert_eq!(state.take_confirmation(2, now), [], "one silent name is no suspicion");
        let mut unknown = ServerState::default();
        let failures = [(); 3].map(|()| unknown.record_loop_probe_failure(now));
        assert_eq!(failures, [false, false, true], "nothing came from this one yet");
    }
}

//! Sends of a query: which server is queried next, for how long it is awaited, and whether a further send is worth it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Attempt, AttemptEvent, AttemptPurpose, AttemptTimeouts};
use super::hedge::{AttemptPoll, HedgedQuery, answering_count};
use super::retry::{MAX_LIVENESS_DELAY, MAX_PACKETS, tier_timeout};
use super::select::{MAX_SENDS, SendCounts, may_send};
use crate::metrics::PacketClass;
use crate::upstream::server::{Server, is_probe_name};

/// Timeouts of the first, second and third attempt of a query. When one passes, the attempt counts as a failure and the
/// next server is queried. The last one is the longest, as no server is left after it.
pub(super) const ATTEMPT_TIMEOUTS: [Duration; MAX_SENDS] =
    [Duration::from_millis(350), Duration::from_millis(500), Duration::from_millis(900)];

/// Timeout of an attempt with others behind it when more than [`MAX_SENDS`] servers are named: of the third one and
/// later, and of servers that have not answered lately. Eight silent servers are tried within 2.1 s, and the last one
/// has as long as the deadline leaves.
const SHORT_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(300);
/// Shortest time before a query is hedged. Otherwise the p95 latency of the server decides.
const MIN_HEDGE_DELAY: Duration = Duration::from_millis(10);

impl HedgedQuery {
    /// Starts the first attempt, if there is a server.
    pub(super) fn start_first(&mut self) {
        self.leave_out_loops();
        let Some(server) = self.take_first(self.started_at) else { return };
        server.retries().budget.count_first_send();
        self.is_of_tier = server.is_of_tier();
        self.start(server, self.started_at);
    }

    /// Returns whether the query may go to a server of the reserve after an event of this server: a server before the
    /// reserve has been silent for this query, is slow while it is suspected, or has no room in its packet budget. A
    /// bad response is no silence.
    pub(super) fn may_use_reserve(&self, server: &Server, event: &AttemptEvent) -> bool {
        match event {
            AttemptEvent::TimedOut | AttemptEvent::LivenessDue | AttemptEvent::Failed => true,
            AttemptEvent::HedgeDue if server.is_suspected() || server.hedges_to_fallback() => true,
            // Nothing was sent: the servers before are out of budget.
            AttemptEvent::Refused if self.started == 1 => true,
            AttemptEvent::HedgeDue | AttemptEvent::Response(_) | AttemptEvent::Refused => {
                server.is_reserve() || self.in_flight().any(Attempt::has_failed)
            }
        }
    }

    /// Starts an attempt with the next server outside of this tier, if one remains and a retry is worth it. Behind the
    /// first [`MAX_SENDS`], servers are left out that [`may_send`] excludes. `may_use_reserve` says whether it may be
    /// one of the pool's reserve: the first send there takes no token, since it costs the servers before nothing.
    pub(super) fn start_next(&mut self, is_hedge: bool, may_use_reserve: bool, now: Instant) {
        self.leave_out_loops();
        let counts = SendCounts {
            to_answering: answering_count(&self.attempts, now) + usize::from(self.repetitions),
            bad_responses: usize::from(self.bad_responses + self.repetitions),
        };
        let mut has_token = None;
        let is_room_known = self.has_room(now);
        for index in (0..self.remaining.len()).rev() {
            let Some(next) = self.remaining.get(index) else { break };
            if next.is_reserve() && !may_use_reserve {
                continue;
            }
            let is_answering = next.has_answered_lately(now.into_std());
            let is_repeat = self.has_queried(next);
            if usize::from(self.started + self.repetitions) >= MAX_SENDS && !may_send(is_answering, counts)
                || is_repeat && self.packets_to(next) >= MAX_PACKETS
            {
                self.remaining.remove(index);
                continue;
            }
            if is_room_known && !next.gate().has_room(self.packet_class(), now.into_std()) {
                continue;
            }
            // A server that has not answered lately is sent the query once, beside those that have.
            let is_allowed = match next.is_reserve() && !is_repeat {
                true => self.is_worth_the_reserve(next, now),
                false => {
                    !is_answering && !is_repeat || *has_token.get_or_insert_with(|| self.take_retry(is_hedge, now))
                }
            };
            if is_allowed {
                let server = self.remaining.remove(index);
                if !server.take_packet(now.into_std()) {
                    continue;
                }
                self.start(server, now);
                return;
            }
        }
    }

    /// Starts an attempt.
    pub(super) fn start(&mut self, server: Arc<Server>, now: Instant) {
        let timeouts = if self.is_of_tier {
            let fail_after = tier_timeout(usize::from(self.started));
            let hedge_after =
                server.p95().map_or(MAX_LIVENESS_DELAY, |p95| p95.clamp(MIN_HEDGE_DELAY, MAX_LIVENESS_DELAY));
            AttemptTimeouts { hedge_after, fail_after }
        } else {
            let fail_after = self.fail_after(&server, now);
            // Hedging pays only with another server: the same one would just be queried twice.
            let next_is_other = self.remaining.last().is_some_and(|next| !next.has_same_endpoint(&server));
            let p95 = if next_is_other { server.p95() } else { None };
            let hedge_after = p95.map_or(fail_after, |p95| p95.clamp(MIN_HEDGE_DELAY, fail_after));
            AttemptTimeouts { hedge_after, fail_after }
        };
        let is_over_tcp = self.is_of_tier && self.repeats_over_tcp(&server);
        let (question, class) = (self.question.clone(), self.packet_class());
        let mut attempt = Attempt::start(server, question, AttemptPurpose::Query, class, timeouts, now);
        if is_over_tcp {
            attempt = attempt.repeated_over_tcp();
        }
        if self.started == 0 {
            attempt.compare_server();
        }
        self.attempts.push(attempt);
        self.started += 1;
        self.liveness_due = None;
    }

    /// Returns the timeout of the next attempt, with a server that is no longer among those that remain.
    fn fail_after(&self, server: &Server, now: Instant) -> Duration {
        let started = usize::from(self.started);
        let is_one_of_many = !self.remaining.is_empty() && started + 1 + self.remaining.len() > MAX_SENDS;
        if is_one_of_many && (started + 1 >= MAX_SENDS || !server.has_answered_lately(now.into_std())) {
            return SHORT_ATTEMPT_TIMEOUT;
        }
        ATTEMPT_TIMEOUTS[started.min(MAX_SENDS - 1)]
    }

    /// Returns whether the domain of the query is worth a send to this server of the reserve, and counts it as a first
    /// one there.
    fn is_worth_the_reserve(&self, server: &Server, now: Instant) -> bool {
        let Some(first) = self.attempts.first() else { return true };
        let is_worth_it = !is_probe_name(&self.question.name)
            && first.server().retries().silent_domains.may_retry(&self.question.name, now.into_std());
        if is_worth_it {
            server.retries().budget.count_first_send();
        }
        is_worth_it
    }

    /// Takes a token for a retry, if one is worth it. Those of a hedge leave half of the burst to other retries.
    pub(super) fn take_retry(&mut self, is_hedge: bool, now: Instant) -> bool {
        let Some(first) = self.attempts.first() else { return true };
        let retries = first.server().retries();
        let now = now.into_std();
        // A loop probe of another process must go on as a single query.
        let is_allowed = !is_probe_name(&self.question.name)
            && retries.silent_domains.may_retry(&self.question.name, now)
            && if is_hedge { retries.budget.take_hedge(now) } else { retries.budget.take(now) };
        self.tokens += u8::from(is_allowed);
        if is_hedge && !is_allowed {
            first.server().gate().counts().count_withheld_hedge();
        }
        is_allowed
    }

    /// Removes servers in a forwarding loop from those that remain, while another one is up.
    pub(super) fn leave_out_loops(&mut self) {
        if self.remaining.iter().any(|server| server.is_in_forwarding_loop()) && self.has_server_without_loop() {
            self.remaining.retain(|server| !server.is_in_forwarding_loop());
        }
    }

    /// Returns whether a server was queried.
    pub(super) fn has_queried(&self, server: &Server) -> bool {
        self.attempts.iter().any(|attempt| attempt.server().has_same_endpoint(server))
    }

    /// Returns the packets that the query has cost a server, probes included where it is the only one.
    pub(super) fn packets_to(&self, server: &Server) -> usize {
        let of_server = |attempt: &&Attempt| attempt.server().has_same_endpoint(server);
        let sends = self.attempts.iter().filter(of_server).count();
        let probes = if sends == self.attempts.len() { self.probes } else { 0 };
        sends + usize::from(self.repetitions + probes)
    }

    /// Returns whether the last of the remaining servers is queried already.
    pub(super) fn would_repeat(&self) -> bool {
        self.remaining
            .first()
            .is_some_and(|last| self.in_flight().any(|attempt| last.has_same_endpoint(attempt.server())))
    }

    /// Returns whether a server of the query that is in no forwarding loop is up: those in a loop are left out then. A
    /// server that is the only one left is queried whatever was detected.
    pub(super) fn has_server_without_loop(&self) -> bool {
        let in_flight = self.in_flight().map(Attempt::server);
        in_flight.chain(&self.remaining).any(|server| !server.is_in_forwarding_loop() && server.is_up())
    }

    /// Goes on with a query to servers outside of this tier: the next one is queried, if one is left.
    pub(super) fn apply(&mut self, AttemptPoll { server, event, .. }: AttemptPoll) {
        let is_hedge = matches!(event, AttemptEvent::HedgeDue);
        let may_use_reserve = self.may_use_reserve(&server, &event);
        self.again = if is_hedge { PacketClass::Hedge } else { PacketClass::Retry };
        match event {
            // Another server may have a good response.
            AttemptEvent::Response(mut response) => {
                response.set_upstream_id(server.id());
                self.bad_responses += 1;
                self.keep_bad_response(Box::new(response));
                // A second query to this server would have the same result.
                self.remaining.retain(|other| !other.has_same_endpoint(&server));
            }
            // The loop probe is a query too: it replaces the repeated query to a server, if there would be one.
            AttemptEvent::TimedOut if self.probe_for_loop(&server) && self.would_repeat() => {
                self.remaining.remove(0);
            }
            AttemptEvent::Refused => self.forget_refused(&server),
            AttemptEvent::HedgeDue | AttemptEvent::TimedOut | AttemptEvent::LivenessDue | AttemptEvent::Failed => {}
        }
        self.start_next(is_hedge, may_use_reserve, Instant::now());
    }
}

//! Retries of a node's query to resolvers of its tier. It is repeated to the resolver that was asked, where it joins
//! the query in flight. The resolver is left at once when it answers nobody, not even a ping; one that answers others
//! is left for its failure only.

use std::sync::Arc;

use tokio::time::Instant;

use super::attempt::{Attempt, AttemptEvent};
use super::hedge::{AttemptPoll, HedgedQuery, spawn_probe};
use super::retry::{
    Alternative, MAX_SILENT_TIER_SENDS, MAX_TIER_SENDS, MAX_UDP_TIER_SENDS, PING_TIMEOUT, is_late_tick, takes_token,
};
use crate::dns::codes::rtype;
use crate::dns::question::Question;
use crate::dns::{Name, Response};
use crate::upstream::server::Server;

impl HedgedQuery {
    /// Goes on with a query to resolvers of this tier: it is repeated to the same one, which it leaves when that
    /// answers nobody. Returns whether the query ends with its bad response.
    pub(super) fn apply_of_tier(&mut self, AttemptPoll { server, index, event }: AttemptPoll) -> bool {
        let now = Instant::now();
        let is_newest = index + 1 == self.attempts.len();
        if self.is_late {
            // Nothing more is sent.
            if let AttemptEvent::Response(response) = event {
                self.keep_bad_response(Box::new(response));
            }
            return false;
        }
        match event {
            AttemptEvent::Response(response) => return self.apply_tier_failure(&server, response, now),
            AttemptEvent::HedgeDue if is_newest => self.look_for_life(&server, now),
            AttemptEvent::LivenessDue => self.apply_liveness(&server, now),
            AttemptEvent::TimedOut | AttemptEvent::Failed if is_newest => {
                let is_usable = self.is_alive(&server) && !server.is_in_forwarding_loop();
                let fails_at = self.attempts.last().map(Attempt::fails_at);
                if !is_usable && fails_at.is_some_and(|due| is_late_tick(due.into_std(), now.into_std())) {
                    self.liveness_due = Some(now + PING_TIMEOUT);
                } else if is_usable || !self.move_on(now) {
                    self.repeat(server, now);
                }
            }
            // Resolvers of this tier have no packet budget.
            AttemptEvent::HedgeDue | AttemptEvent::TimedOut | AttemptEvent::Failed | AttemptEvent::Refused => {}
        }
        false
    }

    /// Moves a query after a bad response, if another resolver is worth it. Returns whether the query ends with it.
    fn apply_tier_failure(&mut self, server: &Arc<Server>, response: Response, now: Instant) -> bool {
        let alternative = Alternative::of(&response);
        let is_awaited = |attempt: &Attempt| !attempt.is_done() && attempt.server().has_same_endpoint(server);
        let is_repeat_answered = match alternative {
            // Only a repeat found no room.
            Alternative::OtherResolver => true,
            // Each repeat ends like the query that it has joined.
            Alternative::Same => self.has_replaced,
            _ => false,
        };
        self.bad_responses += 1;
        self.keep_bad_response(Box::new(response));
        if is_repeat_answered && self.attempts.iter().any(is_awaited) {
            return false;
        }
        // The others to this resolver wait for the same response.
        let mut index = 0;
        self.attempts.retain(|attempt| {
            index += 1;
            index == 1 || !is_awaited(attempt)
        });
        let next = match alternative {
            Alternative::None => {
                self.record_silence();
                return true;
            }
            Alternative::Budgeted if !self.has_other(|_| true) || !self.take_retry(false, now) => None,
            Alternative::Budgeted => self.take_other(|_| true),
            _ if std::mem::replace(&mut self.has_replaced, true) => None,
            Alternative::OtherZone => self.take_other(|other| !other.is_of_group_of(server)),
            Alternative::OtherResolver => self.take_other(|_| true),
            Alternative::Same => {
                self.record_silence();
                (usize::from(self.started) < MAX_TIER_SENDS && self.is_retry_worth_it(server, now))
                    .then(|| server.clone())
            }
        };
        match next {
            Some(next) => self.start(next, now),
            // Nothing but this resolver is awaited.
            None => return self.in_flight().all(|attempt| attempt.server().has_same_endpoint(server)),
        }
        false
    }

    /// Looks whether a resolver has answered anybody since the newest attempt, and pings it if not.
    fn look_for_life(&mut self, server: &Arc<Server>, now: Instant) {
        let Some(started) = self.attempts.last().map(|newest| newest.started().into_std()) else { return };
        let is_alive = server.has_answered_since(started);
        if !is_alive && server.take_ping(started, now.into_std()) {
            spawn_probe(server.clone(), Arc::new(ping_question()));
        }
        if !is_alive || self.started == 1 {
            self.liveness_due = Some(now + PING_TIMEOUT);
        }
    }

    /// Leaves a resolver that has answered nobody since the newest attempt. To one that has, the query is repeated once
    /// before the timeout, within the retry budget.
    fn apply_liveness(&mut self, server: &Arc<Server>, now: Instant) {
        let Some(newest) = self.attempts.last() else { return };
        let is_in_time = !newest.has_failed() && now < newest.fails_at();
        let is_left = !self.is_alive(server) && self.move_on(now);
        if !is_left && !is_in_time {
            self.repeat(server.clone(), now);
        } else if !is_left && self.started == 1 && self.is_alive(server) && self.take_retry(true, now) {
            self.start(server.clone(), now);
        }
    }

    /// Returns whether a resolver has answered anybody since the newest attempt.
    fn is_alive(&self, server: &Server) -> bool {
        self.attempts.last().is_some_and(|newest| server.has_answered_since(newest.started().into_std()))
    }

    /// Queries another resolver, if one is left. Returns whether one was.
    fn move_on(&mut self, now: Instant) -> bool {
        if usize::from(self.started) >= MAX_TIER_SENDS {
            return false;
        }
        let next = self.take_other(|_| true);
        let is_moved = next.is_some();
        next.into_iter().for_each(|next| self.start(next, now));
        is_moved
    }

    /// Repeats the query to a resolver, where it joins the one in flight.
    fn repeat(&mut self, server: Arc<Server>, now: Instant) {
        let started = usize::from(self.started);
        let retry_at = self.attempts.last().map(Attempt::fails_at).filter(|at| now < *at);
        if let Some(retry_at) = retry_at {
            // An ICMP error: the resolver may be back by then.
            self.liveness_due = Some(retry_at);
            return;
        }
        let is_allowed = started < MAX_SILENT_TIER_SENDS
            && if takes_token(started) { self.take_retry(false, now) } else { self.is_retry_worth_it(&server, now) };
        if is_allowed {
            self.start(server, now);
        }
    }

    /// Returns whether the domain of the query is worth a repeat to this resolver.
    fn is_retry_worth_it(&self, server: &Server, now: Instant) -> bool {
        server.retries().silent_domains.may_retry(&self.question.name, now.into_std())
    }

    /// Returns whether the next attempt with a resolver goes over TCP: the third one does, later ones on an open
    /// connection only.
    pub(super) fn repeats_over_tcp(&self, server: &Server) -> bool {
        let sends = self.attempts.iter().filter(|attempt| attempt.server().has_same_endpoint(server)).count();
        sends == MAX_UDP_TIER_SENDS || (sends > MAX_UDP_TIER_SENDS && server.connections().has_open())
    }

    /// Returns whether a resolver remains that was not queried yet.
    fn has_other(&self, is_worth_it: impl Fn(&Server) -> bool) -> bool {
        self.remaining.iter().any(|server| is_worth_it(server) && !self.has_queried(server))
    }

    /// Removes the next resolver that was not queried yet from those that remain.
    fn take_other(&mut self, is_worth_it: impl Fn(&Server) -> bool) -> Option<Arc<Server>> {
        self.leave_out_loops();
        loop {
            let index = self.remaining.iter().rposition(|server| is_worth_it(server) && !self.has_queried(server))?;
            let server = self.remaining.remove(index);
            if server.take_packet(std::time::Instant::now()) {
                return Some(server);
            }
        }
    }
}

/// Returns the question of a ping, which each resolver of this tier answers by itself.
fn ping_question() -> Question {
    Question::plain(&Name::from_text("localhost").unwrap_or_else(|_| Name::root()), rtype::A)
}

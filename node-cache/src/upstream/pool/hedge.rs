//! Hedging of a query: the first server is queried, the next one in parallel when the ones before it are slower than
//! usual, time out or fail, and the first good response wins. One future with a single timer, however many servers
//! take part.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::attempt::{Attempt, AttemptEvent, AttemptPurpose, AttemptTimeouts};
use super::purpose::QueryPurpose;
use super::retry::{PING_TIMEOUT, confirmation_packets, is_late_tick, may_probe_for_loop};
use super::select::{MAX_SENDS, SendCounts, Sends, may_repeat};
use crate::dns::Response;
use crate::dns::question::Question;
use crate::metrics::PacketClass;
use crate::upstream::error::NoAnswer;
use crate::upstream::server::Server;
use crate::upstream::transport::timer::Timer;

/// Time from the start of a query for which a late response is awaited: the query resolution timer of RFC 8767 §5,
/// which is longer than any client waits.
const RESOLUTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a probe, after which it counts as a failure.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// Time from the start of a probe for which its response is awaited: longer than the timeout, which would not count
/// otherwise.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Servers in the order in which they are queried.
pub(super) type Servers = Sends<Arc<Server>>;

/// Event of a query.
#[derive(Debug)]
pub enum QueryEvent {
    /// The first good response, or the first truncated one, or else the first failure, or none. No event follows.
    End(Result<Response, NoAnswer>),
    /// The deadline has passed without a good response; the first truncated one or else the first failure, if any. A
    /// late response may still come: the future is to be polled again for [`Self::End`], unless nobody needs it.
    Deadline(Option<Response>),
    /// The query was sent to no server, because their packet budgets have no room; the failure that says so. No event
    /// follows.
    BudgetExhausted(Response),
}

impl QueryEvent {
    /// Returns what is known of the response by now.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`] without any response.
    pub fn into_result(self) -> Result<Response, NoAnswer> {
        match self {
            Self::End(result) => result,
            Self::Deadline(bad_response) => bad_response.ok_or(NoAnswer),
            Self::BudgetExhausted(_) => Err(NoAnswer),
        }
    }
}

/// A query with hedging, as a future: the first good response of any server; without one, the first truncated one or
/// else the first failure; [`NoAnswer`] without any. Remaining attempts then continue in a task, for the health of
/// their servers. When the deadline passes before, [`QueryEvent::Deadline`] comes first, and the attempts go on
/// listening until the resolution timeout, without a further query to another server. Dropping the future releases its
/// sockets, which can wait until the response is sent.
pub(super) struct HedgedQuery {
    pub(super) question: Arc<Question>,
    pub(super) started_at: Instant,
    deadline: Instant,
    /// Servers that are not queried yet, in reverse order.
    pub(super) remaining: Servers,
    pub(super) attempts: SmallVec<[Attempt; 1]>,
    /// When the newest attempt's server is looked at again, whether it has answered anybody.
    pub(super) liveness_due: Option<Instant>,
    /// The first truncated response, or else the first failure.
    bad_response: Option<Box<Response>>,
    timer: Timer,
    /// Number of attempts started.
    pub(super) started: u8,
    /// Number of bad responses.
    pub(super) bad_responses: u8,
    /// Number of repetitions without EDNS.
    pub(super) repetitions: u8,
    /// Number of loop probes and probes of confirmations that this query has caused.
    pub(super) probes: u8,
    /// Tokens of the retry budget that this query has taken, or that were given back too early.
    pub(super) tokens: u8,
    /// Purpose of the query.
    pub(super) purpose: QueryPurpose,
    /// Class of the packets of sends behind the first one.
    pub(super) again: PacketClass,
    /// A packet budget had no room for a send.
    pub(super) was_refused: bool,
    /// The deadline of the clients has passed.
    pub(super) is_late: bool,
    /// The servers are resolvers of this tier.
    pub(super) is_of_tier: bool,
    /// Another resolver was queried in the place of one without room or budget.
    pub(super) has_replaced: bool,
}

impl HedgedQuery {
    /// Creates a query to these servers, in this order, that starts at `started_at` and ends at the deadline.
    pub(super) fn new(
        question: Arc<Question>,
        purpose: QueryPurpose,
        started_at: Instant,
        deadline: Instant,
        mut servers: Servers,
    ) -> Self {
        servers.reverse();
        Self {
            question,
            started_at,
            deadline,
            remaining: servers,
            attempts: SmallVec::new(),
            liveness_due: None,
            bad_response: None,
            timer: Timer::at(deadline),
            started: 0,
            bad_responses: 0,
            repetitions: 0,
            probes: 0,
            tokens: 0,
            purpose,
            again: PacketClass::Retry,
            was_refused: false,
            is_late: false,
            is_of_tier: false,
            has_replaced: false,
        }
    }

    /// Probes a server: queries it alone, for its health only.
    pub(super) async fn probe(server: Arc<Server>, question: Arc<Question>, fail_after: Duration, deadline: Instant) {
        let now = Instant::now();
        let timeouts = AttemptTimeouts::without_hedging(fail_after);
        let class = PacketClass::Control;
        let attempt = Attempt::start(server, question.clone(), AttemptPurpose::Probe, class, timeouts, now);
        let mut query = Self::new(question, QueryPurpose::Control, now, deadline, Servers::new());
        query.attempts.push(attempt);
        while poll_fn(|context| query.poll_next(context)).await.is_some() {}
    }

    /// Returns the attempts that may still have a response.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| !attempt.is_done())
    }

    /// Keeps a bad response, a truncated one rather than a failure.
    pub(super) fn keep_bad_response(&mut self, response: Box<Response>) {
        if self.bad_response.as_ref().is_none_or(|kept| kept.is_failure() && !response.is_failure()) {
            self.bad_response = Some(response);
        }
    }

    /// Ends the query with the good response of an attempt: no other server is queried, and attempts in flight continue
    /// in a task.
    fn finish(&mut self, winner: usize) {
        self.remaining.clear();
        self.record_outcomes(winner);
        let mut given_back = 0;
        if let Some(first) = self.attempts.first() {
            let retries = first.server().retries();
            retries.silent_domains.record_answer(&self.question.name);
            if self.tokens > 0 && winner > 0 && (first.is_done() || first.has_failed()) {
                if first.is_done() {
                    retries.budget.give_back(self.tokens);
                } else {
                    retries.budget.give_back_for_silence(self.tokens);
                    given_back = self.tokens;
                }
            }
        }
        self.drain(given_back);
    }

    /// Records what the good response of an attempt says about the servers of all attempts.
    fn record_outcomes(&mut self, winner: usize) {
        // A single attempt was its own first send.
        if self.attempts.len() > 1
            && let Some(server) = self.attempts.get(winner).map(|winner| winner.server().clone())
        {
            self.attempts.iter_mut().for_each(|attempt| attempt.record_answered_name(&server));
            let hedges = self.attempts.iter().enumerate().filter(|(_, attempt)| attempt.is_hedge());
            hedges.for_each(|(index, hedge)| hedge.server().gate().counts().count_hedge(index == winner));
        }
    }

    /// Lets the attempts in flight continue in a task.
    fn drain(&mut self, given_back: u8) {
        if self.is_late || self.in_flight().next().is_none() {
            return;
        }
        let losers = Self {
            attempts: std::mem::take(&mut self.attempts),
            tokens: given_back,
            ..Self::new(self.question.clone(), self.purpose, self.started_at, self.deadline, Servers::new())
        };
        tokio::spawn(losers.drain_losers());
    }

    /// Returns the event of the query when no event of an attempt follows before the deadline.
    fn end_or_go_on(&mut self) -> QueryEvent {
        let fallbacks: SmallVec<[Box<Response>; 1]> =
            self.attempts.iter_mut().filter_map(Attempt::take_fallback).collect();
        fallbacks.into_iter().for_each(|response| self.keep_bad_response(response));
        if self.is_refused() && self.bad_response.is_none() {
            return QueryEvent::BudgetExhausted(Response::budget_exhausted(&self.question));
        }
        if !self.is_late && self.bad_response.is_none() {
            self.record_silence();
        }
        if !self.is_late && self.in_flight().next().is_some() {
            self.is_late = true;
            self.deadline = self.started_at + RESOLUTION_TIMEOUT;
            self.remaining.clear();
            self.liveness_due = None;
            return QueryEvent::Deadline(self.bad_response.as_deref().cloned());
        }
        QueryEvent::End(self.bad_response.take().map(|response| *response).ok_or(NoAnswer))
    }

    /// Records that no server has answered the query, for retries of its domain.
    pub(super) fn record_silence(&self) {
        if let Some(first) = self.attempts.first() {
            let silent_domains = &first.server().retries().silent_domains;
            silent_domains.record_silence(&self.question.name, std::time::Instant::now());
        }
    }

    /// Waits for the attempts in flight, so that their results reach the circuit breakers. A server that times out is
    /// probed for a forwarding loop here too: the response of another server must not hide the loop.
    async fn drain_losers(mut self) {
        while let Some(AttemptPoll { server, index, event }) = poll_fn(|context| self.poll_next(context)).await {
            match event {
                AttemptEvent::TimedOut => drop(server.probe_for_loop()),
                // It was late, and not lost.
                AttemptEvent::Response(_) if index == 0 => {
                    server.retries().budget.take_again(std::mem::take(&mut self.tokens));
                }
                _ => {}
            }
        }
    }

    /// Probes a server whose silence is to be confirmed, unless the query has cost its packets already.
    fn confirm_silence(&mut self, server: &Arc<Server>) {
        let is_counted = !self.is_of_tier && self.started > 0;
        let packets = if is_counted { confirmation_packets(self.packets_to(server)) } else { usize::MAX };
        self.probes += confirm_silence(server, packets);
    }

    /// Probes a server for a forwarding loop, if a probe is due and leaves room for a retry. Returns whether it was.
    pub(super) fn probe_for_loop(&mut self, server: &Arc<Server>) -> bool {
        let is_due = may_probe_for_loop(self.packets_to(server)) && server.probe_for_loop();
        self.probes += u8::from(is_due);
        is_due
    }

    /// Polls for the next event of any attempt; `None` when no attempt is in flight or the deadline has passed.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<AttemptPoll>> {
        if self.in_flight().next().is_none() {
            return Poll::Ready(None);
        }
        for index in 0..self.attempts.len() {
            let Self { attempts, remaining, repetitions, started, bad_responses, .. } = self;
            let (before, others) = attempts.split_at_mut(index);
            let Some((attempt, after)) = others.split_first_mut() else { break };
            let take_send = || {
                let has_send = if usize::from(*started) + remaining.len() > MAX_SENDS {
                    // The server has responded, with an error.
                    let now = Instant::now();
                    let to_others = answering_count(before, now) + answering_count(after, now);
                    let counts = SendCounts {
                        to_answering: 1 + to_others + usize::from(*repetitions),
                        bad_responses: usize::from(1 + *bad_responses + *repetitions),
                    };
                    may_repeat(counts)
                } else {
                    // The repetition takes the place of the last send.
                    let has_send = !remaining.is_empty();
                    remaining.drain(..usize::from(has_send));
                    has_send
                };
                *repetitions += u8::from(has_send);
                has_send
            };
            if let Poll::Ready(event) = attempt.poll(context, take_send) {
                let server = attempt.server().clone();
                if !matches!(event, AttemptEvent::Response(_) | AttemptEvent::Refused) {
                    self.confirm_silence(&server);
                }
                return Poll::Ready(Some(AttemptPoll { server, index, event }));
            }
        }
        self.timer.set(self.next_deadline());
        while self.timer.poll(context).is_ready() {
            if let Some(event) = self.advance(Instant::now()) {
                return Poll::Ready(event);
            }
            self.timer.set(self.next_deadline());
        }
        Poll::Pending
    }

    /// Advances to the times that have passed at `now`. Returns what [`Self::poll_next`] does, if an event is due.
    fn advance(&mut self, now: Instant) -> Option<Option<AttemptPoll>> {
        if now >= self.deadline {
            // A denial that could not be checked in time stands.
            let mut attempts = self.attempts.iter_mut().enumerate();
            let checked = attempts.find_map(|(index, attempt)| {
                let event = attempt.end_case_check()?;
                Some(AttemptPoll { server: attempt.server().clone(), index, event })
            });
            return Some(checked);
        }
        // In a forwarding loop the query comes back here and waits for itself.
        let looping = self.in_flight().find(|attempt| attempt.server().is_in_forwarding_loop());
        let looping = looping.map(|attempt| attempt.server().clone());
        if let Some(server) = looping.filter(|_| self.has_server_without_loop()) {
            self.attempts.retain(|attempt| !attempt.server().is_in_forwarding_loop());
            let index = self.attempts.len().saturating_sub(1);
            return Some(Some(AttemptPoll { server, index, event: AttemptEvent::Failed }));
        }
        if let Some(due) = self.liveness_due.take_if(|due| now >= *due)
            && let Some(newest) = self.attempts.last()
        {
            if is_late_tick(due.into_std(), now.into_std()) {
                // Responses of that time may not have been read yet.
                self.liveness_due = Some(now + PING_TIMEOUT);
                return None;
            }
            let (server, index) = (newest.server().clone(), self.attempts.len() - 1);
            return Some(Some(AttemptPoll { server, index, event: AttemptEvent::LivenessDue }));
        }
        let mut attempts = self.attempts.iter_mut().enumerate();
        let (index, event) = attempts.find_map(|(index, attempt)| Some((index, attempt.advance(now)?)))?;
        let server = self.attempts[index].server().clone();
        self.confirm_silence(&server);
        Some(Some(AttemptPoll { server, index, event }))
    }

    /// Returns the earliest deadline of the attempts and the query.
    fn next_deadline(&self) -> Instant {
        let attempts = self.attempts.iter().filter_map(Attempt::next_deadline);
        attempts.chain(self.liveness_due).fold(self.deadline, Instant::min)
    }
}

/// Event of an attempt of a query.
pub(super) struct AttemptPoll {
    pub(super) server: Arc<Server>,
    /// Index of the attempt.
    pub(super) index: usize,
    pub(super) event: AttemptEvent,
}

impl Future for HedgedQuery {
    type Output = QueryEvent;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let query = self.get_mut();
        if query.started == 0 {
            query.start_first();
        }
        while let Some(AttemptPoll { server, index, event }) = ready!(query.poll_next(context)) {
            match event {
                AttemptEvent::Response(mut response) if response.is_conclusive() => {
                    response.set_upstream_id(server.id());
                    query.finish(index);
                    return Poll::Ready(QueryEvent::End(Ok(response)));
                }
                // One of the last resort is none of the tier.
                event if query.is_of_tier && server.is_of_tier() => {
                    if query.apply_of_tier(AttemptPoll { server, index, event }) {
                        query.drain(0);
                        break;
                    }
                }
                event => query.apply(AttemptPoll { server, index, event }),
            }
        }
        Poll::Ready(query.end_or_go_on())
    }
}

/// Returns the number of these attempts that are with servers that have answered lately.
pub(super) fn answering_count(attempts: &[Attempt], now: Instant) -> usize {
    attempts.iter().filter(|attempt| attempt.server().has_answered_lately(now.into_std())).count()
}

/// Probes a server if its silence is to be confirmed, with this number of packets at most. Returns the number of
/// probes.
///
/// Must be called inside a Tokio runtime.
fn confirm_silence(server: &Arc<Server>, max_packets: usize) -> u8 {
    let mut probes = 0;
    for question in server.take_confirmation(max_packets) {
        spawn_probe(server.clone(), question);
        probes += 1;
    }
    probes
}

/// Probes a server in a task of its own.
///
/// Must be called inside a Tokio runtime.
pub(super) fn spawn_probe(server: Arc<Server>, question: Arc<Question>) {
    let deadline = Instant::now() + PROBE_DEADLINE;
    tokio::spawn(HedgedQuery::probe(server, question, PROBE_TIMEOUT, deadline));
}

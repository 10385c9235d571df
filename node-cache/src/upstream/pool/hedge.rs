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
use super::select::{MAX_SENDS, SendCounts, may_repeat, may_send};
use crate::dns::Response;
use crate::dns::question::Question;
use crate::upstream::error::NoAnswer;
use crate::upstream::server::Server;
use crate::upstream::transport::timer::Timer;

/// Timeouts of the first, second and third attempt of a query. When one passes, the attempt counts as a failure and the
/// next server is queried. The last one is the longest, as no server is left after it.
pub(super) const ATTEMPT_TIMEOUTS: [Duration; MAX_SENDS] =
    [Duration::from_millis(350), Duration::from_millis(500), Duration::from_millis(900)];

/// Timeout of an attempt with others behind it when more than [`MAX_SENDS`] servers are named: of the third one and
/// later, and of servers that have not answered lately. Eight silent servers are tried within 2.1 s, and the last one
/// has as long as the deadline leaves.
const SHORT_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(300);
/// Time from the start of a query for which a late response is awaited: the query resolution timer of RFC 8767 §5,
/// which is longer than any client waits.
const RESOLUTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Shortest time before a query is hedged. Otherwise the p95 latency of the server decides.
const MIN_HEDGE_DELAY: Duration = Duration::from_millis(10);

/// Timeout of a probe, after which it counts as a failure.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// Time from the start of a probe for which its response is awaited: longer than the timeout, which would not count
/// otherwise.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Servers in the order in which they are queried.
pub(super) type Servers = SmallVec<[Arc<Server>; MAX_SENDS]>;

/// Event of a query.
#[derive(Debug)]
pub enum QueryEvent {
    /// The first good response, or the first truncated one, or else the first failure, or none. No event follows.
    End(Result<Response, NoAnswer>),
    /// The deadline has passed without a good response; the first truncated one or else the first failure, if any. A
    /// late response may still come: the future is to be polled again for [`Self::End`], unless nobody needs it.
    Deadline(Option<Response>),
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
        }
    }
}

/// A query with hedging, as a future: the first good response of any server; without one, the first truncated one or
/// else the first failure; [`NoAnswer`] without any. Remaining attempts then continue in a task, for the health of
/// their servers. When the deadline passes before, [`QueryEvent::Deadline`] comes first, and the attempts go on
/// listening until the resolution timeout, without a further query to another server. Dropping the future releases its
/// sockets, which can wait until the response is sent.
pub(super) struct HedgedQuery {
    question: Arc<Question>,
    started_at: Instant,
    deadline: Instant,
    /// The deadline of the clients has passed.
    is_late: bool,
    /// Servers that are not queried yet, in reverse order.
    remaining: Servers,
    /// Number of attempts started.
    started: usize,
    attempts: SmallVec<[Attempt; 1]>,
    /// Number of bad responses.
    bad_responses: usize,
    /// Number of repetitions without EDNS.
    repetitions: usize,
    /// The first truncated response, or else the first failure.
    bad_response: Option<Box<Response>>,
    timer: Timer,
}

impl HedgedQuery {
    /// Creates a query to these servers, in this order, that starts at `started_at` and ends at the deadline.
    pub(super) fn new(question: Arc<Question>, started_at: Instant, deadline: Instant, mut servers: Servers) -> Self {
        servers.reverse();
        Self {
            question,
            started_at,
            deadline,
            is_late: false,
            remaining: servers,
            started: 0,
            attempts: SmallVec::new(),
            bad_responses: 0,
            repetitions: 0,
            bad_response: None,
            timer: Timer::at(deadline),
        }
    }

    /// Probes a server: queries it alone, for its health only.
    pub(super) async fn probe(server: Arc<Server>, question: Arc<Question>, fail_after: Duration, deadline: Instant) {
        let now = Instant::now();
        let timeouts = AttemptTimeouts::without_hedging(fail_after);
        let attempt = Attempt::start(server, question.clone(), AttemptPurpose::Probe, timeouts, now);
        let mut query = Self::new(question, now, deadline, Servers::new());
        query.attempts.push(attempt);
        while poll_fn(|context| query.poll_next(context)).await.is_some() {}
    }

    /// Starts an attempt with the next server, if one remains.
    fn start_next(&mut self, now: Instant) {
        if self.remaining.iter().any(|server| server.is_in_forwarding_loop()) && self.has_server_without_loop() {
            self.remaining.retain(|server| !server.is_in_forwarding_loop());
        }
        let Some(server) = self.next_server(now) else { return };
        let fail_after = self.fail_after(&server, now);
        // Hedging pays only with another server: the same one would just be queried twice.
        let next_is_other = self.remaining.last().is_some_and(|next| !next.has_same_endpoint(&server));
        let p95 = if next_is_other { server.p95() } else { None };
        let hedge_after = p95.map_or(fail_after, |p95| p95.clamp(MIN_HEDGE_DELAY, fail_after));
        let timeouts = AttemptTimeouts { hedge_after, fail_after };
        let attempt = Attempt::start(server, self.question.clone(), AttemptPurpose::Query, timeouts, now);
        self.attempts.push(attempt);
        self.started += 1;
    }

    /// Removes the server that is queried next from those that remain. Behind the first [`MAX_SENDS`], servers are left
    /// out that [`may_send`] excludes.
    fn next_server(&mut self, now: Instant) -> Option<Arc<Server>> {
        loop {
            let server = self.remaining.pop()?;
            if self.started + self.repetitions < MAX_SENDS {
                return Some(server);
            }
            let counts = SendCounts {
                to_answering: answering_count(&self.attempts, now) + self.repetitions,
                bad_responses: self.bad_responses + self.repetitions,
            };
            if may_send(server.has_answered_lately(now.into_std()), counts) {
                return Some(server);
            }
        }
    }

    /// Returns the timeout of the next attempt, with a server that is no longer among those that remain.
    fn fail_after(&self, server: &Server, now: Instant) -> Duration {
        let is_one_of_many = !self.remaining.is_empty() && self.started + 1 + self.remaining.len() > MAX_SENDS;
        if is_one_of_many && (self.started + 1 >= MAX_SENDS || !server.has_answered_lately(now.into_std())) {
            return SHORT_ATTEMPT_TIMEOUT;
        }
        ATTEMPT_TIMEOUTS[self.started.min(MAX_SENDS - 1)]
    }

    /// Returns whether the last of the remaining servers is queried already.
    fn would_repeat(&self) -> bool {
        self.remaining
            .first()
            .is_some_and(|last| self.in_flight().any(|attempt| last.has_same_endpoint(attempt.server())))
    }

    /// Returns whether a server of the query that is in no forwarding loop is up: those in a loop are left out then. A
    /// server that is the only one left is queried whatever was detected.
    fn has_server_without_loop(&self) -> bool {
        let in_flight = self.in_flight().map(Attempt::server);
        in_flight.chain(&self.remaining).any(|server| !server.is_in_forwarding_loop() && server.is_up())
    }

    /// Returns the attempts that may still have a response.
    fn in_flight(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| !attempt.is_done())
    }

    /// Keeps a bad response, a truncated one rather than a failure.
    fn keep_bad_response(&mut self, response: Box<Response>) {
        if self.bad_response.as_ref().is_none_or(|kept| kept.is_failure() && !response.is_failure()) {
            self.bad_response = Some(response);
        }
    }

    /// Ends the query with a good response: no other server is queried, and attempts in flight continue in a task.
    fn finish(&mut self) {
        self.remaining.clear();
        if self.is_late || self.in_flight().next().is_none() {
            return;
        }
        let losers = Self {
            attempts: std::mem::take(&mut self.attempts),
            ..Self::new(self.question.clone(), self.started_at, self.deadline, Servers::new())
        };
        tokio::spawn(losers.drain_losers());
    }

    /// Returns the event of the query when no event of an attempt follows before the deadline.
    fn end_or_go_on(&mut self) -> QueryEvent {
        let fallbacks: SmallVec<[Box<Response>; 1]> =
            self.attempts.iter_mut().filter_map(Attempt::take_fallback).collect();
        fallbacks.into_iter().for_each(|response| self.keep_bad_response(response));
        if !self.is_late && self.in_flight().next().is_some() {
            self.is_late = true;
            self.deadline = self.started_at + RESOLUTION_TIMEOUT;
            self.remaining.clear();
            return QueryEvent::Deadline(self.bad_response.as_deref().cloned());
        }
        QueryEvent::End(self.bad_response.take().map(|response| *response).ok_or(NoAnswer))
    }

    /// Waits for the attempts in flight, so that their results reach the circuit breakers. A server that times out is
    /// probed for a forwarding loop here too: the response of another server must not hide the loop.
    async fn drain_losers(mut self) {
        while let Some((server, event)) = poll_fn(|context| self.poll_next(context)).await {
            if let AttemptEvent::TimedOut = event {
                server.probe_for_loop();
            }
        }
    }

    /// Polls for the next event of any attempt; `None` when no attempt is in flight or the deadline has passed.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(Arc<Server>, AttemptEvent)>> {
        if self.in_flight().next().is_none() {
            return Poll::Ready(None);
        }
        let Self { attempts, remaining, repetitions, started, bad_responses, .. } = self;
        for index in 0..attempts.len() {
            let (before, others) = attempts.split_at_mut(index);
            let Some((attempt, after)) = others.split_first_mut() else { break };
            let take_send = || {
                let has_send = if *started + remaining.len() > MAX_SENDS {
                    // The server has responded, with an error.
                    let now = Instant::now();
                    let to_others = answering_count(before, now) + answering_count(after, now);
                    let counts = SendCounts {
                        to_answering: 1 + to_others + *repetitions,
                        bad_responses: 1 + *bad_responses + *repetitions,
                    };
                    may_repeat(counts)
                } else {
                    // The repetition takes the place of the last send.
                    let has_send = !remaining.is_empty();
                    remaining.drain(..usize::from(has_send));
                    has_send
                };
                *repetitions += usize::from(has_send);
                has_send
            };
            if let Poll::Ready(event) = attempt.poll(context, take_send) {
                if !matches!(event, AttemptEvent::Response(_)) {
                    confirm_silence(attempt.server());
                }
                return Poll::Ready(Some((attempt.server().clone(), event)));
            }
        }
        self.timer.set(self.next_deadline());
        while self.timer.poll(context).is_ready() {
            let now = Instant::now();
            if now >= self.deadline {
                // A denial that could not be checked in time stands.
                let mut attempts = self.attempts.iter_mut();
                let checked = attempts.find_map(|attempt| Some((attempt.server().clone(), attempt.end_case_check()?)));
                return Poll::Ready(checked);
            }
            // In a forwarding loop the query comes back here and waits for itself.
            let looping = self.in_flight().find(|attempt| attempt.server().is_in_forwarding_loop());
            let looping = looping.map(|attempt| attempt.server().clone());
            if let Some(server) = looping.filter(|_| self.has_server_without_loop()) {
                self.attempts.retain(|attempt| !attempt.server().is_in_forwarding_loop());
                return Poll::Ready(Some((server, AttemptEvent::Failed)));
            }
            for attempt in &mut self.attempts {
                if let Some(event) = attempt.advance(now) {
                    confirm_silence(attempt.server());
                    return Poll::Ready(Some((attempt.server().clone(), event)));
                }
            }
            self.timer.set(self.next_deadline());
        }
        Poll::Pending
    }

    /// Returns the earliest deadline of the attempts and the query.
    fn next_deadline(&self) -> Instant {
        self.attempts.iter().filter_map(Attempt::next_deadline).fold(self.deadline, Instant::min)
    }
}

impl Future for HedgedQuery {
    type Output = QueryEvent;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let query = self.get_mut();
        if query.started == 0 {
            query.start_next(query.started_at);
        }
        while let Some((server, event)) = ready!(query.poll_next(context)) {
            match event {
                AttemptEvent::Response(mut response) if response.is_conclusive() => {
                    response.set_upstream_id(server.id());
                    query.finish();
                    return Poll::Ready(QueryEvent::End(Ok(response)));
                }
                // Another server may have a good response.
                AttemptEvent::Response(response) => {
                    query.bad_responses += 1;
                    query.keep_bad_response(Box::new(response));
                    // A second query to this server would have the same result.
                    query.remaining.retain(|other| !other.has_same_endpoint(&server));
                }
                // The loop probe is a query too: it replaces the repeated query to a server, if there would be one.
                AttemptEvent::TimedOut if server.probe_for_loop() && query.would_repeat() => {
                    query.remaining.remove(0);
                }
                AttemptEvent::HedgeDue | AttemptEvent::TimedOut | AttemptEvent::Failed => {}
            }
            query.start_next(Instant::now());
        }
        Poll::Ready(query.end_or_go_on())
    }
}

/// Returns the number of these attempts that are with servers that have answered lately.
fn answering_count(attempts: &[Attempt], now: Instant) -> usize {
    attempts.iter().filter(|attempt| attempt.server().has_answered_lately(now.into_std())).count()
}

/// Probes a server if its silence is to be confirmed.
///
/// Must be called inside a Tokio runtime.
fn confirm_silence(server: &Arc<Server>) {
    for question in server.take_confirmation() {
        spawn_probe(server.clone(), question);
    }
}

/// Probes a server in a task of its own.
///
/// Must be called inside a Tokio runtime.
pub(super) fn spawn_probe(server: Arc<Server>, question: Arc<Question>) {
    let deadline = Instant::now() + PROBE_DEADLINE;
    tokio::spawn(HedgedQuery::probe(server, question, PROBE_TIMEOUT, deadline));
}

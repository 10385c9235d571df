//! The race of a question: the first server is asked, the next one when those before it do not answer in time or answer
//! badly, and the first good answer wins. It is one future with one timer, however many servers take part.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::attempt::{Attempt, AttemptEvent, AttemptTimeouts};
use super::select::MAX_SENDS;
use crate::dns::Response;
use crate::dns::question::Question;
use crate::upstream::error::NoAnswer;
use crate::upstream::server::Server;
use crate::upstream::transport::timer::Timer;

/// How long the first, second and third server of a question have before that counts as a failure and the next one is asked
/// too. The last entry is for servers that are asked when there is nobody left to ask.
pub(in crate::upstream) const PATIENCE: [Duration; MAX_SENDS] =
    [Duration::from_millis(350), Duration::from_millis(500), Duration::from_millis(900)];

/// A server that is slower than it usually is gets at least this long before another one is asked too.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(10);

/// Servers, in the order in which they are asked.
pub(in crate::upstream) type Servers = SmallVec<[Arc<Server>; MAX_SENDS]>;

/// The attempts at one question, from when it is polled first: the first good answer, whoever it comes from; when there is none by the
/// deadline, the first bad one, and [`NoAnswer`] when there is no answer at all. What becomes of the others is learned afterwards.
/// What it took is given back when it is dropped, which can wait until its answer is on its way.
pub(in crate::upstream) struct HedgedQuery {
    question: Arc<Question>,
    began: Instant,
    deadline: Instant,
    /// Who is asked next, the last one first.
    left: Servers,
    started: usize,
    attempts: SmallVec<[Attempt; 1]>,
    /// The first answer, when it was a bad one.
    bad: Option<Box<Response>>,
    alarm: Timer,
}

impl HedgedQuery {
    /// A race of these servers, in this order, that begins now and lasts until the deadline.
    pub(in crate::upstream) fn new(
        question: Arc<Question>,
        began: Instant,
        deadline: Instant,
        mut servers: Servers,
    ) -> Self {
        servers.reverse();
        let (attempts, alarm) = (SmallVec::new(), Timer::at(deadline));
        Self { question, began, deadline, left: servers, started: 0, attempts, bad: None, alarm }
    }

    /// Asks one server alone, to see whether it lives: only its health hears of the answer.
    pub(in crate::upstream) async fn probe(
        server: Arc<Server>,
        question: Arc<Question>,
        patience: Duration,
        deadline: Instant,
    ) {
        let began = Instant::now();
        let attempt = Attempt::begin(server, question.clone(), AttemptTimeouts::until_timeout(patience), began);
        let mut race = Self::new(question, began, deadline, Servers::new());
        race.attempts.push(attempt);
        race.learn().await;
    }

    /// Starts the next attempt, if there is one left.
    fn start_next(&mut self, now: Instant) {
        self.left.retain(|server| !server.is_in_a_loop());
        let Some(server) = self.left.pop() else { return };
        let fail_after = PATIENCE[self.started.min(MAX_SENDS - 1)];
        // Another server may be faster; the same one would only be asked twice.
        let another = self.left.last().is_some_and(|next| !next.is_same(&server));
        let p95 = if another { server.p95() } else { None };
        let hedge_after = p95.map_or(fail_after, |p95| p95.clamp(SHORTEST_PATIENCE, fail_after));
        let attempt = Attempt::begin(server, self.question.clone(), AttemptTimeouts { hedge_after, fail_after }, now);
        self.attempts.push(attempt);
        self.started += 1;
    }

    /// Whether the last one of those that are left is asked already.
    fn would_repeat(&self) -> bool {
        self.left.first().is_some_and(|last| self.running().any(|attempt| last.is_same(attempt.server())))
    }

    /// The attempts that may still be answered.
    fn running(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| !attempt.is_over())
    }

    /// The race is won: nobody else is asked.
    fn leave(&mut self) {
        self.left.clear();
        if self.running().next().is_none() {
            return;
        }
        let others = Self {
            attempts: std::mem::take(&mut self.attempts),
            ..Self::new(self.question.clone(), self.began, self.deadline, Servers::new())
        };
        tokio::spawn(others.learn());
    }

    /// Waits for what becomes of those that were asked.
    async fn learn(mut self) {
        while poll_fn(|context| self.poll_next(context)).await.is_some() {}
    }

    /// What happens next, and to whom; none when nothing will any more.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(Arc<Server>, AttemptEvent)>> {
        if self.running().next().is_none() {
            return Poll::Ready(None);
        }
        for attempt in &mut self.attempts {
            if let Poll::Ready(event) = attempt.poll(context) {
                return Poll::Ready(Some((attempt.server().clone(), event)));
            }
        }
        self.alarm.set(self.due());
        while self.alarm.poll(context).is_ready() {
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(None);
            }
            // What they are asked comes back here, and waits for itself.
            let in_a_loop = self.running().find(|attempt| attempt.server().is_in_a_loop());
            if let Some(server) = in_a_loop.map(|attempt| attempt.server().clone()) {
                self.attempts.retain(|attempt| !attempt.server().is_in_a_loop());
                return Poll::Ready(Some((server, AttemptEvent::Failed)));
            }
            for attempt in &mut self.attempts {
                if let Some(event) = attempt.look_at(now) {
                    return Poll::Ready(Some((attempt.server().clone(), event)));
                }
            }
            self.alarm.set(self.due());
        }
        Poll::Pending
    }

    /// When to look at the time next.
    fn due(&self) -> Instant {
        self.attempts.iter().filter_map(Attempt::due).fold(self.deadline, Instant::min)
    }
}

impl Future for HedgedQuery {
    type Output = Result<Response, NoAnswer>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let race = self.get_mut();
        if race.started == 0 {
            race.start_next(race.began);
        }
        while let Some((server, event)) = ready!(race.poll_next(context)) {
            match event {
                AttemptEvent::Response(mut response) if !response.is_failure() => {
                    response.set_upstream_id(server.number());
                    race.leave();
                    return Poll::Ready(Ok(response));
                }
                // Another server may know better.
                AttemptEvent::Response(response) => {
                    race.bad.get_or_insert_with(|| Box::new(response));
                    // It would say the same again.
                    race.left.retain(|other| !other.is_same(&server));
                }
                // In the place of asking somebody the same again: a probe is a question too.
                AttemptEvent::TimedOut if race.would_repeat() && server.probe_for_loop(&race.question) => {
                    race.left.remove(0);
                }
                AttemptEvent::HedgeDue | AttemptEvent::TimedOut | AttemptEvent::Failed => {}
            }
            race.start_next(Instant::now());
        }
        Poll::Ready(race.bad.take().map(|bad| *bad).ok_or(NoAnswer))
    }
}

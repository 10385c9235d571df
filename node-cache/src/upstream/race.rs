//! The race of a question: the first server is asked, the next one when those before it do not answer in time or answer
//! badly, and the first good answer wins. It is one future with one timer, however many servers take part.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use std::future::poll_fn;
use tokio::time::Instant;

use super::Server;
use super::alarm::Alarm;
use super::attempt::{Attempt, Event, Patience};
use super::plan::SENDS;
use super::pool::Unanswered;
use crate::packet::Response;
use crate::packet::question::Question;

/// How long the first, second and third server of a question have before that counts as a failure and the next one is asked
/// too. The last entry is for servers that are asked when there is nobody left to ask.
pub(super) const PATIENCE: [Duration; SENDS] =
    [Duration::from_millis(350), Duration::from_millis(500), Duration::from_millis(900)];

/// A server that is slower than it usually is gets at least this long before another one is asked too.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(10);

/// The attempts at one question.
pub(super) struct Race {
    question: Arc<Question>,
    deadline: Instant,
    /// Who is asked next, the last one first.
    left: Vec<Arc<Server>>,
    started: usize,
    #[allow(clippy::vec_box, reason = "a list that grows from one makes room for four")]
    running: Vec<Box<Attempt>>,
    /// The first answer, when it was a bad one.
    bad: Option<Box<Response>>,
}

impl Race {
    /// A race of these servers, in this order, until the deadline.
    pub(super) fn new(question: Arc<Question>, deadline: Instant, mut servers: Vec<Arc<Server>>) -> Self {
        servers.reverse();
        Self { question, deadline, left: servers, started: 0, running: Vec::with_capacity(1), bad: None }
    }

    /// Asks one server alone, to see whether it lives: only its health hears of the answer.
    pub(super) async fn probe(server: Arc<Server>, question: Arc<Question>, patience: Duration, deadline: Instant) {
        let attempt = Attempt::begin(server, question.clone(), Patience::until_failing(patience), Instant::now());
        Self { question, deadline, left: Vec::new(), started: 1, running: vec![Box::new(attempt)], bad: None }
            .learn()
            .await;
    }

    /// Begins now. The first good answer, whoever it comes from; when there is none by the deadline, the first bad one. What becomes of
    /// the others is learned afterwards.
    ///
    /// # Errors
    ///
    /// [`Unanswered`] when there is no answer at all.
    #[allow(
        clippy::manual_async_fn,
        reason = "an `async fn` has room for its arguments twice, in each question that waits"
    )]
    pub(super) fn run(mut self, now: Instant) -> impl Future<Output = Result<Response, Unanswered>> + Send {
        async move {
            self.start_next(now);
            let mut alarm = Alarm::at(self.due());
            while let Some((server, event)) = self.next(&mut alarm).await {
                match event {
                    Event::Answered(mut response) if !response.is_failure() => {
                        response.came_from(server.number());
                        self.leave();
                        return Ok(response);
                    }
                    // Another server may know better.
                    Event::Answered(response) => {
                        self.bad.get_or_insert_with(|| Box::new(response));
                        // It would say the same again.
                        self.left.retain(|other| !other.is_same(&server));
                    }
                    // In the place of asking somebody the same again: a probe is a question too.
                    Event::Failing if self.would_repeat() && server.look_behind(&self.question) => {
                        self.left.remove(0);
                    }
                    Event::Late | Event::Failing | Event::Over => {}
                }
                self.start_next(Instant::now());
            }
            self.bad.map(|bad| *bad).ok_or(Unanswered)
        }
    }

    /// Starts the next attempt, if there is one left.
    fn start_next(&mut self, now: Instant) {
        self.left.retain(|server| !server.is_in_a_loop());
        let Some(server) = self.left.pop() else { return };
        let failing = PATIENCE[self.started.min(SENDS - 1)];
        // Another server may be faster; the same one would only be asked twice.
        let another = self.left.last().is_some_and(|next| !next.is_same(&server));
        let p95 = if another { server.p95() } else { None };
        let usual = p95.map_or(failing, |p95| p95.clamp(SHORTEST_PATIENCE, failing));
        let attempt = Attempt::begin(server, self.question.clone(), Patience { usual, failing }, now);
        self.running.push(Box::new(attempt));
        self.started += 1;
    }

    /// Whether the last one of those that are left is asked already.
    fn would_repeat(&self) -> bool {
        self.left.first().is_some_and(|last| self.running.iter().any(|attempt| last.is_same(attempt.server())))
    }

    /// The race is won: nobody else is asked.
    fn leave(mut self) {
        self.left.clear();
        if !self.running.is_empty() {
            tokio::spawn(self.learn());
        }
    }

    /// Waits for what becomes of those that were asked.
    async fn learn(mut self) {
        let mut alarm = Alarm::at(self.due());
        while self.next(&mut alarm).await.is_some() {}
    }

    /// What happens next, and to whom; none when nothing will any more.
    async fn next(&mut self, alarm: &mut Alarm) -> Option<(Arc<Server>, Event)> {
        if self.running.is_empty() {
            return None;
        }
        alarm.set(self.due());
        poll_fn(|context| self.poll(context, alarm)).await
    }

    fn poll(&mut self, context: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Option<(Arc<Server>, Event)>> {
        for place in 0..self.running.len() {
            let attempt = &mut self.running[place];
            if let Poll::Ready(event) = attempt.poll(context) {
                let server = attempt.server().clone();
                if !matches!(event, Event::Late | Event::Failing) {
                    self.running.swap_remove(place);
                }
                return Poll::Ready(Some((server, event)));
            }
        }
        while alarm.poll(context).is_ready() {
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(None);
            }
            // What they are asked comes back here, and waits for itself.
            let in_a_loop = self.running.iter().find(|attempt| attempt.server().is_in_a_loop());
            if let Some(server) = in_a_loop.map(|attempt| attempt.server().clone()) {
                self.running.retain(|attempt| !attempt.server().is_in_a_loop());
                return Poll::Ready(Some((server, Event::Over)));
            }
            for attempt in &mut self.running {
                if let Some(event) = attempt.look_at(now) {
                    return Poll::Ready(Some((attempt.server().clone(), event)));
                }
            }
            alarm.set(self.due());
        }
        Poll::Pending
    }

    /// When to look at the time next.
    fn due(&self) -> Instant {
        self.running.iter().filter_map(|attempt| attempt.due()).fold(self.deadline, Instant::min)
    }
}

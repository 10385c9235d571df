//! One question to one server, with everything that may take: again over TCP when the answer is too long or its name is in
//! another case, again without EDNS when the server cannot read it. What comes of it is told to the race and remembered for the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use node_cache_config::Protocol;
use tokio::time::{Instant, timeout};

use super::Server;
use super::exchange::{self, Form, Outcome};
use crate::packet::Response;
use crate::packet::question::Question;

/// How long a server that lost the case of a name has to answer over TCP.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// Each this long after a server has failed it is looked whether it is in a loop, and so often: for as long as a probe counts.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: u32 = 5;

/// What happens to an attempt.
#[derive(Debug)]
pub(super) enum Event {
    /// No answer yet, but it would be time for one. It may still come.
    Late,
    /// The same, and the server counts as failing.
    Failing,
    /// An answer, good or bad. It was the last event.
    Answered(Response),
    /// There will be no answer. It was the last event.
    Over,
}

/// How long a server has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until it is slower than usual, and the race goes on beside it.
    pub(super) usual: Duration,
    /// Until it counts as failing, and the race goes on again.
    pub(super) failing: Duration,
}

impl Patience {
    /// No server is slower than usual before it fails.
    pub(super) const fn until_failing(failing: Duration) -> Self {
        Self { usual: failing, failing }
    }
}

/// How far a server's patience is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    InTime,
    LongerThanUsual,
    TooLong,
    Forever,
}

/// A question that was sent to a server. Its answer is waited for even when the patience is over, or when somebody says that
/// nobody listens there.
pub(super) struct Attempt {
    server: Arc<Server>,
    question: Arc<Question>,
    started: Instant,
    patience: Patience,
    waited: Waited,
    /// When it failed, if it did.
    failed: Option<Instant>,
    /// How often it was looked since then whether the server is in a loop.
    looks: u32,
    unreachable: Arc<AtomicBool>,
    work: Boxed<'static, Response>,
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

impl Attempt {
    /// Begins one. Nothing happens before it is polled.
    pub(super) fn begin(server: Arc<Server>, question: Arc<Question>, patience: Patience) -> Self {
        server.count_sent();
        let unreachable = Arc::<AtomicBool>::default();
        let work = Box::pin(ask(server.clone(), question.clone(), unreachable.clone()));
        Self {
            server,
            question,
            started: Instant::now(),
            patience,
            waited: Waited::InTime,
            failed: None,
            looks: 0,
            unreachable,
            work,
        }
    }

    /// Whom it asks.
    pub(super) const fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Waits for an answer, or a report.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        match self.work.as_mut().poll(context) {
            Poll::Ready(Ok(response)) => {
                self.server.answered(self.started.elapsed());
                Poll::Ready(Event::Answered(response))
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!("{}: {error}", self.server.address());
                self.fails();
                Poll::Ready(Event::Over)
            }
            Poll::Pending if self.unreachable.swap(false, Ordering::Relaxed) && self.fails() => {
                Poll::Ready(Event::Failing)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// What the time says.
    pub(super) fn look_at(&mut self, now: Instant) -> Option<Event> {
        if self.due().is_none_or(|due| now < due) {
            return None;
        }
        match self.waited {
            Waited::InTime if now < self.started + self.patience.failing => {
                self.waited = Waited::LongerThanUsual;
                Some(Event::Late)
            }
            Waited::InTime | Waited::LongerThanUsual => {
                self.fails();
                Some(Event::Failing)
            }
            Waited::TooLong if self.looks < LOOKS => {
                self.looks += 1;
                None
            }
            Waited::TooLong | Waited::Forever => {
                self.waited = Waited::Forever;
                None
            }
        }
    }

    /// When to look at the time next.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.waited {
            Waited::InTime => Some(self.started + self.patience.usual),
            Waited::LongerThanUsual => Some(self.started + self.patience.failing),
            // The race looks whether the server is in a loop by now.
            Waited::TooLong => self.failed.map(|failed| failed + LOOK * (1 + self.looks)),
            Waited::Forever => None,
        }
    }

    /// Counts a failure of the server, once; whether it was that once.
    fn fails(&mut self) -> bool {
        let first = self.failed.is_none();
        if first {
            (self.waited, self.failed) = (Waited::TooLong, Some(Instant::now()));
            self.server.failed(&self.question);
        }
        first
    }
}

async fn ask(server: Arc<Server>, question: Arc<Question>, unreachable: Arc<AtomicBool>) -> io::Result<Response> {
    let mut form = Form { edns: true, mixed_case: server.keeps_case() };
    let mut over_tcp = server.protocol() == Protocol::Tcp;
    loop {
        let outcome = if over_tcp {
            over_connection(&server, &question, form).await?.0
        } else {
            exchange::udp(server.sockets(), &question, form, &unreachable, server.tap()).await?
        };
        match outcome {
            Outcome::Answered(response) => return Ok(response),
            Outcome::Truncated => over_tcp = true,
            Outcome::CaseLost => match confirmed(&server, &question, form).await {
                Some(Outcome::Answered(response)) => return Ok(response),
                Some(_) => (form.edns, over_tcp) = (false, true),
                // Whoever forged the answer has to guess everything once more.
                None => form.mixed_case = false,
            },
            // For this question only: a forged complaint must not cost the server its EDNS.
            Outcome::Unreadable => form.edns = false,
        }
    }
}

/// What the server says over TCP when the case of a name was lost; none when it cannot be asked there.
async fn confirmed(server: &Server, question: &Question, form: Form) -> Option<Outcome> {
    let (outcome, case_kept) = timeout(CONFIRMATION, over_connection(server, question, form)).await.ok()?.ok()?;
    // Only what nobody can forge tells that it was this server which lost the case.
    if !case_kept {
        server.lost_case();
    }
    Some(outcome)
}

/// Rare, so that no question over UDP keeps room for it.
fn over_connection<'a>(server: &'a Server, question: &'a Question, form: Form) -> Boxed<'a, (Outcome, bool)> {
    Box::pin(exchange::tcp(server.connection(), question, form, server.tap()))
}

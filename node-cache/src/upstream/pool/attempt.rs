//! One question to one server, with everything that may take: again over TCP when the answer is too long or its name is in
//! another case, again without EDNS when the server cannot read it. What comes of it is told to the race and remembered for the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use node_cache_config::Protocol;
use tokio::time::{Instant, timeout};

use crate::dns::Response;
use crate::dns::question::Question;
use crate::upstream::server::Server;
use crate::upstream::transport::udp::{self as exchange, Datagram, Form, Outcome, Told};

/// How long a server that lost the case of a name has to answer over TCP.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// Each this long after a server has failed it is looked whether it is in a loop, and so often: for as long as a probe counts.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: u32 = 5;

/// What happens to an attempt.
#[derive(Debug)]
pub(in crate::upstream) enum Event {
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
pub(in crate::upstream) struct Patience {
    /// Until it is slower than usual, and the race goes on beside it.
    pub(in crate::upstream) usual: Duration,
    /// Until it counts as failing, and the race goes on again.
    pub(in crate::upstream) failing: Duration,
}

impl Patience {
    /// No server is slower than usual before it fails.
    pub(in crate::upstream) const fn until_failing(failing: Duration) -> Self {
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

/// A question to a server. Its answer is waited for even when the patience is over, or when somebody says that nobody listens
/// there.
pub(in crate::upstream) struct Attempt {
    server: Arc<Server>,
    question: Arc<Question>,
    started: Instant,
    patience: Patience,
    waited: Waited,
    /// When it failed, if it did.
    failed: Option<Instant>,
    /// How often it was looked since then whether the server is in a loop.
    looks: u32,
    form: Form,
    over_tcp: bool,
    way: Way,
}

/// How an attempt is made at the moment.
enum Way {
    /// Nothing is sent yet.
    Unsent,
    Datagram(Datagram),
    /// Rare, as is the next, so that no question over UDP keeps room for it.
    Connection(Boxed<io::Result<(Outcome, bool)>>),
    /// What was said over UDP had lost the case of the name.
    Confirmation(Boxed<Option<Outcome>>),
    /// It was answered, or will not be.
    Over,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Attempt {
    /// Begins one now. Nothing is sent before it is polled.
    pub(in crate::upstream) fn begin(
        server: Arc<Server>,
        question: Arc<Question>,
        patience: Patience,
        now: Instant,
    ) -> Self {
        server.count_sent();
        let form = Form { edns: true, mixed_case: server.keeps_case() };
        let over_tcp = server.protocol() == Protocol::Tcp;
        Self {
            server,
            question,
            started: now,
            patience,
            waited: Waited::InTime,
            failed: None,
            looks: 0,
            form,
            over_tcp,
            way: Way::Unsent,
        }
    }

    /// Whom it asks.
    pub(in crate::upstream) const fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Whether nothing more will come of it.
    pub(in crate::upstream) const fn is_over(&self) -> bool {
        matches!(self.way, Way::Over)
    }

    /// Waits for an answer, or a report.
    pub(in crate::upstream) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            match ready!(self.poll_told(context)) {
                Ok(Told::Outcome(outcome)) => {
                    if let Some(response) = self.follow(outcome) {
                        let now = Instant::now();
                        self.server.answered(now - self.started, now.into_std());
                        return Poll::Ready(Event::Answered(response));
                    }
                }
                Ok(Told::Unreachable) if self.fails() => return Poll::Ready(Event::Failing),
                Ok(Told::Unreachable) => {}
                Err(error) => {
                    tracing::debug!("{}: {error}", self.server.address());
                    self.fails();
                    self.way = Way::Over;
                    return Poll::Ready(Event::Over);
                }
            }
        }
    }

    /// Sends what is not sent yet, and waits for what comes of it.
    fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Told>> {
        let Self { server, question, form, .. } = self;
        if let Way::Unsent = self.way {
            self.way = if self.over_tcp {
                Way::Connection(over_connection(server.clone(), question.clone(), *form))
            } else {
                Way::Datagram(Datagram::send(server.sockets(), question, *form, server.tap())?)
            };
        }
        let outcome = match &mut self.way {
            Way::Datagram(datagram) => {
                return datagram.poll_told(context, server.address(), question, server.tap());
            }
            Way::Connection(asked) => ready!(asked.as_mut().poll(context))?.0,
            Way::Confirmation(asked) => match ready!(asked.as_mut().poll(context)) {
                Some(outcome) => outcome,
                None => {
                    // Whoever forged the answer has to guess everything once more.
                    (self.form.mixed_case, self.way) = (false, Way::Unsent);
                    return self.poll_told(context);
                }
            },
            Way::Unsent | Way::Over => return Poll::Pending,
        };
        Poll::Ready(Ok(Told::Outcome(outcome)))
    }

    /// Does what follows from an outcome: it is an answer, or the question is sent once more in another way.
    fn follow(&mut self, outcome: Outcome) -> Option<Response> {
        let way = std::mem::replace(&mut self.way, Way::Unsent);
        let was_confirmed = matches!(way, Way::Confirmation(_));
        if let Way::Datagram(datagram) = way {
            datagram.end(self.server.sockets(), &outcome);
        }
        match outcome {
            Outcome::Answered(response) => {
                self.way = Way::Over;
                return Some(response);
            }
            Outcome::Truncated => self.over_tcp = true,
            Outcome::CaseLost => {
                let (server, question) = (self.server.clone(), self.question.clone());
                self.way = Way::Confirmation(Box::pin(confirmed(server, question, self.form)));
            }
            // For this question only: a forged complaint must not cost the server its EDNS.
            Outcome::Unreadable => {
                self.form.edns = false;
                self.over_tcp |= was_confirmed;
            }
        }
        None
    }

    /// What the time says.
    pub(in crate::upstream) fn look_at(&mut self, now: Instant) -> Option<Event> {
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
    pub(in crate::upstream) fn due(&self) -> Option<Instant> {
        match self.waited {
            _ if self.is_over() => None,
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

/// What the server says over TCP when the case of a name was lost; none when it cannot be asked there.
async fn confirmed(server: Arc<Server>, question: Arc<Question>, form: Form) -> Option<Outcome> {
    let asked = over_connection(server.clone(), question, form);
    let (outcome, case_kept) = timeout(CONFIRMATION, asked).await.ok()?.ok()?;
    // Only what nobody can forge tells that it was this server which lost the case.
    if !case_kept {
        server.lost_case();
    }
    Some(outcome)
}

fn over_connection(server: Arc<Server>, question: Arc<Question>, form: Form) -> Boxed<io::Result<(Outcome, bool)>> {
    Box::pin(async move { exchange::tcp(server.connection(), &question, form, server.tap()).await })
}

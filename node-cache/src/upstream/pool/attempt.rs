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
use crate::upstream::transport::udp::{self as exchange, ExchangeOutcome, QueryFormat, SocketEvent, UdpQuery};

/// How long a server that lost the case of a name has to answer over TCP.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// Each this long after a server has failed it is looked whether it is in a loop, and so often: for as long as a probe counts.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: u32 = 5;

/// What happens to an attempt.
#[derive(Debug)]
pub(in crate::upstream) enum AttemptEvent {
    /// No answer yet, but it would be time for one. It may still come.
    HedgeDue,
    /// The same, and the server counts as failing.
    TimedOut,
    /// An answer, good or bad. It was the last event.
    Response(Response),
    /// There will be no answer. It was the last event.
    Failed,
}

/// How long a server has.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct AttemptTimeouts {
    /// Until it is slower than usual, and the race goes on beside it.
    pub(in crate::upstream) hedge_after: Duration,
    /// Until it counts as failing, and the race goes on again.
    pub(in crate::upstream) fail_after: Duration,
}

impl AttemptTimeouts {
    /// No server is slower than usual before it fails.
    pub(in crate::upstream) const fn until_timeout(fail_after: Duration) -> Self {
        Self { hedge_after: fail_after, fail_after }
    }
}

/// How far a server's patience is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeoutStage {
    InTime,
    HedgeDue,
    TimedOut,
    Exhausted,
}

/// A question to a server. Its answer is waited for even when the patience is over, or when somebody says that nobody listens
/// there.
pub(in crate::upstream) struct Attempt {
    server: Arc<Server>,
    question: Arc<Question>,
    started: Instant,
    patience: AttemptTimeouts,
    waited: TimeoutStage,
    /// When it failed, if it did.
    failed: Option<Instant>,
    /// How often it was looked since then whether the server is in a loop.
    looks: u32,
    form: QueryFormat,
    over_tcp: bool,
    way: Way,
}

/// How an attempt is made at the moment.
enum Way {
    /// Nothing is sent yet.
    Unsent,
    UdpQuery(UdpQuery),
    /// Rare, as is the next, so that no question over UDP keeps room for it.
    Connection(Boxed<io::Result<(ExchangeOutcome, bool)>>),
    /// What was said over UDP had lost the case of the name.
    Confirmation(Boxed<Option<ExchangeOutcome>>),
    /// It was answered, or will not be.
    Over,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Attempt {
    /// Begins one now. Nothing is sent before it is polled.
    pub(in crate::upstream) fn begin(
        server: Arc<Server>,
        question: Arc<Question>,
        patience: AttemptTimeouts,
        now: Instant,
    ) -> Self {
        server.count_sent();
        let form = QueryFormat { edns: true, case_0x20: server.echoes_case() };
        let over_tcp = server.protocol() == Protocol::Tcp;
        Self {
            server,
            question,
            started: now,
            patience,
            waited: TimeoutStage::InTime,
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
    pub(in crate::upstream) fn poll(&mut self, context: &mut Context<'_>) -> Poll<AttemptEvent> {
        loop {
            match ready!(self.poll_told(context)) {
                Ok(SocketEvent::ExchangeOutcome(outcome)) => {
                    if let Some(response) = self.follow(outcome) {
                        let now = Instant::now();
                        self.server.answered(now - self.started, now.into_std());
                        return Poll::Ready(AttemptEvent::Response(response));
                    }
                }
                Ok(SocketEvent::Unreachable) if self.fails() => return Poll::Ready(AttemptEvent::TimedOut),
                Ok(SocketEvent::Unreachable) => {}
                Err(error) => {
                    tracing::debug!("{}: {error}", self.server.address());
                    self.fails();
                    self.way = Way::Over;
                    return Poll::Ready(AttemptEvent::Failed);
                }
            }
        }
    }

    /// Sends what is not sent yet, and waits for what comes of it.
    fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<io::Result<SocketEvent>> {
        let Self { server, question, form, .. } = self;
        if let Way::Unsent = self.way {
            self.way = if self.over_tcp {
                Way::Connection(over_connection(server.clone(), question.clone(), *form))
            } else {
                Way::UdpQuery(UdpQuery::send(server.sockets(), question, *form, server.tap())?)
            };
        }
        let outcome = match &mut self.way {
            Way::UdpQuery(datagram) => {
                return datagram.poll_told(context, server.address(), question, server.tap());
            }
            Way::Connection(asked) => ready!(asked.as_mut().poll(context))?.0,
            Way::Confirmation(asked) => match ready!(asked.as_mut().poll(context)) {
                Some(outcome) => outcome,
                None => {
                    // Whoever forged the answer has to guess everything once more.
                    (self.form.case_0x20, self.way) = (false, Way::Unsent);
                    return self.poll_told(context);
                }
            },
            Way::Unsent | Way::Over => return Poll::Pending,
        };
        Poll::Ready(Ok(SocketEvent::ExchangeOutcome(outcome)))
    }

    /// Does what follows from an outcome: it is an answer, or the question is sent once more in another way.
    fn follow(&mut self, outcome: ExchangeOutcome) -> Option<Response> {
        let way = std::mem::replace(&mut self.way, Way::Unsent);
        let was_confirmed = matches!(way, Way::Confirmation(_));
        if let Way::UdpQuery(datagram) = way {
            datagram.end(self.server.sockets(), &outcome);
        }
        match outcome {
            ExchangeOutcome::Response(response) => {
                self.way = Way::Over;
                return Some(response);
            }
            ExchangeOutcome::Truncated => self.over_tcp = true,
            ExchangeOutcome::CaseNotEchoed => {
                let (server, question) = (self.server.clone(), self.question.clone());
                self.way = Way::Confirmation(Box::pin(confirmed(server, question, self.form)));
            }
            // For this question only: a forged complaint must not cost the server its EDNS.
            ExchangeOutcome::FormatError => {
                self.form.edns = false;
                self.over_tcp |= was_confirmed;
            }
        }
        None
    }

    /// What the time says.
    pub(in crate::upstream) fn look_at(&mut self, now: Instant) -> Option<AttemptEvent> {
        if self.due().is_none_or(|due| now < due) {
            return None;
        }
        match self.waited {
            TimeoutStage::InTime if now < self.started + self.patience.fail_after => {
                self.waited = TimeoutStage::HedgeDue;
                Some(AttemptEvent::HedgeDue)
            }
            TimeoutStage::InTime | TimeoutStage::HedgeDue => {
                self.fails();
                Some(AttemptEvent::TimedOut)
            }
            TimeoutStage::TimedOut if self.looks < LOOKS => {
                self.looks += 1;
                None
            }
            TimeoutStage::TimedOut | TimeoutStage::Exhausted => {
                self.waited = TimeoutStage::Exhausted;
                None
            }
        }
    }

    /// When to look at the time next.
    pub(in crate::upstream) fn due(&self) -> Option<Instant> {
        match self.waited {
            _ if self.is_over() => None,
            TimeoutStage::InTime => Some(self.started + self.patience.hedge_after),
            TimeoutStage::HedgeDue => Some(self.started + self.patience.fail_after),
            // The race looks whether the server is in a loop by now.
            TimeoutStage::TimedOut => self.failed.map(|failed| failed + LOOK * (1 + self.looks)),
            TimeoutStage::Exhausted => None,
        }
    }

    /// Counts a failure of the server, once; whether it was that once.
    fn fails(&mut self) -> bool {
        let first = self.failed.is_none();
        if first {
            (self.waited, self.failed) = (TimeoutStage::TimedOut, Some(Instant::now()));
            self.server.failed(&self.question);
        }
        first
    }
}

/// What the server says over TCP when the case of a name was lost; none when it cannot be asked there.
async fn confirmed(server: Arc<Server>, question: Arc<Question>, form: QueryFormat) -> Option<ExchangeOutcome> {
    let asked = over_connection(server.clone(), question, form);
    let (outcome, case_kept) = timeout(CONFIRMATION, asked).await.ok()?.ok()?;
    // Only what nobody can forge tells that it was this server which lost the case.
    if !case_kept {
        server.case_not_echoed();
    }
    Some(outcome)
}

fn over_connection(
    server: Arc<Server>,
    question: Arc<Question>,
    form: QueryFormat,
) -> Boxed<io::Result<(ExchangeOutcome, bool)>> {
    Box::pin(async move { exchange::tcp(server.connection(), &question, form, server.tap()).await })
}

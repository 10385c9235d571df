//! One attempt: a query to one server, repeated over TCP after truncation, a near miss or a response that does not echo
//! the 0x20 case, in lower case after a denial, and without EDNS after FORMERR. Its events go to the hedged query, its
//! result to the server's circuit breaker.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use node_cache_config::Protocol;
use tokio::time::{Instant, timeout};

use super::case_agreement::{CaseAgreement, CaseVerdict};
use super::case_check::{CaseCheck, CheckVerdict, is_denial};
use crate::dns::Response;
use crate::dns::question::Question;
use crate::upstream::server::{QueryPath, Server};
use crate::upstream::transport::query_format::{EdnsUse, ExchangeOutcome, QueryFormat};
use crate::upstream::transport::tcp::{self, TcpExchange};
use crate::upstream::transport::udp::{SocketEvent, UdpQuery};

/// Timeout of a query over TCP that is repeated over UDP without a response.
const TCP_FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval at which a server that timed out is checked for a forwarding loop.
const LOOP_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Number of those checks. Together they last as long as a loop probe is valid.
const LOOP_CHECKS: u32 = 5;

/// Event of an attempt.
#[derive(Debug)]
pub(super) enum AttemptEvent {
    /// The server is slower than usual: it is time to hedge. The response may still come.
    HedgeDue,
    /// The server has timed out, which counts as a failure. The response may still come.
    TimedOut,
    /// A response with any rcode. No event follows.
    Response(Response),
    /// There will be no response. No event follows.
    Failed,
}

/// Timeouts of an attempt, from its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptTimeouts {
    /// Time after which another server is queried in parallel (hedging).
    pub(super) hedge_after: Duration,
    /// Time after which the attempt counts as a failure and the next server is queried.
    pub(super) fail_after: Duration,
}

impl AttemptTimeouts {
    /// Creates timeouts without hedging.
    pub(super) const fn without_hedging(fail_after: Duration) -> Self {
        Self { hedge_after: fail_after, fail_after }
    }
}

/// Timeouts of an attempt that have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeoutStage {
    InTime,
    HedgeDue,
    TimedOut,
    /// The checks for a forwarding loop are over too.
    Exhausted,
}

/// Purpose of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptPurpose {
    /// The response is for a client. Without one in time the server is suspected: the name may be what is silent.
    Query,
    /// The response shows the health of the server, and nothing else needs it.
    Probe,
}

/// An attempt at a query with one server. It keeps listening after its timeouts, and after an ICMP error, which can be
/// spoofed.
pub(super) struct Attempt {
    server: Arc<Server>,
    question: Arc<Question>,
    purpose: AttemptPurpose,
    started: Instant,
    timeouts: AttemptTimeouts,
    stage: TimeoutStage,
    /// When the attempt counted as a failure.
    failed_at: Option<Instant>,
    /// Checks for a forwarding loop since then.
    loop_checks: u32,
    format: QueryFormat,
    /// The query goes over TCP alone: by the protocol of the server, or after truncation.
    over_tcp: bool,
    /// The next exchange is over TCP, and the one after it over UDP if the server does not respond.
    tcp_first: bool,
    /// Near misses are only counted from now on: TCP is in use, was tried, or is closed.
    ignores_near_misses: bool,
    case_agreement: CaseAgreement,
    /// The server has not shown yet that it knows names in mixed case: its denials are checked.
    checks_denials: bool,
    /// The name of the last query had capital letters. Known while denials are checked.
    is_mixed_case: bool,
    /// The denial that is being checked. Boxed as it is rare.
    case_check: Option<Box<CaseCheck>>,
    exchange: Exchange,
}

/// Exchange that an attempt is in.
enum Exchange {
    NotSent,
    Udp(UdpQuery),
    /// Boxed as it is rare, as is the next variant: a query over UDP does not reserve space for it.
    Tcp(BoxFuture<io::Result<TcpExchange>>),
    /// A query over TCP that is repeated over UDP when the server does not respond (`None`).
    TcpFirst(BoxFuture<Option<TcpExchange>>),
    /// The attempt has a response or has failed.
    Done,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Attempt {
    /// Starts an attempt at `now`. The query is sent when the attempt is first polled.
    pub(super) fn start(
        server: Arc<Server>,
        question: Arc<Question>,
        purpose: AttemptPurpose,
        timeouts: AttemptTimeouts,
        now: Instant,
    ) -> Self {
        server.count_sent();
        let QueryPath { case_0x20, tcp_first, checks_denials } = server.query_path(&question.name, now.into_std());
        let format = QueryFormat { edns: server.edns(), case_0x20 };
        let over_tcp = server.protocol() == Protocol::Tcp;
        Self {
            server,
            question,
            purpose,
            started: now,
            timeouts,
            stage: TimeoutStage::InTime,
            failed_at: None,
            loop_checks: 0,
            format,
            over_tcp,
            tcp_first,
            ignores_near_misses: tcp_first,
            case_agreement: CaseAgreement::default(),
            checks_denials: checks_denials && purpose == AttemptPurpose::Query,
            is_mixed_case: false,
            case_check: None,
            exchange: Exchange::NotSent,
        }
    }

    /// Returns the server that is queried.
    pub(super) const fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Returns whether no event follows.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.exchange, Exchange::Done)
    }

    /// Polls for the next event from the network. Timeouts are up to [`Self::advance`].
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<AttemptEvent> {
        loop {
            match ready!(self.poll_exchange(context)) {
                Ok(SocketEvent::Outcome(outcome)) => match self.apply_outcome(outcome) {
                    Some(AttemptEvent::Response(response)) => {
                        self.record_response(&response);
                        return Poll::Ready(AttemptEvent::Response(response));
                    }
                    Some(event) => return Poll::Ready(event),
                    None => {}
                },
                Ok(SocketEvent::NearMiss) => self.apply_near_miss(),
                Ok(SocketEvent::Unreachable) | Err(_) if self.case_check.is_some() => {
                    if let Some(event) = self.end_case_check() {
                        return Poll::Ready(event);
                    }
                }
                Ok(SocketEvent::Unreachable) if self.record_failure() => return Poll::Ready(AttemptEvent::TimedOut),
                Ok(SocketEvent::Unreachable) => {}
                Err(error) => {
                    tracing::debug!(upstream = %self.server.address(), %error, "query to upstream failed");
                    self.record_failure();
                    self.exchange = Exchange::Done;
                    return Poll::Ready(AttemptEvent::Failed);
                }
            }
        }
    }

    /// Records a response for the health of the server.
    fn record_response(&self, response: &Response) {
        let now = Instant::now();
        let is_answer = self.purpose == AttemptPurpose::Query && !response.is_failure();
        let answered = is_answer.then_some(&self.question);
        self.server.record_response(answered, now - self.started, now.into_std());
    }

    /// Sends the query if it is not sent, and polls for the next event of its exchange.
    fn poll_exchange(&mut self, context: &mut Context<'_>) -> Poll<io::Result<SocketEvent>> {
        let Self { server, question, format, .. } = self;
        if let Exchange::NotSent = self.exchange {
            self.exchange = if self.over_tcp {
                Exchange::Tcp(query_over_tcp(server.clone(), question.clone(), *format))
            } else if std::mem::take(&mut self.tcp_first) {
                Exchange::TcpFirst(Box::pin(query_over_tcp_first(server.clone(), question.clone(), *format)))
            } else {
                let query = UdpQuery::send(server.sockets(), question, *format, server.tap())?;
                if self.checks_denials {
                    self.is_mixed_case = query.is_mixed_case(question);
                }
                Exchange::Udp(query)
            };
        }
        let TcpExchange { outcome, is_mixed_case, .. } = match &mut self.exchange {
            Exchange::Udp(query) => {
                return query.poll_event(context, server.address(), question, server.tap());
            }
            Exchange::Tcp(query) => ready!(query.as_mut().poll(context))?,
            Exchange::TcpFirst(query) => match ready!(query.as_mut().poll(context)) {
                Some(exchange) => exchange,
                None => {
                    // Whoever forges responses has to guess ID, port and case anew.
                    self.exchange = Exchange::NotSent;
                    return self.poll_exchange(context);
                }
            },
            Exchange::NotSent | Exchange::Done => return Poll::Pending,
        };
        self.is_mixed_case = is_mixed_case;
        Poll::Ready(Ok(SocketEvent::Outcome(outcome)))
    }

    /// Ends the attempt with its last event, or prepares the query to be repeated in another way (`None`).
    fn apply_outcome(&mut self, outcome: ExchangeOutcome) -> Option<AttemptEvent> {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::NotSent);
        let was_tcp_first = matches!(exchange, Exchange::TcpFirst(_));
        let was_over_tcp = was_tcp_first || matches!(exchange, Exchange::Tcp(_));
        if let Exchange::Udp(query) = exchange {
            query.finish(self.server.sockets(), &outcome);
        }
        match outcome {
            ExchangeOutcome::Response(response) if self.checks_denials => {
                return self.check_denial(response, was_over_tcp);
            }
            ExchangeOutcome::Response(response) => return Some(self.finish(AttemptEvent::Response(response))),
            ExchangeOutcome::Truncated => self.over_tcp = true,
            ExchangeOutcome::CaseNotEchoed(response) => return self.apply_other_case(response),
            // For this query only: a forged FORMERR must not turn EDNS off for the server.
            ExchangeOutcome::FormatError => {
                self.format.edns = EdnsUse::Absent;
                self.over_tcp |= was_tcp_first;
            }
        }
        None
    }

    /// Ends the attempt with an event.
    fn finish(&mut self, event: AttemptEvent) -> AttemptEvent {
        self.exchange = Exchange::Done;
        event
    }

    /// Repeats the query after a response over UDP that does not echo the 0x20 case: over TCP, or over UDP where TCP is
    /// closed, until enough responses agree. 0x20 stays on, so a response that echoes the case ends the attempt, too.
    fn apply_other_case(&mut self, response: Box<Response>) -> Option<AttemptEvent> {
        self.server.count_near_miss();
        self.tcp_first = !self.ignores_near_misses && self.server.is_tcp_usable();
        self.ignores_near_misses = true;
        match self.case_agreement.record(response) {
            CaseVerdict::Open => None,
            CaseVerdict::ServerChangesCase(response) => {
                self.server.record_case_not_echoed();
                self.over_tcp = response.is_truncated();
                (!self.over_tcp).then(|| self.finish(AttemptEvent::Response(*response)))
            }
            CaseVerdict::Contradiction => Some(self.finish(AttemptEvent::Failed)),
        }
    }

    /// Ends the attempt with a response of a server that may compare names by octet, or repeats the query in lower
    /// case: after a denial of the name in mixed case, and after records over UDP that are to be confirmed.
    fn check_denial(&mut self, response: Response, is_over_tcp: bool) -> Option<AttemptEvent> {
        let now = Instant::now().into_std();
        let Some(mut check) = self.case_check.take() else {
            if !self.is_mixed_case || !is_denial(&response) {
                if self.is_mixed_case && response.has_answer() {
                    self.server.record_known_in_mixed_case();
                }
                return Some(self.finish(AttemptEvent::Response(response)));
            }
            self.format.case_0x20 = false;
            self.over_tcp |= is_over_tcp;
            self.case_check = Some(Box::new(CaseCheck::new(response, now)));
            return None;
        };
        match check.record(response, is_over_tcp, now) {
            CheckVerdict::Unconfirmed => {
                self.tcp_first = !self.ignores_near_misses && self.server.is_tcp_usable();
                self.ignores_near_misses = true;
                self.case_check = Some(check);
                None
            }
            CheckVerdict::Denied(response) => Some(self.finish(AttemptEvent::Response(response))),
            CheckVerdict::KnownInLowerCase(response) => {
                self.server.record_known_in_lower_case_only();
                Some(self.finish(AttemptEvent::Response(response)))
            }
        }
    }

    /// Ends the attempt with the denial that is being checked, if one is.
    pub(super) fn end_case_check(&mut self) -> Option<AttemptEvent> {
        let denial = self.case_check.take()?.into_denial();
        self.record_response(&denial);
        Some(self.finish(AttemptEvent::Response(denial)))
    }

    /// Repeats the query over TCP after its first near miss, unless TCP is closed.
    fn apply_near_miss(&mut self) {
        self.server.count_near_miss();
        if !std::mem::replace(&mut self.ignores_near_misses, true) && self.server.record_near_miss(&self.question.name)
        {
            self.tcp_first = true;
            self.exchange = Exchange::NotSent;
        }
    }

    /// Advances to the timeouts that have passed at `now`. Returns the event of a timeout, if one is due.
    pub(super) fn advance(&mut self, now: Instant) -> Option<AttemptEvent> {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        if self.case_check.is_some() {
            return self.end_case_check();
        }
        match self.stage {
            TimeoutStage::InTime if now < self.started + self.timeouts.fail_after => {
                self.stage = TimeoutStage::HedgeDue;
                Some(AttemptEvent::HedgeDue)
            }
            TimeoutStage::InTime | TimeoutStage::HedgeDue => {
                self.record_failure();
                Some(AttemptEvent::TimedOut)
            }
            TimeoutStage::TimedOut if self.loop_checks < LOOP_CHECKS => {
                self.loop_checks += 1;
                None
            }
            TimeoutStage::TimedOut | TimeoutStage::Exhausted => {
                self.stage = TimeoutStage::Exhausted;
                None
            }
        }
    }

    /// Returns when [`Self::advance`] is due next; `None` when all timeouts have passed or the attempt is done.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if let Some(check) = &self.case_check {
            return Some(Instant::from_std(check.until()));
        }
        match self.stage {
            _ if self.is_done() => None,
            TimeoutStage::InTime => Some(self.started + self.timeouts.hedge_after),
            TimeoutStage::HedgeDue => Some(self.started + self.timeouts.fail_after),
            // The hedged query checks at these times for a forwarding loop.
            TimeoutStage::TimedOut => self.failed_at.map(|at| at + LOOP_CHECK_INTERVAL * (1 + self.loop_checks)),
            TimeoutStage::Exhausted => None,
        }
    }

    /// Records a failure of the server, once per attempt. Returns whether this is the first.
    fn record_failure(&mut self) -> bool {
        let is_first = self.failed_at.is_none();
        if is_first {
            self.stage = TimeoutStage::TimedOut;
            self.failed_at = Some(Instant::now());
            match self.purpose {
                AttemptPurpose::Query => self.server.record_failure(&self.question),
                AttemptPurpose::Probe => self.server.record_probe_failure(),
            }
        }
        is_first
    }
}

/// Queries a server of protocol UDP over TCP; `None` when it does not respond within a second.
async fn query_over_tcp_first(
    server: Arc<Server>,
    question: Arc<Question>,
    format: QueryFormat,
) -> Option<TcpExchange> {
    let query = query_over_tcp(server.clone(), question, format);
    match timeout(TCP_FIRST_TIMEOUT, query).await {
        Ok(Ok(exchange)) => {
            // A response over UDP can be forged. One over TCP proves that the server itself does not echo the case.
            if !exchange.case_echoed {
                server.record_case_not_echoed();
            }
            Some(exchange)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => None,
        // A server that is connected and silent is open over TCP: its silence may be that of the name.
        Ok(Err(_)) | Err(_) => {
            if !server.connections().has_open() {
                server.record_tcp_closed();
            }
            None
        }
    }
}

fn query_over_tcp(
    server: Arc<Server>,
    question: Arc<Question>,
    format: QueryFormat,
) -> BoxFuture<io::Result<TcpExchange>> {
    let late_after = tcp::late_after(server.p95());
    Box::pin(async move { tcp::query(server.connections(), &question, format, late_after, server.tap()).await })
}

//! One attempt: a query to one server, repeated over TCP after truncation, a near miss or a response that does not echo
//! the 0x20 case, in lower case after a denial, and without EDNS after an error that EDNS may be the reason of. Its
//! events go to the hedged query, its result to the server's circuit breaker.

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
/// Time in which a connection to a server has to be open after a truncated response; otherwise TCP counts as closed,
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// and while it does.
const CLOSED_CONNECT_TIMEOUT: Duration = Duration::from_millis(100);

/// Packets that a query over TCP costs beside its own, with a connection that is opened for it.
const CONNECTION_PACKETS: u64 = 5;

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
    /// The time is over in which the server had to answer anybody, or else counts as dead.
    LivenessDue,
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
    /// The next exchange is over TCP, and the one after it over UDP if there is no connection.
    repeats_over_tcp: bool,
    /// Near misses are only counted from now on: TCP is in use, was tried, or is closed.
    ignores_near_misses: bool,
    case_agreement: CaseAgreement,
    /// The server has not shown yet that it knows names in mixed case: its denials are checked.
    checks_denials: bool,
    /// The name of the last query had capital letters. Known while denials are checked.
    is_mixed_case: bool,
    /// The denial that is being checked. Boxed as it is rare.
    case_check: Option<Box<CaseCheck>>,
    /// The query was repeated without EDNS after an error.
    was_edns_rejected: bool,
    /// A response that counts when no better one comes: truncated, or the error to the query with EDNS. Boxed as it is
    /// rare.
    fallback: Option<Box<Response>>,
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
        if purpose == AttemptPurpose::Probe {
            server.charge_packets(1);
        }
        let QueryPath { case_0x20, tcp_first, checks_denials, without_edns } =
            server.query_path(&question.name, now.into_std());
        let format = QueryFormat { edns: server.edns(without_edns), case_0x20 };
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
            repeats_over_tcp: false,
            ignores_near_misses: tcp_first,
            case_agreement: CaseAgreement::default(),
            checks_denials: checks_denials && purpose == AttemptPurpose::Query,
            is_mixed_case: false,
            case_check: None,
            was_edns_rejected: false,
            fallback: None,
            exchange: Exchange::NotSent,
        }
    }

    /// Sends the query over TCP, and over UDP where no connection can be opened.
    pub(super) fn repeated_over_tcp(mut self) -> Self {
        self.repeats_over_tcp = true;
        self.ignores_near_misses = true;
        self
    }

    /// Returns when the attempt started.
    pub(super) const fn started(&self) -> Instant {
        self.started
    }

    /// Returns when the attempt counts as a failure.
    pub(super) fn fails_at(&self) -> Instant {
        self.started + self.timeouts.fail_after
    }

    /// Returns whether the attempt has counted as a failure.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed_at.is_some()
    }

    /// Returns the server that is queried.
    pub(super) const fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Returns whether no event follows.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.exchange, Exchange::Done)
    }

    /// Takes the response that counts when the time is over and no better one came.
    pub(super) fn take_fallback(&mut self) -> Option<Box<Response>> {
        self.fallback.take()
    }

    /// Polls for the next event from the network. Timeouts are up to [`Self::advance`]. `take_send` reserves one of the
    /// sends that remain to the query, for a repetition without EDNS.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut take_send: impl FnMut() -> bool,
    ) -> Poll<AttemptEvent> {
        loop {
            let event = match ready!(self.poll_exchange(context)) {
                Ok(SocketEvent::Outcome(outcome)) => match self.apply_outcome(outcome, &mut take_send) {
                    Some(event) => event,
                    None => {
                        self.server.charge_packets(1);
                        continue;
                    }
                },
                Ok(SocketEvent::NearMiss) => {
                    self.apply_near_miss();
                    continue;
                }
                Ok(SocketEvent::Unreachable) | Err(_) if self.case_check.is_some() => match self.take_denial() {
                    Some(event) => event,
                    None => continue,
                },
                Ok(SocketEvent::Unreachable) if self.record_failure() => AttemptEvent::TimedOut,
                Ok(SocketEvent::Unreachable) => continue,
                Err(error) => {
                    tracing::debug!(upstream = %self.server.address(), %error, "query to upstream failed");
                    match self.fallback.take() {
                        // The server has answered: it is TCP that is closed, or the query without EDNS that failed.
                        Some(response) => self.finish(AttemptEvent::Response(*response)),
                        None => {
                            self.record_failure();
                            self.finish(AttemptEvent::Failed)
                        }
                    }
                }
            };
            if let AttemptEvent::Response(response) = &event {
                self.record_response(response);
            }
            return Poll::Ready(event);
        }
    }

    /// Records a response for the health of the server.
    fn record_response(&self, response: &Response) {
        let now = Instant::now();
        let is_answer = self.purpose == AttemptPurpose::Query && response.is_conclusive();
        let answered = is_answer.then_some(&self.question);
        let edns = (self.format.edns != EdnsUse::Absent).then_some(response.edns_reply());
        self.server.record_response(answered, edns, now - self.started, now.into_std());
    }

    /// Sends the query if it is not sent, and polls for the next event of its exchange.
    fn poll_exchange(&mut self, context: &mut Context<'_>) -> Poll<io::Result<SocketEvent>> {
        let Self { server, question, format, .. } = self;
        if let Exchange::NotSent = self.exchange {
            if self.over_tcp || self.tcp_first {
                server.charge_packets(CONNECTION_PACKETS);
            }
            self.exchange = if self.over_tcp {
                let query = query_over_tcp(server.clone(), question.clone(), *format);
                let is_truncated = self.fallback.as_ref().is_some_and(|fallback| fallback.is_truncated());
                Exchange::Tcp(if is_truncated { Box::pin(with_connect_timeout(server.clone(), query)) } else { query })
            } else if std::mem::take(&mut self.repeats_over_tcp) {
                Exchange::TcpFirst(Box::pin(repeat_over_tcp(server.clone(), question.clone(), *format)))
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
    fn apply_outcome(
        &mut self,
        outcome: ExchangeOutcome,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::NotSent);
        let over_tcp = !matches!(exchange, Exchange::Udp(_));
        if let Exchange::Udp(query) = exchange {
            query.finish(self.server.sockets(), &outcome);
        }
        match outcome {
            ExchangeOutcome::Response(response) => self.apply_response(response, over_tcp, take_send),
            ExchangeOutcome::CaseNotEchoed(response) => self.apply_other_case(response, take_send),
        }
    }

    /// Ends the attempt with a response, or prepares the query to be repeated in another way (`None`).
    fn apply_response(
        &mut self,
        response: Response,
        over_tcp: bool,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        if let Some(check) = self.case_check.take() {
            return self.apply_check(check, response, over_tcp);
        }
        if !response.is_conclusive() {
            return self.apply_bad_response(response, over_tcp, take_send);
        }
        if std::mem::take(&mut self.was_edns_rejected) {
            self.server.record_edns_rejection(&self.question.name);
        }
        if self.checks_denials && self.is_mixed_case {
            if is_denial(&response) {
                self.format.case_0x20 = false;
                self.over_tcp |= over_tcp;
                self.fallback = None;
                self.case_check = Some(Box::new(CaseCheck::new(response, Instant::now().into_std())));
                return None;
            }
            self.server.record_known_in_mixed_case();
        }
        Some(self.finish(AttemptEvent::Response(response)))
    }

    /// Repeats the query over TCP after a truncated response, and without EDNS after a failure that EDNS may be the
    /// reason of. Otherwise ends the attempt, with a truncated response rather than a failure.
    fn apply_bad_response(
        &mut self,
        response: Response,
        over_tcp: bool,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        if response.is_truncated() && !over_tcp {
            self.fallback = Some(Box::new(response));
            self.over_tcp = true;
            return None;
        }
        let is_first_failure = response.is_failure() && self.fallback.is_none();
        if is_first_failure && self.server.may_fail_on_edns(self.format.edns, &response) && take_send() {
            // For this query only: one forged error must not turn EDNS off for the server.
            self.format.edns = EdnsUse::Absent;
            self.was_edns_rejected = true;
            self.over_tcp |= over_tcp;
            self.fallback = Some(Box::new(response));
            return None;
        }
        let response = match self.fallback.take() {
            Some(fallback) if !fallback.is_failure() => *fallback,
            _ => response,
        };
        Some(self.finish(AttemptEvent::Response(response)))
    }

    /// Ends the attempt with an event.
    fn finish(&mut self, event: AttemptEvent) -> AttemptEvent {
        self.exchange = Exchange::Done;
        self.case_check = None;
        event
    }

    /// Repeats the query after a response over UDP that does not echo the 0x20 case: over TCP, or over UDP where TCP is
    /// closed, until enough responses agree. 0x20 stays on, so a response that echoes the case ends the attempt, too.
    fn apply_other_case(
        &mut self,
        response: Box<Response>,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        self.server.count_near_miss();
        self.tcp_first = !self.ignores_near_misses && self.server.is_tcp_usable();
        self.ignores_near_misses = true;
        match self.case_agreement.record(response) {
            CaseVerdict::Open => None,
            CaseVerdict::ServerChangesCase(response) => {
                self.server.record_case_not_echoed();
                if response.is_conclusive() {
                    return Some(self.finish(AttemptEvent::Response(*response)));
                }
                self.format.case_0x20 = false;
                self.tcp_first = false;
                self.apply_response(*response, false, take_send)
            }
            CaseVerdict::Contradiction => Some(self.finish(AttemptEvent::Failed)),
        }
    }

    /// Ends the attempt with the result of the check of a denial, or repeats the query in lower case (`None`): over TCP
    /// after a truncated response, and after records over UDP that are to be confirmed.
    fn apply_check(&mut self, mut check: Box<CaseCheck>, response: Response, over_tcp: bool) -> Option<AttemptEvent> {
        if response.is_truncated() && !over_tcp {
            self.over_tcp = true;
            self.case_check = Some(check);
            return None;
        }
        match check.record(response, over_tcp, Instant::now().into_std()) {
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
        let event = self.take_denial()?;
        if let AttemptEvent::Response(denial) = &event {
            self.record_response(denial);
        }
        Some(event)
    }

    /// Ends the attempt like [`Self::end_case_check`], and leaves the record of the response to the caller.
    fn take_denial(&mut self) -> Option<AttemptEvent> {
        let denial = self.case_check.take()?.into_denial();
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

/// Queries a server of protocol UDP over TCP, and waits for the response as long as a connection is open; `None` when
/// none is open within a second, or the query fails on it.
async fn repeat_over_tcp(server: Arc<Server>, question: Arc<Question>, format: QueryFormat) -> Option<TcpExchange> {
    let query = query_over_tcp(server.clone(), question, format);
    let exchange = with_connect_timeout(server.clone(), query).await.ok()?;
    if !exchange.case_echoed {
        server.record_case_not_echoed();
    }
    Some(exchange)
}

/// Ends a query over TCP after a truncated response when no connection is open in time: the server is closed over TCP.
async fn with_connect_timeout(
    server: Arc<Server>,
    mut query: BoxFuture<io::Result<TcpExchange>>,
) -> io::Result<TcpExchange> {
    let connect_timeout = if server.is_tcp_usable() { CONNECT_TIMEOUT } else { CLOSED_CONNECT_TIMEOUT };
    let result = match timeout(connect_timeout, &mut query).await {
        Ok(result) => result,
        Err(_) if server.connections().has_open() => return query.await,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::ConnectionReset)
        && !server.connections().has_open()
    {
        server.record_tcp_closed();
    }
    result
}

fn query_over_tcp(
    server: Arc<Server>,
    question: Arc<Question>,
    format: QueryFormat,
) -> BoxFuture<io::Result<TcpExchange>> {
    let late_after = tcp::late_after(server.p95());
    Box::pin(async move { tcp::query(server.connections(), &question, format, late_after, server.tap()).await })
}

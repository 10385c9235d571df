//! One attempt: a query to one server, repeated over TCP after truncation, a near miss or a response that does not echo
//! the 0x20 case, in lower case after a denial, and without EDNS after an error that EDNS may be the reason of. Its
//! events go to the hedged query, its result to the server's circuit breaker.

mod outcome;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use node_cache_config::Protocol;
use tokio::time::Instant;

use super::case_agreement::CaseAgreement;
use super::case_check::CaseCheck;
use super::comparison::{AnsweredBy, Comparison};
use super::tcp_query::{BoxFuture, query_over_tcp, query_over_tcp_first, repeat_over_tcp, with_connect_timeout};
use crate::dns::Response;
use crate::dns::question::Question;
use crate::metrics::PacketClass;
use crate::upstream::budget::Slot;
use crate::upstream::detection::cells::Stamp;
use crate::upstream::server::in_flight::ServerInFlight;
use crate::upstream::server::{QueryPath, Server};
use crate::upstream::transport::gate::{BUDGET_EXHAUSTED, Passage};
use crate::upstream::transport::query_format::{EdnsUse, QueryFormat};
use crate::upstream::transport::tcp::TcpExchange;
use crate::upstream::transport::timer::Timer;
use crate::upstream::transport::udp::{SocketEvent, UdpQuery};

/// Packets that a query over TCP costs beside its own, with a connection that is opened for it.
const CONNECTION_PACKETS: u64 = 5;

/// Interval at which a server that timed out is checked for a forwarding loop.
const LOOP_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Number of those checks. Together they last as long as a loop probe is valid.
const LOOP_CHECKS: u32 = 5;

/// Check for a forwarding loop at which an attempt without a response counts as lost, when another one was answered. A
/// server that is half a second slower than usual has responded by then.
const LOST_AT_CHECK: u32 = 1;

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
    /// The packet budget of the server has no room, and the query was not sent. No event follows.
    Refused,
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
    server: ServerInFlight,
    question: Arc<Question>,
    purpose: AttemptPurpose,
    /// Class of the packets.
    class: PacketClass,
    /// Slot of the query over UDP in the packet budget.
    slot: Slot,
    /// Counted as sent.
    is_counted: bool,
    /// Place of a first send in the detector of limits, until its answer.
    stamp: Option<Stamp>,
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
    comparison: Comparison,
    exchange: Exchange,
}

/// Exchange that an attempt is in.
enum Exchange {
    NotSent,
    /// A query over UDP that waits for its packet budget. Boxed as it is rare.
    Waiting(Box<WaitingQuery>),
    Udp(UdpQuery),
    /// Boxed as it is rare, as is the next variant: a query over UDP does not reserve space for it.
    Tcp(BoxFuture<io::Result<TcpExchange>>),
    /// A query over TCP that is repeated over UDP when the server does not respond (`None`).
    TcpFirst(BoxFuture<Option<TcpExchange>>),
    /// The attempt has a response or has failed.
    Done,
}

/// Query over UDP that may be sent at a time to come.
struct WaitingQuery {
    timer: Timer,
    at: Instant,
    slot: Slot,
}

impl Attempt {
    /// Starts an attempt at `now`. The query is sent when the attempt is first polled.
    pub(super) fn start(
        server: Arc<Server>,
        question: Arc<Question>,
        purpose: AttemptPurpose,
        class: PacketClass,
        timeouts: AttemptTimeouts,
        now: Instant,
    ) -> Self {
        if purpose == AttemptPurpose::Probe {
            server.charge_packets(1);
        }
        let QueryPath { case_0x20, tcp_first, checks_denials, without_edns } =
            server.query_path(&question, now.into_std());
        let format = QueryFormat { edns: server.edns(without_edns), case_0x20 };
        let over_tcp = server.protocol() == Protocol::Tcp;
        Self {
            server: ServerInFlight::new(server),
            question,
            purpose,
            class,
            slot: Slot::UNCOUNTED,
            is_counted: false,
            stamp: None,
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
            comparison: Comparison::default(),
            exchange: Exchange::NotSent,
        }
    }

    /// Compares the server with others by this attempt, the first send of its query.
    pub(super) const fn compare_server(&mut self) {
        self.comparison.start();
    }

    /// Records that an attempt of the query was answered, this one or another, by this server.
    pub(super) fn record_answered_name(&mut self, server: &Server) {
        let is_no_peer = self.server.has_same_endpoint(server) || (server.is_reserve() && !self.server.is_reserve());
        let answered_by = if is_no_peer { AnsweredBy::NoPeer } else { AnsweredBy::Peer };
        let is_silent = self.failed_at.is_some() && (self.is_done() || self.loop_checks >= LOST_AT_CHECK);
        self.comparison.record_answered_name(answered_by, is_silent, &self.server, &self.question.name);
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
    pub(super) fn server(&self) -> &Arc<Server> {
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
            let event = ready!(self.poll_exchange(context));
            let now = Instant::now();
            let round_trip = now - self.started;
            let event = match event {
                Ok(SocketEvent::Outcome(outcome)) => match self.apply_outcome(outcome, round_trip, &mut take_send) {
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
                        None if error.kind() == BUDGET_EXHAUSTED => self.finish(AttemptEvent::Refused),
                        None => {
                            self.record_failure();
                            self.finish(AttemptEvent::Failed)
                        }
                    }
                }
            };
            if let AttemptEvent::Response(response) = &event {
                self.record_response(response, round_trip, now);
            }
            return Poll::Ready(event);
        }
    }

    /// Records a response for the health of the server.
    fn record_response(&mut self, response: &Response, round_trip: Duration, now: Instant) {
        let is_answer = self.purpose == AttemptPurpose::Query && response.is_conclusive();
        let answered = is_answer.then_some(&self.question);
        let edns = (self.format.edns != EdnsUse::Absent).then_some(response.edns_reply());
        let kind = self.comparison.record_response(response, &self.server);
        self.server.record_response(kind, answered, edns, round_trip, now.into_std());
        if is_answer {
            self.server.record_name(&self.question, response.ttl(), round_trip, now.into_std());
        }
    }

    /// Returns whether the attempt is a hedge.
    pub(super) const fn is_hedge(&self) -> bool {
        matches!(self.class, PacketClass::Hedge)
    }

    /// Sends the query if it is not sent, and polls for the next event of its exchange.
    fn poll_exchange(&mut self, context: &mut Context<'_>) -> Poll<io::Result<SocketEvent>> {
        if let Exchange::Waiting(waiting) = &mut self.exchange {
            ready!(waiting.timer.poll(context));
            let WaitingQuery { at, slot, .. } = **waiting;
            self.exchange = Exchange::NotSent;
            if self.server.gate().pass_in_time(self.class, at.into_std(), slot) {
                self.started = Instant::now();
                self.send_over_udp(slot)?;
            }
        }
        if let Exchange::NotSent = self.exchange {
            let Self { server, question, format, class, .. } = self;
            if self.over_tcp || self.tcp_first {
                server.charge_packets(CONNECTION_PACKETS);
            }
            self.exchange = if self.over_tcp {
                let query = query_over_tcp(server.clone(), question.clone(), *format, *class);
                let is_truncated = self.fallback.as_ref().is_some_and(|fallback| fallback.is_truncated());
                Exchange::Tcp(if is_truncated { Box::pin(with_connect_timeout(server.clone(), query)) } else { query })
            } else if std::mem::take(&mut self.repeats_over_tcp) {
                Exchange::TcpFirst(Box::pin(repeat_over_tcp(server.clone(), question.clone(), *format, *class)))
            } else if std::mem::take(&mut self.tcp_first) {
                Exchange::TcpFirst(Box::pin(query_over_tcp_first(server.clone(), question.clone(), *format, *class)))
            } else {
                match server.gate().enter(*class) {
                    Passage::Now(slot) => {
                        self.send_over_udp(slot)?;
                        return self.poll_exchange(context);
                    }
                    Passage::At(at, slot) => {
                        let at = Instant::from_std(at);
                        let waiting = WaitingQuery { timer: Timer::at(at), at, slot };
                        self.exchange = Exchange::Waiting(Box::new(waiting));
                        return self.poll_exchange(context);
                    }
                    Passage::Refused => return Poll::Ready(Err(BUDGET_EXHAUSTED.into())),
                }
            };
            self.count_sent();
        }
        let Self { server, question, .. } = self;
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
            Exchange::NotSent | Exchange::Waiting(_) | Exchange::Done => return Poll::Pending,
        };
        self.is_mixed_case = is_mixed_case;
        Poll::Ready(Ok(SocketEvent::Outcome(outcome)))
    }

    /// Sends the query in a datagram that the packet budget has let pass, with this slot.
    fn send_over_udp(&mut self, slot: Slot) -> io::Result<()> {
        let is_first_send = !self.is_counted && matches!(self.class, PacketClass::First | PacketClass::Refresh);
        self.count_sent();
        let Self { server, question, format, .. } = self;
        let query = UdpQuery::send(server.sockets(), question, *format, server.tap())?;
        if self.checks_denials {
            self.is_mixed_case = query.is_mixed_case(question);
        }
        if is_first_send {
            self.stamp = server.record_first_send(&question.name);
        }
        self.slot = slot;
        self.exchange = Exchange::Udp(query);
        Ok(())
    }

    /// Counts the attempt as a query that is sent, once.
    fn count_sent(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.server.count_sent();
            if self.purpose == AttemptPurpose::Query {
                self.server.count_zone_query();
            }
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
                if self.loop_checks == LOST_AT_CHECK {
                    self.comparison.record_silence(&self.server, &self.question.name);
                }
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
            _ if self.is_done() || matches!(self.exchange, Exchange::Waiting(_)) => None,
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

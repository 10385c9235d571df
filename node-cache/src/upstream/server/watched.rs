//! Servers whose limits are detected: what queries report to the detector, and its control queries.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use node_cache_config::status::{BUDGET_SPENT, DetectionStatus, EpisodeStatus, SecondStatus, ThrottleStatus};
use tokio::time::{sleep, timeout};

use super::Server;
use super::outcomes::ResponseKind;
use super::watches::Watch;
use crate::dns::codes::rtype;
use crate::dns::question::Question;
use crate::dns::{Name, ResponseTtl};
use crate::metrics::PacketClass;
use crate::upstream::detection::cells::{OVERDUE, Stamp};
use crate::upstream::detection::detector::ControlPort;
use crate::upstream::detection::episodes::{Episode, Second};
use crate::upstream::detection::state::{Order, State};
use crate::upstream::transport::gate::Passage;
use crate::upstream::transport::query_format::QueryFormat;
use crate::upstream::transport::sockets::Sockets;
use crate::upstream::transport::udp;

/// Time for which the answer to a control query is awaited: one that is overdue may be late.
const MAX_LATENESS: Duration = Duration::from_secs(2);
/// Lateness of the timer of a control query after which its silence says nothing.
const LATE_TIMER: Duration = Duration::from_millis(20);

impl Server {
    /// Returns what detection thinks of the server; `None` where its limits are not detected.
    #[must_use]
    pub fn verdict(&self) -> Option<State> {
        self.watch.as_ref().map(|watch| watch.detector.state())
    }

    /// Returns the packets a second of its packet budget that are this process's; `None` without one.
    #[must_use]
    pub fn budget_rate(&self) -> Option<u32> {
        self.gate.budget_rate()
    }

    /// Returns what detection has found, for the status; `None` where the server's limits are not detected. `unix`
    /// returns the second of the Unix epoch of a time.
    #[must_use]
    pub fn detection_status(&self, unix: impl Fn(Instant) -> u64) -> Option<DetectionStatus> {
        let detector = &self.watch.as_ref()?.detector;
        let (state, ceiling) = (detector.state().name().to_owned(), detector.ceiling().map(|ceiling| ceiling as u32));
        Some(detector.read_episodes(|episodes| DetectionStatus {
            state,
            ceiling,
            has_enough_traffic: episodes.has_enough_traffic(Instant::now()),
            refused: episodes.totals().refused,
            late: episodes.totals().late,
            throttle: episodes.throttle().map(|throttle| ThrottleStatus {
                state: throttle.state.to_owned(),
                since: unix(throttle.since),
                offered: throttle.offered as u32,
                answered: match throttle.state {
                    BUDGET_SPENT => self.budget_rate().unwrap_or_default(),
                    _ => throttle.answered as u32,
                },
            }),
            episodes: episodes.last().map(|episode| episode_status(episode, &unix)).collect(),
        }))
    }

    /// Counts a query that is meant for the server, whether a ceiling turns it away or not.
    pub(in crate::upstream) fn record_offer(&self) {
        if let Some(watch) = &self.watch {
            watch.detector.record_offer();
        }
    }

    /// Counts a query that is meant for the server, and that its ceiling or its packet budget has no room for.
    pub(in crate::upstream) fn record_refusal(&self) {
        if let Some(watch) = &self.watch {
            watch.detector.record_refusal();
        }
    }

    /// Counts the first send of a query for a name.
    pub(in crate::upstream) fn record_first_send(&self, name: &Name) -> Option<Stamp> {
        let watch = self.watch.as_ref()?;
        Some(watch.detector.record_send(self.domain_hash(name)))
    }

    /// Counts the answer to a first send, of any rcode.
    pub(in crate::upstream) fn record_first_answer(&self, stamp: Stamp, latency: Duration) {
        if let Some(watch) = &self.watch {
            watch.detector.record_answer(stamp, latency);
        }
    }

    /// Keeps the question of a fast answer for control queries, at most every 400 ms.
    pub(in crate::upstream) fn record_name(
        &self,
        question: &Arc<Question>,
        ttl: ResponseTtl,
        latency: Duration,
        now: Instant,
    ) {
        let Some(watch) = self.watch.as_ref().filter(|watch| watch.detector.is_name_due(now)) else { return };
        let (ResponseTtl::Positive(ttl) | ResponseTtl::Negative(ttl)) = ttl else { return };
        if self.p95().is_some_and(|p95| latency <= p95) {
            let domain = self.domain_hash(&question.name);
            watch.detector.record_name(question.clone(), domain, Duration::from_secs(ttl.into()), now);
        }
    }

    /// Returns whether a query without an answer goes to the fallback after the p95 latency already.
    pub(in crate::upstream) fn hedges_to_fallback(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.detector.hedges_to_fallback())
    }

    /// Returns the share of the queries that is lost at any rate, as far as it is known.
    pub(super) fn known_loss(&self) -> f64 {
        self.watch.as_ref().map_or(0.0, |watch| watch.detector.known_loss())
    }

    /// Takes the step of a tick, and puts its order in force. Returns the questions of the control queries that are
    /// due: the root where none is known.
    pub(in crate::upstream) fn take_step(&self, is_starved: bool, stale: u32, now: Instant) -> Vec<Arc<Question>> {
        let Some(watch) = &self.watch else { return Vec::new() };
        let before = watch.detector.state();
        let (order, mut questions) = watch.detector.step(is_starved, stale, now);
        watch.ceiling.set(order.ceiling);
        watch.keeps_ports.store(order.keeps_ports, Ordering::Relaxed);
        watch.kept_sockets.close_expired(now);
        self.report(before, watch.detector.state(), &order);
        while questions.len() < order.controls as usize {
            questions.push(Arc::new(Question::plain(&Name::root(), rtype::NS)));
        }
        questions
    }

    fn report(&self, before: State, state: State, order: &Order) {
        if before.name() != state.name() {
            let (upstream, ceiling) = (self.address, order.ceiling);
            tracing::info!(%upstream, before = before.name(), state = state.name(), ?ceiling, "verdict on upstream");
        }
    }

    /// Sends a control query after a delay, in a task of its own.
    ///
    /// Must be called inside a Tokio runtime.
    pub(in crate::upstream) fn send_control(self: &Arc<Self>, question: Arc<Question>, delay: Duration) {
        let server = self.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            server.ask_control(&question).await;
        });
    }

    /// Returns the question of a query that is to keep a port answered, when one is due: while the upstream is well and
    /// has enough queries for a limit to be found.
    pub(in crate::upstream) fn take_port_query(&self, now: Instant) -> Option<Arc<Question>> {
        let watch = self.watch.as_ref()?;
        let may_keep = watch.detector.state() == State::Well && watch.detector.has_demand();
        if may_keep && watch.ports().take_keeping(now) { watch.detector.pick_name(now) } else { None }
    }

    /// Keeps a port answered.
    ///
    /// Must be called inside a Tokio runtime.
    pub(in crate::upstream) fn keep_port(self: &Arc<Self>, question: Arc<Question>) {
        let server = self.clone();
        tokio::spawn(async move {
            let Some(watch) = &server.watch else { return };
            let Passage::Now(slot) = server.gate.enter(PacketClass::Control) else { return };
            server.count_sent();
            let answer = server.exchange_control(watch, &watch.fresh_sockets, &question);
            let _ = timeout(MAX_LATENESS, answer).await;
            server.gate.release(slot);
        });
    }

    /// Sends a control query from one of these sockets, whose port is kept once it is answered.
    async fn exchange_control(&self, watch: &Watch, sockets: &Sockets, question: &Question) -> io::Result<()> {
        let path = self.query_path(question, Instant::now());
        let format = QueryFormat { edns: self.edns(path.without_edns), case_0x20: path.case_0x20 };
        udp::query_and_keep(sockets, &watch.kept_sockets, question, format, &self.context.tap).await.map(drop)
    }

    async fn ask_control(&self, question: &Question) {
        let Some(watch) = &self.watch else { return };
        let is_suspected = watch.detector.state() == State::Suspected;
        let port = watch.ports().choose(is_suspected, watch.kept_sockets.has_idle(), Instant::now());
        let sockets = match port {
            ControlPort::Fresh => &watch.fresh_sockets,
            ControlPort::Kept => &watch.kept_sockets,
        };
        // A control query waits for no budget.
        let Passage::Now(slot) = self.gate.enter(PacketClass::Control) else { return };
        self.count_sent();
        let started = Instant::now();
        let response = self.exchange_control(watch, sockets, question);
        tokio::pin!(response);
        let is_answered = matches!(timeout(OVERDUE, &mut response).await, Ok(Ok(())));
        if !is_answered && started.elapsed() > OVERDUE + LATE_TIMER {
            // The process itself was late: its answer may wait in the socket.
            self.gate.release(slot);
            return;
        }
        watch.detector.record_control(port, is_answered);
        self.gate.counts().count_control(is_answered);
        let is_late = !is_answered && matches!(timeout(MAX_LATENESS, response).await, Ok(Ok(())));
        if is_late {
            watch.detector.record_late();
        }
        if is_answered || is_late {
            let now = Instant::now();
            self.record_response(ResponseKind::Neutral, None, None, now - started, now);
            self.gate.release(slot);
        }
    }
}

fn episode_status(episode: &Episode, unix: impl Fn(Instant) -> u64) -> EpisodeStatus {
    let second = |second: &Second| SecondStatus {
        offered: second.offered,
        sent: second.sent,
        answered: second.answered,
        late: second.late,
        refused: second.refused,
        stale: second.stale,
        state: second.state.to_owned(),
    };
    EpisodeStatus {
        started: unix(episode.started_at),
        ended: episode.ended_at.map(&unix),
        before: episode.before as u32,
        seconds: episode.seconds.iter().map(second).collect(),
    }
}

//! Conduct of one cast: start, load, limits on schedule, counters.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::cast::Cast;
use super::lateness::Watch;
use super::limits::Packets;
use super::load::{self, LoadReport};
use super::measure::{Counts, GOOD, Sample, count, packets_between, percent};
use super::network::{Network, Servers, print_logs};
use super::outcome::Query;
use super::schedule::{Form, Limiter, Phase, Scale, Span, total_seconds};
use super::{dnstier, limits, peers, world};
use crate::host::processors::run_at_once;

/// Time that a cast has until each of its servers answers.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval of counters, and that before the first drop of a limit.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
const DROP_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Share of queries that the client may send late.
const MAX_LATE_SHARE: f64 = 0.01;
/// Share of late wake-ups from which on the machine has too little time left for what is measured.
const MAX_LATE_WAKE_UPS: f64 = 0.02;

/// Phase with the time of its first dropped packet, in milliseconds from the start: that of the last count without one.
#[derive(Clone, Copy, Debug)]
pub(super) struct PhaseRun {
    pub(super) phase: Phase,
    pub(super) first_drop: Option<u32>,
    /// Counters after its limit was set, and after the next one was.
    pub(super) began: Sample,
    pub(super) ended: Sample,
    /// Share of wake-ups of a thread that were late.
    pub(super) late_share: f64,
}

impl PhaseRun {
    pub(super) fn new(phase: Phase) -> Self {
        Self { phase, first_drop: None, began: Sample::default(), ended: Sample::default(), late_share: 0.0 }
    }

    /// Returns the packets of the phase, and its seconds.
    pub(super) fn packets(&self) -> (Packets, f64) {
        packets_between(&[self.began, self.ended], self.began.at, self.ended.at)
    }
}

/// Result of a cast.
#[derive(Debug)]
pub(super) struct CastRun {
    pub(super) cast: Cast,
    pub(super) scale: Scale,
    pub(super) phases: Vec<PhaseRun>,
    pub(super) queries: Vec<Query>,
    pub(super) sent_late: usize,
    pub(super) samples: Vec<Sample>,
    /// Server that did not answer in time.
    pub(super) unready: Option<SocketAddr>,
}

impl CastRun {
    /// Returns why the figures say nothing about the cast; `None` where they do.
    pub(super) fn fault(&self) -> Option<String> {
        if let Some(server) = self.unready {
            return Some(format!("{server} did not answer"));
        }
        let control = self.span(Span::Control)?;
        let counts = count(&self.queries, control.start * 1_000, control.end * 1_000);
        let right = counts.right_share();
        let late = self.sent_late as f64 / self.queries.len().max(1) as f64;
        if right < GOOD {
            let Counts { late, stale, wrong, failed, silent, .. } = counts;
            let ends = format!("{late} late, {stale} stale, {wrong} wrong, {failed} failed, {silent} silent");
            return Some(format!("{:.2} % right without a limit ({ends})", 100.0 * right));
        }
        (late > MAX_LATE_SHARE).then(|| format!("the client sent {:.1} % of the queries late", 100.0 * late))
    }

    /// Returns whether the machine was so busy in a phase that it may be the cause of what is wrong.
    pub(super) fn is_machine_too_busy(&self) -> bool {
        self.phases.iter().any(|run| run.late_share > MAX_LATE_WAKE_UPS)
    }

    /// Returns the first phase of a kind.
    pub(super) fn span(&self, span: Span) -> Option<Phase> {
        self.phases.iter().map(|run| run.phase).find(|phase| phase.span == span)
    }

    /// Returns the phases in which something is limited, each with its limiter.
    pub(super) fn limited(&self) -> impl Iterator<Item = (&PhaseRun, Limiter)> {
        self.phases.iter().filter_map(|run| match run.phase.span {
            Span::Limited(limiter) => Some((run, limiter)),
            _ => None,
        })
    }
}

/// Runs a cast on its schedule. The world starts anew for it.
pub(super) fn run(_network: &Network, cast: Cast, form: Form, scale: Scale, trace: &[Vec<u8>]) -> CastRun {
    let phases = cast.phases(form);
    let mut servers = Servers::default();
    limits::begin(scale);
    world::start(&mut servers);
    let addresses = start(&mut servers, cast, scale);
    println!("({}) {}: {} queries/s", cast.letter(), cast.name(), scale.rate);
    let mut run = CastRun {
        cast,
        scale,
        phases: phases.iter().copied().map(PhaseRun::new).collect(),
        queries: Vec::new(),
        sent_late: 0,
        samples: Vec::new(),
        unready: None,
    };
    run.unready = addresses.iter().copied().find(|address| !load::wait_until_answered(*address, READY_TIMEOUT));
    if run.unready.is_some() {
        print_logs();
        return run;
    }
    let queries = scale.rate as usize * total_seconds(&phases) as usize;
    let control = run.span(Span::Control).map_or(0..0, |phase| phase.start * 1_000..phase.end * 1_000);
    let started = Instant::now();
    let watch = Watch::default();
    let report = thread::scope(|scope| {
        scope.spawn(|| watch.run());
        let clients = scope.spawn(|| {
            // The clients are the instrument: what else the machine has to do must not make them late.
            run_at_once();
            load::run(&addresses, &trace[..queries], scale.rate, started, control)
        });
        for number in 0..run.phases.len() {
            conduct_phase(&mut run, number, started, &watch, &|| clients.is_finished());
        }
        watch.end();
        clients.join().unwrap()
    });
    let LoadReport { queries, sent_late } = report;
    CastRun { queries, sent_late, ..run }
}

fn start(servers: &mut Servers, cast: Cast, scale: Scale) -> Vec<SocketAddr> {
    match cast {
        Cast::TwoUnbounds => peers::start_central_unbounds(servers, 2),
        Cast::TenUnbounds => peers::start_central_unbounds(servers, 10),
        Cast::NodeLocal => peers::start_node_locals(servers),
        Cast::Dnsdist => peers::start_dnsdists(servers, scale),
        Cast::Told | Cast::NotTold => dnstier::start(servers, scale, cast.is_told()),
    }
}

/// Sets the limit of a phase and reads counters until its end, or until the clients have ended early.
fn conduct_phase(run: &mut CastRun, number: usize, started: Instant, watch: &Watch, is_void: &dyn Fn() -> bool) {
    if is_void() {
        return;
    }
    let phase = run.phases[number].phase;
    let limiter = match phase.span {
        Span::Limited(limiter) => Some(limiter),
        _ => None,
    };
    limits::set(limiter, run.scale);
    let wake_ups = watch.wake_ups();
    let end = Duration::from_secs(phase.end.into());
    let sample = |run: &mut CastRun| {
        let at = started.elapsed().as_millis() as u32;
        run.samples.push(Sample { at, packets: limits::packets() });
    };
    sample(run);
    let first = run.samples[run.samples.len() - 1];
    run.phases[number].began = first;
    if let Some(previous) = number.checked_sub(1) {
        run.phases[previous].ended = first;
    }
    while started.elapsed() < end && !is_void() {
        let is_watched = limiter.is_some() && run.phases[number].first_drop.is_none();
        let interval = if is_watched { DROP_CHECK_INTERVAL } else { SAMPLE_INTERVAL };
        thread::sleep(interval.min(end.saturating_sub(started.elapsed())));
        sample(run);
        let [.., before, now] = run.samples[..] else { continue };
        if is_watched && now.packets.provider_dropped > first.packets.provider_dropped {
            run.phases[number].first_drop = Some(before.at);
        }
    }
    run.phases[number].ended = run.samples[run.samples.len() - 1];
    run.phases[number].late_share = watch.wake_ups().late_share_since(wake_ups);
    let (packets, seconds) = run.phases[number].packets();
    let rate = |packets: u64| packets as f64 / seconds.max(0.001);
    println!(
        "({}) {:>3} to {:>3} s, {}: {:.0} packets/s to the provider, {:.0} dropped, {:.0} to the fallback; {} of \
         wake-ups late",
        run.cast.letter(),
        phase.start,
        phase.end,
        phase.span.name(),
        rate(packets.provider),
        rate(packets.provider_dropped),
        rate(packets.fallback),
        percent(run.phases[number].late_share),
    );
}

//! Checks of the instrument itself: what the counters say must agree with the limits and with the load.

use super::conduct::CastRun;
use super::network::NODES;
use super::schedule::{Limiter, Scale, Span};

/// Packets that a source may send at once beyond its rate, with some to spare for the time between two counts.
const BURST: f64 = 96.0;
/// Share by which a rate of the kernel may be above the one that was asked for.
const TOLERANCE: f64 = 1.05;

/// Returns what is wrong with the figures of a cast, in words; nothing where they agree.
pub(super) fn faults(run: &CastRun) -> Vec<String> {
    if let Some(fault) = run.fault() {
        return vec![format!("({}) void: {fault}", run.cast.letter())];
    }
    let mut faults = Vec::new();
    for phase in &run.phases {
        let (packets, seconds) = phase.packets();
        let passed = packets.provider.saturating_sub(packets.provider_dropped);
        let allowed = allowed(phase.phase.span, run.scale, seconds);
        if packets.provider_dropped > packets.provider || packets.fallback_dropped > packets.fallback {
            faults.push(format!("{}: more packets were dropped than sent", phase.phase.span.name()));
        }
        match allowed {
            None if packets.provider_dropped + packets.fallback_dropped > 0 => {
                faults.push(format!("{}: packets were dropped without a limit", phase.phase.span.name()));
            }
            Some(allowed) if passed as f64 > allowed => {
                faults.push(format!("{}: {passed} packets passed a limit of {allowed:.0}", phase.phase.span.name()));
            }
            _ => {}
        }
    }
    let seconds = run.phases.last().map_or(0, |phase| phase.phase.end);
    if run.queries.len() != run.scale.rate as usize * seconds as usize {
        faults.push(format!("{} queries in {seconds} s at {} a second", run.queries.len(), run.scale.rate));
    }
    faults.iter().map(|fault| format!("({}) {fault}", run.cast.letter())).collect()
}

/// Returns the most packets that the provider takes in a phase of so many seconds; `None` where nothing is limited.
fn allowed(span: Span, scale: Scale, seconds: f64) -> Option<f64> {
    match span {
        Span::Warm | Span::Control | Span::Rest => None,
        Span::Limited(Limiter::PerSource) => {
            Some(NODES as f64 * (f64::from(scale.per_source) * seconds * TOLERANCE + BURST))
        }
        Span::Limited(Limiter::Shared) => Some(f64::from(scale.shared) * seconds * TOLERANCE + BURST),
        // Any number of packets in as many flows as there is room for.
        Span::Limited(Limiter::Flows) => Some(f64::INFINITY),
    }
}

#[cfg(test)]
mod tests {
    use super::{Limiter, Span, allowed, faults};
    use crate::parts::replay::cast::Cast;
    use crate::parts::replay::conduct::{CastRun, PhaseRun};
    use crate::parts::replay::limits::Packets;
    use crate::parts::replay::measure::Sample;
    use crate::parts::replay::outcome::{Outcome, Query};
    use crate::parts::replay::schedule::{Form, Phase, Scale};

    /// Returns a cast that sends this many packets a second, of which so many are dropped in the limited phase and in
    /// all others.
    fn run(packets: u64, dropped: u64, dropped_otherwise: u64) -> CastRun {
        let (cast, scale) = (Cast::NotTold, Form::Short.scale(2));
        let phase = |phase: Phase| {
            let seconds = u64::from(phase.end - phase.start);
            let dropped = if matches!(phase.span, Span::Limited(_)) { dropped } else { dropped_otherwise };
            let provider = packets * seconds;
            let packets = Packets { provider, provider_dropped: dropped * seconds, ..Packets::default() };
            let ended = Sample { at: seconds as u32 * 1_000, packets };
            PhaseRun { ended, ..PhaseRun::new(phase) }
        };
        let phases: Vec<PhaseRun> = cast.phases(Form::Short).into_iter().map(phase).collect();
        let count = phases.last().unwrap().phase.end * scale.rate;
        let query = |ms| Query { planned_ms: ms, is_answerable: true, outcome: Outcome::Right };
        let queries = (0..count).map(query).collect();
        CastRun { cast, scale, phases, queries, sent_late: 0, samples: Vec::new(), unready: None }
    }

    #[test]
    fn counters_that_agree_with_the_limits_have_no_fault() {
        assert_eq!(faults(&run(700, 330, 0)), Vec::<String>::new());
    }

    #[test]
    fn packets_that_pass_a_limit_or_are_dropped_without_one_are_faults() {
        assert!(faults(&run(700, 200, 0))[0].contains("passed a limit"));
        assert!(faults(&run(700, 330, 1))[0].contains("without a limit"));
        let mut short = run(700, 330, 0);
        short.queries.truncate(18_000);
        assert!(faults(&short)[0].contains("18000 queries in 21 s"));
    }

    #[test]
    fn three_nodes_may_send_three_times_what_one_may() {
        let scale = Scale::FULL;
        let rate = |limiter| allowed(Span::Limited(limiter), scale, 100.0).unwrap() / 105.0;
        assert!((rate(Limiter::PerSource) - 3.0 * 1_024.0).abs() < 3.0, "{}", rate(Limiter::PerSource));
        assert!((rate(Limiter::Shared) - 3_072.0).abs() < 1.0);
        assert_eq!(allowed(Span::Rest, scale, 1.0), None);
    }
}

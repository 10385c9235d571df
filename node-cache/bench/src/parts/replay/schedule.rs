//! Schedule of a cast: which limiter is in force when, and the figures of load and limits.

/// Length of the replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// All casts at 8,000 queries a second.
    Full,
    /// Two casts at 1,000 queries a second, within a minute.
    Short,
}

/// Silent limiter in front of the provider's resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limiter {
    /// Packets a second of each source address.
    PerSource,
    /// Packets a second of all sources together.
    Shared,
    /// Entries of a table of flows (source address and port), each of which lives for 30 seconds.
    Flows,
}

impl Limiter {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PerSource => "packets per source",
            Self::Shared => "packets, shared",
            Self::Flows => "new flows",
        }
    }
}

/// Purpose of a span of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// Caches fill.
    Warm,
    /// Nothing is limited: shows that the machine is fast enough for the load.
    Control,
    Limited(Limiter),
    /// The limit is gone.
    Rest,
}

impl Span {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm-up",
            Self::Control => "control",
            Self::Limited(limiter) => limiter.name(),
            Self::Rest => "limit gone",
        }
    }
}

/// Span with its place on the schedule, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) span: Span,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Places spans one after the other.
pub(super) fn place(spans: &[(Span, u32)]) -> Vec<Phase> {
    let mut start = 0;
    let phase = |&(span, seconds): &(Span, u32)| {
        let phase = Phase { span, start, end: start + seconds };
        start = phase.end;
        phase
    };
    spans.iter().map(phase).collect()
}

/// Returns the seconds of a schedule.
pub(super) fn total_seconds(phases: &[Phase]) -> u32 {
    phases.last().map_or(0, |phase| phase.end)
}

/// Load and limits, all per second but `flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    /// Queries of all clients together.
    pub(super) rate: u32,
    /// Packets that the provider takes of one source.
    pub(super) per_source: u32,
    /// Packets that it takes of all sources together.
    pub(super) shared: u32,
    /// Flows that its table has room for.
    pub(super) flows: u32,
    /// Packets that the fallback takes of one source.
    pub(super) fallback: u32,
    /// Packets that a cast which is told the limit may send from one node.
    pub(super) budget: u32,
}

impl Scale {
    /// 1,024 is what AWS takes of an interface, 900 what a careful owner says, 1,500 what Google Public DNS takes of an
    /// address. The shared limit is that of three sources, and below half of the packets of a cast that always sends
    /// half of them elsewhere.
    pub(super) const FULL: Self =
        Self { rate: 8_000, per_source: 1_024, shared: 3_072, flows: 4_096, fallback: 1_500, budget: 900 };

    /// An eighth. Caches are cold for most of it, so that the fallback takes more of the load.
    const SHORT: Self = Self { fallback: 250, ..Self::FULL.divided(8) };

    /// Returns load and limits divided by this number.
    const fn divided(self, by: u32) -> Self {
        Self {
            rate: self.rate / by,
            per_source: self.per_source / by,
            shared: self.shared / by,
            flows: self.flows / by,
            fallback: self.fallback / by,
            budget: self.budget / by,
        }
    }

    /// Returns load and limits halved, but for the fallback's limit: with half of the load caches hit less, so that
    /// more than half of it is needed.
    pub(super) const fn halved(self) -> Self {
        Self { fallback: self.fallback * 3 / 5, ..self.divided(2) }
    }
}

/// Processors that the full load needs: world, cast and clients take the time of 1.7 of them, and must not wait.
const FULL_PROCESSORS: usize = 4;

impl Form {
    /// Finds a form by the word that follows the part.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "full" => Some(Self::Full),
            "short" => Some(Self::Short),
            _ => None,
        }
    }

    /// Returns load and limits for a machine with so many processors. The full ones are halved together where there are
    /// too few.
    pub(super) const fn scale(self, processors: usize) -> Scale {
        match self {
            Self::Full if processors >= FULL_PROCESSORS => Scale::FULL,
            Self::Full => Scale::FULL.halved(),
            Self::Short => Scale::SHORT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Form, Limiter, Scale, Span, place, total_seconds};

    #[test]
    fn spans_follow_each_other() {
        let phases = place(&[(Span::Warm, 10), (Span::Limited(Limiter::Flows), 25)]);
        assert_eq!((phases[1].start, phases[1].end, total_seconds(&phases)), (10, 35, 35));
    }

    #[test]
    fn load_and_limits_are_halved_together() {
        let scale = Scale::FULL.halved();
        assert_eq!((scale.rate, scale.per_source, scale.budget, scale.fallback), (4_000, 512, 450, 900));
        assert_eq!((Form::Full.scale(2), Form::Full.scale(4)), (scale, Scale::FULL));
        assert_eq!(Form::Short.scale(2).rate, 1_000);
    }
}

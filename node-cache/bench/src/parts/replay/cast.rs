//! Casts: which resolvers stand between the clients and the provider.

use super::peers;
use super::schedule::{Form, Limiter, Phase, Span, place};

/// Resolvers between the clients and the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    TwoUnbounds,
    TenUnbounds,
    NodeLocal,
    /// A dnsdist on each node that is told the limit.
    Dnsdist,
    /// DnsTier that is told the limit.
    Told,
    /// DnsTier that is not.
    NotTold,
}

impl Cast {
    pub(super) const ALL: [Self; 6] =
        [Self::TwoUnbounds, Self::TenUnbounds, Self::NodeLocal, Self::Dnsdist, Self::Told, Self::NotTold];

    /// Returns the casts of a form, in their order.
    pub(super) const fn of(form: Form) -> &'static [Self] {
        match form {
            Form::Full => &Self::ALL,
            Form::Short => &[Self::TwoUnbounds, Self::NotTold],
        }
    }

    /// Returns the letter of the cast in the table, and on the command line.
    pub(super) const fn letter(self) -> &'static str {
        match self {
            Self::TwoUnbounds => "a",
            Self::TenUnbounds => "b",
            Self::NodeLocal => "c",
            Self::Dnsdist => "e",
            Self::Told => "d1",
            Self::NotTold => "d2",
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TwoUnbounds => "two central unbounds",
            Self::TenUnbounds => "ten central unbounds",
            Self::NodeLocal => "NodeLocal's Corefile on each node",
            Self::Dnsdist => "dnsdist on each node, told",
            Self::Told => "DnsTier, told",
            Self::NotTold => "DnsTier, not told",
        }
    }

    pub(super) const fn is_ours(self) -> bool {
        matches!(self, Self::Told | Self::NotTold)
    }

    /// Returns whether the cast is told how many packets the provider takes.
    pub(super) const fn is_told(self) -> bool {
        matches!(self, Self::Dnsdist | Self::Told)
    }

    /// Returns the program of the cast where it is missing.
    pub(super) fn missing_program(self) -> Option<&'static str> {
        match self {
            Self::TwoUnbounds | Self::TenUnbounds => peers::missing("unbound"),
            Self::NodeLocal => peers::missing("CoreDNS"),
            Self::Dnsdist => peers::missing("dnsdist"),
            Self::Told | Self::NotTold => None,
        }
    }

    pub(super) fn phases(self, form: Form) -> Vec<Phase> {
        const P: Span = Span::Limited(Limiter::PerSource);
        const A: Span = Span::Limited(Limiter::Shared);
        const F: Span = Span::Limited(Limiter::Flows);
        let spans: &[(Span, u32)] = match (form, self) {
            (Form::Full, Self::TwoUnbounds | Self::NodeLocal | Self::Dnsdist) => {
                &[(P, 25), (Span::Rest, 10), (F, 25), (Span::Rest, 10)]
            }
            (Form::Full, Self::TenUnbounds) => &[(A, 25)],
            (Form::Full, Self::Told) => &[(P, 25)],
            (Form::Full, Self::NotTold) => {
                &[(P, 25), (Span::Rest, 60), (A, 25), (Span::Rest, 10), (F, 25), (Span::Rest, 10)]
            }
            (Form::Short, Self::NotTold) => &[(P, 10), (Span::Rest, 5)],
            (Form::Short, _) => &[(P, 6), (Span::Rest, 3)],
        };
        let quiet = if form == Form::Full { 10 } else { 3 };
        place(&[&[(Span::Warm, quiet), (Span::Control, quiet)], spans].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::{Cast, Form, Span};
    use crate::parts::replay::schedule::total_seconds;

    #[test]
    fn the_full_replay_leaves_a_minute_of_ten_for_starts() {
        let seconds = |form: Form| Cast::of(form).iter().map(|cast| total_seconds(&cast.phases(form))).sum::<u32>();
        assert!(seconds(Form::Full) <= 540, "{}", seconds(Form::Full));
        assert!(seconds(Form::Short) <= 45, "{}", seconds(Form::Short));
    }

    #[test]
    fn every_cast_has_a_control_window_before_the_first_limit() {
        for form in [Form::Full, Form::Short] {
            for cast in Cast::of(form) {
                let spans: Vec<Span> = cast.phases(form).iter().map(|phase| phase.span).collect();
                assert_eq!(spans[..2], [Span::Warm, Span::Control], "{cast:?}");
                assert!(matches!(spans[2], Span::Limited(_)), "{cast:?}");
            }
        }
        assert!(Cast::of(Form::Full).contains(&Cast::Told));
    }
}

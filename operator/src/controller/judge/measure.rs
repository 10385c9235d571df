//! Kinds of responses whose share is compared, and which of them decide.

/// Kind of responses whose share is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Responses with SERVFAIL.
    Servfail,
    /// Cache misses that took 500 ms or longer.
    SlowMisses,
    /// Responses with NXDOMAIN.
    Nxdomain,
    /// Responses with another rcode, such as REFUSED.
    OtherRcode,
    /// Stale answers.
    Stale,
    /// Queries to upstreams without a response in time.
    Timeouts,
}

impl Measure {
    /// All measures.
    pub(crate) const ALL: [Self; 6] =
        [Self::Servfail, Self::SlowMisses, Self::Nxdomain, Self::OtherRcode, Self::Stale, Self::Timeouts];

    /// Returns whether an increase is a reason to roll back; of the others it is a warning.
    #[must_use]
    pub(crate) fn decides(self) -> bool {
        matches!(self, Self::Servfail | Self::SlowMisses)
    }

    /// Returns whether the measure is counted by scope.
    #[must_use]
    pub(crate) fn has_scopes(self) -> bool {
        matches!(self, Self::Servfail | Self::Nxdomain | Self::OtherRcode)
    }

    /// Returns whether pods tell how many distinct names are behind it.
    #[must_use]
    pub(crate) fn has_names(self) -> bool {
        matches!(self, Self::Servfail | Self::SlowMisses)
    }

    /// Returns what such responses are, after "5 % of 600 responses".
    #[must_use]
    pub(crate) fn predicate(self) -> &'static str {
        match self {
            Self::Servfail => "are SERVFAIL",
            Self::SlowMisses => "are cache misses of 500 ms or longer",
            Self::Nxdomain => "are NXDOMAIN",
            Self::OtherRcode => "have an rcode such as REFUSED",
            Self::Stale => "are stale",
            Self::Timeouts => "waited for an upstream without a response",
        }
    }
}

//! Queries of a replay, each with its end.

/// End of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The right answer within a second.
    Right,
    /// The right answer, later.
    Late,
    Stale,
    Wrong,
    /// SERVFAIL, or another code that is no answer.
    Failure,
    Silent,
}

/// Query with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Planned time in milliseconds from the start.
    pub(super) planned_ms: u32,
    /// Whether the world answers it at all.
    pub(super) is_answerable: bool,
    pub(super) outcome: Outcome,
}

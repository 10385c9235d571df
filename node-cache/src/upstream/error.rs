//! Failure of a whole query.

/// No server answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no server answered")]
pub struct NoAnswer;

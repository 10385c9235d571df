//! Failure of a query to all servers of a pool.

/// No server answered a query by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no server answered")]
pub struct NoAnswer;

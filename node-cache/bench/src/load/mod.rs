//! Clients that send queries.

pub(crate) mod client;
pub(crate) mod flow;
pub(crate) mod queries;

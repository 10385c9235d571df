//! Load: queries, and clients that send them.

pub(crate) mod flow;
pub(crate) mod hit_client;
pub(crate) mod plan;
pub(crate) mod queries;

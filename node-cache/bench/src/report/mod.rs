//! Tables, figures and pictures of results.

pub(crate) mod charts;
pub(crate) mod hits;
pub(crate) mod table;

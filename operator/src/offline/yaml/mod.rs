//! YAML files: their documents as JSON, and the lines on which fields stand.

mod documents;
mod lines;

pub(super) use documents::{Syntax, parse};
pub(super) use lines::Lines;

//! Results: tables on the terminal, pages, CSV files and charts in `docs/benchmarks/`.

pub(crate) mod bars;
pub(crate) mod hits;
pub(crate) mod labels;
pub(crate) mod lines;
pub(crate) mod output;
mod svg;
pub(crate) mod table;

//! Results of the part `hits`: a page, a CSV file that is read again, and a chart.

mod bars;
mod csv;
pub(crate) mod page;
pub(crate) mod row;

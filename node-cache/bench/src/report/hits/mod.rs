//! Results of the part `hits`.

mod bars;
mod csv;
pub(crate) mod page;

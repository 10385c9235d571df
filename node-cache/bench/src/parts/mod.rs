//! Parts of the benchmark.

pub(crate) mod fairness;
pub(crate) mod gate;
pub(crate) mod hits;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod miss_cpu;
pub(crate) mod misses;
pub(crate) mod readers;
pub(crate) mod start;
pub(crate) mod traces;

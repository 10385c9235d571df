//! Simulation of changes, good and bad ones, in clusters of many pods: how often the judge stops a good change, and how
//! often a bad one. Seeded, without a clock.

pub(crate) mod random;
mod scenario;
mod table;
mod world;

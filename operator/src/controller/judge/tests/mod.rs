//! Promises of the judge, on clusters of a few pods.

mod cluster;
mod evidence;
mod hard_signs;
mod probes;
mod rates;
mod soak;

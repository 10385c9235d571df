//! Promises of the judge, on clusters of a few pods.

mod addresses;
mod cluster;
mod evidence;
mod hard_signs;
mod probes;
mod rates;
mod soak;
mod superseded;

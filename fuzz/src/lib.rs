//! Fuzz targets. Each is a function that takes any bytes and panics when the data plane breaks a promise; none opens
//! a socket. `make fuzz` lets libFuzzer search for such bytes, guided by coverage; `tests/replay.rs` runs the
//! corpora, which hold the seeds ([`seeds`]) and what was found.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target reports a failure by panicking")]

pub mod alias_continuation;
pub mod cache_operations;
pub mod client_packet;
pub mod exchange;
pub mod upstream_answer;

pub mod seeds;

mod message;

/// Fuzz target: its name, which is also that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All fuzz targets.
pub const TARGETS: [Target; 5] = [
    ("client_packet", client_packet::run),
    ("upstream_answer", upstream_answer::run),
    ("cache_operations", cache_operations::run),
    ("exchange", exchange::run),
    ("alias_continuation", alias_continuation::run),
];

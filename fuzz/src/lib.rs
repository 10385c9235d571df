//! Targets of fuzzing. Each is a function that takes whatever bytes there are and panics when the data plane breaks a
//! promise; none opens a socket. `make fuzz` lets libFuzzer look for such bytes, guided by what they cover, and
//! `tests/replay.rs` runs the corpora, which hold the shapes to begin with ([`seeds`]) and what was found.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target tells by panicking")]

pub mod cache_operations;
pub mod client_packet;
pub mod exchange;
pub mod upstream_answer;

pub mod seeds;

mod message;

/// A target: its name, which is that of its corpus, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 4] = [
    ("client_packet", client_packet::run),
    ("upstream_answer", upstream_answer::run),
    ("cache_operations", cache_operations::run),
    ("exchange", exchange::run),
];

//! The few things on the way of an answer that safe Rust cannot say. All `unsafe` of the project is here.
//!
//! * [`clock`]: the time, as a number.
//! * [`datagrams`]: many datagrams for one system call, in memory that never moves.
//! * [`prefetch`]: a line of memory that the processor shall fetch while it does something else.
//! * [`malloc`]: one for all threads.
//! * [`cache_line`]: words that fill a line of the processor's cache.
//! * [`octets`]: sixteen octets at a time.

pub mod cache_line;
pub mod clock;
pub mod datagrams;
pub mod malloc;
pub mod octets;
pub mod prefetch;

//! System calls and processor instructions that safe Rust cannot express. All `unsafe` code of the project is here.
//!
//! * [`datagrams`]: receives and sends a batch of UDP datagrams with one system call each, in buffers that never move.
//! * [`ascii`]: ASCII case of sixteen bytes at a time, with vector instructions.
//! * [`prefetch`]: prefetches memory into the processor's cache.
//! * [`cache_line`]: memory in units of one cache line of the processor.
//! * [`clock`]: the monotonic clock as a number of nanoseconds.
//! * [`malloc`]: one allocation arena for all threads.

pub mod ascii;
pub mod cache_line;
pub mod clock;
pub mod datagrams;
pub mod malloc;
pub mod prefetch;

//! Fuzz target of packets from upstreams.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dnstier_fuzz::upstream_answer::run(data));

//! Fuzz target of whole exchanges: query, response, and cache hit.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dnstier_fuzz::exchange::run(data));

//! Fuzz target of operations on the cache.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dnstier_fuzz::cache_operations::run(data));

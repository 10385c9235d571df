//! Fuzz target of responses that continue an alias.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dnstier_fuzz::alias_continuation::run(data));

//! Fuzz target of packets from clients.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dnstier_fuzz::client_packet::run(data));

//! The data path over real sockets on the loopback interface, with an independent implementation of DNS
//! (hickory-proto) on both ends: as client, and as the servers behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod amplification;
mod blackout;
mod clock;
mod connections;
mod cookies;
mod exchange;
mod fairness;
mod inspection;
mod manners;
mod memory;
mod ports;
mod processes;
mod search_path;
mod support;
mod whatever_comes;
mod workers;
mod zones;

//! The data path over real sockets on the loopback interface, with an independent implementation of DNS (hickory-proto)
//! on both ends: as client, and as the upstream servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod aliases;
mod amplification;
mod blackout;
mod broken_packets;
mod ceiling;
mod clock;
mod closing_connections;
mod connection_pressure;
mod connections;
mod cookies;
mod corefile;
mod crowding;
mod exchange;
mod fairness;
mod fallback;
mod figures;
mod frozen_answers;
mod held_back;
mod inspection;
mod last_resort;
mod late_answers;
mod loops;
mod manners;
mod memory;
mod near_misses;
mod octet_case;
mod overload;
mod owners;
mod packet_budgets;
mod plants;
mod ports;
mod private_answers;
mod processes;
mod recovery;
mod reload;
#[path = "../require/mod.rs"]
mod require;
mod resolver_room;
mod response_forms;
mod retries;
mod search_path;
mod series;
mod server_selection;
mod short_owners;
mod silent_limits;
mod silent_upstreams;
mod special_names;
mod support;
mod tap;
mod tcp_late;
mod ttl_hops;
mod unique_names;
mod whatever_comes;
mod workers;
mod zones;

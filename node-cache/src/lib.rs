//! Data plane of DnsTier: caching resolvers on every node, resolvers in every zone, and the agent of a node.
//!
//! A query passes through these rooms from top to bottom, and a response comes back the same way:
//!
//! ```text
//! server      sockets: UDP in batches, TCP, workers, limits of clients
//! resolver    local names, cache, single-flight, prefetch, serve-stale, NXDOMAIN cut
//! snapshot    one revision: routes by suffix, empty zones, ACL
//! upstream    servers: discovery, selection, hedging, circuit breaker, UDP and TCP exchange
//! cache       responses in a bounded number of bytes
//! dns         messages as octets; queries and answers as plain values
//! ```
//!
//! Imports point down only; `docs/architecture.md` has the table of layers. `dns`, `cache` and `snapshot::routes` know
//! neither sockets nor clocks: time is a parameter.
//!
//! Beside the query path, [`admin`] (control socket, HTTP limits), [`metrics`] and [`dnstap`] report, `revision`
//! watches the configuration, and [`handover`] passes sockets from the agent to the caches. `agent` is the only room
//! that changes anything on the node. [`cmd`] has the three programs.

#![forbid(unsafe_code)]

pub mod server;

pub mod resolver;

pub mod snapshot;
pub mod upstream;

pub mod cache;

pub mod dns;
pub mod metrics;

pub mod admin;
mod clients;
mod connection_table;
pub mod dnstap;
pub mod handover;
pub mod identity;
mod limits;
mod revision;
mod stub_client;
mod unix_socket;

mod agent;
pub mod cmd;

#[cfg(test)]
#[path = "../tests/require/mod.rs"]
mod require;

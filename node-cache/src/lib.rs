//! The data plane of DnsTier: caching resolvers on every node, resolvers in every zone, and the agent of a node.
//!
//! A question walks through these rooms from top to bottom:
//!
//! ```text
//! serve ──► packet ──► resolve ──► route ──► cache ──► upstream
//!   │ sockets  │ bytes     │ the story  │ whose name  │ memory  │ other servers
//!   └──────────┴─ query, answer: the plain values that pass between them
//! ```
//!
//! Beside that way stand what steers it (`revision` reads the projected volume, `snapshot` makes routes and rules of
//! it) and what tells of it (`control`, `metrics`, `tap`). `packet`, `query`, `answer`, `cookies`, `own_names`,
//! `empty_zones`, `route` and `cache` know
//! neither sockets nor clocks: time is a parameter. `agent` is the only room that changes anything on the node, and
//! `handover` is how sockets get from it to the caches.

#![forbid(unsafe_code)]

pub mod server;

pub mod resolver;

pub mod snapshot;
pub mod upstream;

pub mod cache;

pub mod dns;
pub mod metrics;

pub mod admin;
pub mod dnstap;
pub mod handover;
pub mod identity;
mod limits;
pub mod revision;
mod stub_client;

mod agent;
pub mod cmd;

#[cfg(test)]
#[path = "../tests/require/mod.rs"]
mod require;

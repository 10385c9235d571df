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

pub mod allow;
pub mod serve;

pub mod answer;
pub mod packet;
pub mod query;

pub mod cache;
pub mod cookies;
pub mod empty_zones;
pub mod own_names;
pub mod resolve;
pub mod route;
pub mod upstream;

pub mod revision;
pub mod snapshot;

pub mod ask;
pub mod control;
pub mod identity;
pub mod logging;
pub mod metrics;
pub mod tap;
mod visitors;

pub mod agent;
pub mod handover;

pub mod process;

#[cfg(test)]
#[path = "../tests/require/mod.rs"]
mod require;

//! The controller that turns one `DnsTier` into a DNS tier.
//!
//! ```text
//! DnsTier, Nodes, Services, Pods ──► observe ──► validate ──► desired ──► apply ──► status ──► DnsTier
//!                                       ▲                                   │
//!             /status of all pods ──► poll             annotate ◄───────────┘
//! ```
//!
//! - `args`, `flags`: command line and start-up; `settings`, `logging`, `admin`, `liveness`, `metrics` and `queue` are
//!   what it starts.
//! - `client`: the client of the API server, whose requests end in bounded time; `verb` and `request_counter` serve it.
//! - `leader`: leader election by a Lease; the fence that lets no write of another process through.
//! - `watch`: the watches that trigger a reconciliation.
//! - `controller`: one reconciliation and its five steps.
//! - `offline`: the commands that show what the controller would do: `render`, `validate` and `diff`.

#![forbid(unsafe_code)]

#[cfg(test)]
mod address_tests;
mod admin;
mod args;
mod client;
mod controller;
#[cfg(test)]
mod departure_tests;
mod error;
#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod fake_cluster;
#[cfg(test)]
mod fake_daemon_sets;
#[cfg(test)]
#[expect(dead_code, reason = "the other tests count responses by the clock")]
#[path = "../tests/common/page.rs"]
mod fake_page;
#[cfg(test)]
mod fake_pods;
mod flags;
#[cfg(test)]
mod judge_tests;
mod leader;
mod liveness;
mod logging;
mod metrics;
mod offline;
#[cfg(test)]
mod other_writer_tests;
mod pace;
mod queue;
mod request_counter;
#[cfg(test)]
mod rollout_tests;
#[cfg(test)]
mod rollout_world;
mod settings;
#[cfg(test)]
mod tests;
mod verb;
mod watch;
mod write_pace;

pub use args::Args;

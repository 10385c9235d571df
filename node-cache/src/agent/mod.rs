//! The agent of a node: the one room that changes anything on the node.
//!
//! ```text
//! revision ──► addresses wanted ──► sockets ──► handover ──► caches
//!                    │                                          ▲
//!                    ▼                                          │ self_query, every second
//!                 lease  ──► rules (nft), interface (lo) ───────┘
//!                    │
//!                    └──► status, metrics
//! ```
//!
//! Capture is a lease and not a state. An address is on the node with a lifetime of five seconds (a minute where nobody
//! else serves it) and is renewed every second, but only while the caches of this pod answer at it. If the agent and the
//! caches die, the kernel takes the address away and questions reach the Service again; the packet rules that are left
//! behind match nothing any more.

mod args;
mod run;

mod reconciler;

pub mod lease;

pub mod interface;
pub mod nft;
pub mod rules;
pub mod self_query;
pub mod sockets;
pub mod startup_names;

mod http;
pub mod instances;
pub mod metrics;
pub mod readiness;
pub mod status;

pub use args::{Args, Probe, What};
pub use run::{AgentError, run};

/// Name of the agent among the processes of the pod.
pub const NAME: &str = "agent";

//! Agent of a node: the one room that changes anything on the node. It parses no DNS from outside the pod.
//!
//! ```text
//! revision ──► desired addresses ──► sockets ──► handover ──► caches
//!                    │                                          ▲
//!                    ▼                                          │ self_query, each second
//!                 lease  ──► rules (nft), interface (lo) ───────┘
//!                    │
//!                    └──► status, metrics
//! ```
//!
//! Capture is a lease and not a state. A captured address is on the node with a lifetime of five seconds (a minute for
//! an address that no Service answers at) and is renewed each second, but only while the caches of this pod answer at
//! it. If the agent and the caches die, the kernel removes the address and queries reach the Service again; packet
//! rules that are left behind match nothing any more.
//!
//! * [`reconciler`]: one pass over all addresses; [`lease`] decides, and the files below carry out.
//! * `interface`, `rules` and `nft`, `sockets` and `socket_options`: what the agent changes on the node.
//! * `self_query`, `ways_out`: what must be answered before an address is captured or renewed.
//! * `pod_routes`, `pod_reachability`, `pod_packets`: whether queries of pods reach the address, which no self-query
//!   shows.
//! * `foreign_sockets`: other processes at the address and port.
//! * `status`, `readiness`, `instances`, `metrics`: what the agent reports.

pub(crate) mod lease;
pub(crate) mod reconciler;

mod foreign_sockets;
pub(crate) mod interface;
pub(crate) mod nft;
pub(crate) mod rules;
mod socket_options;
pub(crate) mod sockets;

mod pod_packets;
mod pod_reachability;
mod pod_routes;
pub(crate) mod self_query;
pub(crate) mod ways_out;

pub(crate) mod instances;
pub(crate) mod metrics;
pub(crate) mod readiness;
pub(crate) mod status;

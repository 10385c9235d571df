//! Contract between control plane and data plane: the configuration of a tier, and the status of its pods.
//!
//! ```text
//! operator ── Config, as <revision>.json in a ConfigMap ──► agent, caches, zone resolvers
//!          ◄── NodeStatus / ResolverStatus, as JSON over HTTP ──
//! ```
//!
//! The data plane owns the format: the operator renders what this crate can read, and both sides validate with the same
//! function. An older reader ignores a field that it does not know, and a field that an older writer did not write has
//! a default, so that a configuration stays readable one release back and one forward.
//!
//! Beside the contract, [`metrics_page`] holds what the metrics pages of all programs have in common.

#![forbid(unsafe_code)]

mod config;
pub mod distinct_names;
pub mod figures;
mod fingerprint;
pub mod metrics_page;
pub mod names;
pub mod probes;
pub mod status;
mod suffix;
mod validate;

pub use config::{
    Cache, Captured, CaseRandomization, ClusterDns, Config, LastResort, NodeCache, PacketBudget, PrivateAnswers,
    Protocol, Resolver, Route, Upstream, UpstreamSource, Zone,
};
pub use fingerprint::{PartFingerprints, digest, fingerprint, part_fingerprints};
pub use suffix::{is_suffix, suffix_labels};
pub use validate::Invalid;

//! The one value that crosses from the control plane to the data plane, and what comes back.
//!
//! ```text
//! operator ── Config, as <revision>.json in a ConfigMap ──► agent, caches, zone resolvers
//!          ◄── NodeStatus / ResolverStatus, as JSON over HTTP ──
//! ```
//!
//! The reader owns the shape: the operator renders what this crate can read, and both sides validate with the same
//! function. A field that an older reader does not know is ignored by it and a field that an older writer did not
//! write has a default, so that a configuration stays readable one release back and one forward.

#![forbid(unsafe_code)]

mod config;
mod fingerprint;
pub mod names;
pub mod status;
mod suffix;
mod validate;

pub use config::{
    Cache, Captured, ClusterDns, Config, NodeCache, Protocol, Resolver, Route, Upstream, UpstreamSource, Zone,
};
pub use fingerprint::fingerprint;
pub use suffix::{is_suffix, suffix_labels};
pub use validate::Invalid;

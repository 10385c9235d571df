//! The controller that turns one `DnsTier` into a DNS tier.
//!
//! ```text
//! DnsTier, Nodes, Services, Pods ──► observe ──► validate ──► build ──► apply ──► status ──► DnsTier
//!                                       ▲                                │
//!              /status of all pods ──► poll          annotate ◄──────────┘
//! ```

#![forbid(unsafe_code)]

pub mod admin;
pub mod args;
pub mod controller;
pub mod error;
pub mod metrics;
pub mod settings;
pub mod watch;

pub use args::Args;

//! The controller that turns one `DnsTier` into a DNS tier.
//!
//! ```text
//! DnsTier, Nodes, Services, Pods ──► observe ──► validate ──► build ──► apply ──► status ──► DnsTier
//!                                       ▲                                │
//!              /status of all pods ──► poll          annotate ◄──────────┘
//! ```

#![forbid(unsafe_code)]

pub mod admin;
pub mod annotate;
pub mod args;
pub mod backoff;
pub mod controller;
pub mod error;
pub mod events;
pub mod metrics;
pub mod pods;
pub mod poll;
pub mod settings;
pub mod zones;

pub use args::Args;

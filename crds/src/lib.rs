//! The public contract of DnsTier: what people write into a `DnsTier`, what they read from it, and what is refused.
//!
//! ```text
//! DnsTierSpec ── rules (CEL, checked by the API server) ──► operator ── conditions, status ──► kubectl get dnstier
//! ```
//!
//! The Rust types are the source of everything else: the CustomResourceDefinition (`charts/dnstier/files/dnstiers.yaml`),
//! the manual that `kubectl explain` prints, and the API reference. The program `crdgen` writes both files.

#![forbid(unsafe_code)]

pub mod conditions;
pub mod v1alpha1;

pub use v1alpha1::DnsTier;

/// API group of the resource, and prefix of every label and annotation of ours.
pub const GROUP: &str = "dnstier.io";
/// Who this operator is in `managedFields` and events.
pub const FIELD_MANAGER: &str = "dnstier-operator";

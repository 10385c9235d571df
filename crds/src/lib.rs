//! The public API of DnsTier: spec and status of the resource `DnsTier`, its validation rules, and its conditions.
//!
//! ```text
//! DnsTierSpec ── rules (CEL, checked by the API server) ──► operator ── conditions, status ──► kubectl get dnstier
//! ```
//!
//! The Rust types are the source of everything else: the CustomResourceDefinition
//! (`charts/dnstier/files/dnstiers.yaml`), the manual that `kubectl explain` prints, and the API reference
//! (`docs/reference/api.md`). The program `crdgen` writes both files.

#![forbid(unsafe_code)]

pub mod conditions;
pub mod v1alpha1;

pub use v1alpha1::DnsTier;

/// API group of the resource, and prefix of the labels and annotations of this project.
pub const GROUP: &str = "dnstier.io";
/// Name of the operator in `managedFields` and events.
pub const FIELD_MANAGER: &str = "dnstier-operator";

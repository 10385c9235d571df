//! Checks of an object against the schema and the rules of the CustomResourceDefinition, as the API server does them.
//!
//! The definition is the one that the chart installs. A keyword of a schema that it does not use is not known here, and
//! a test reads all of it.

mod check;
mod completion;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;

use crate::offline::field_path::FieldPath;

pub(super) use check::check;

/// Problem of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Field.
    pub(super) field: FieldPath,
    /// Sentence.
    pub(super) message: String,
}

impl Problem {
    /// Builds a problem.
    pub(super) fn new(field: FieldPath, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

/// Schema of a `DnsTier`.
static SCHEMA: LazyLock<JSONSchemaProps> = LazyLock::new(|| {
    let versions = dnstier_crds::v1alpha1::definition().spec.versions;
    let schema = versions.into_iter().find_map(|version| version.schema).unwrap_or_default();
    schema.open_api_v3_schema.unwrap_or_default()
});

/// Returns the schema of a `DnsTier`.
pub(super) fn schema() -> &'static JSONSchemaProps {
    &SCHEMA
}

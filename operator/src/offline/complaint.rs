//! Complaints about a file, each with its line and field.

use std::fmt;

use crate::controller::finding::Finding;
use crate::offline::field_path::FieldPath;
use crate::offline::schema::Problem;
use crate::offline::yaml::{Lines, Syntax};

/// Complaint about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// Line, counted from 1.
    pub(super) line: usize,
    /// Field; empty where there is no object.
    pub(super) field: String,
    /// Sentence.
    pub(super) message: String,
    /// Whether the tier is applied all the same.
    pub(super) is_warning: bool,
}

impl Complaint {
    /// Builds the complaint about a text that is no YAML.
    pub(super) fn of_syntax(syntax: Syntax) -> Self {
        Self { line: syntax.line, field: String::new(), message: syntax.message, is_warning: false }
    }

    /// Builds the complaint about a field of an object. The message of a problem of the whole object names its field.
    pub(super) fn of_problem(problem: &Problem, lines: &Lines) -> Self {
        let field = match problem.field.segments() {
            [] => field_in(&problem.message).unwrap_or_default(),
            _ => problem.field.clone(),
        };
        Self::new(&field, &problem.message, lines)
    }

    /// Builds the complaint of a finding of the controller, whose message names the field.
    pub(super) fn of_finding(finding: &Finding, lines: &Lines) -> Self {
        let field = field_in(&finding.message).unwrap_or_else(|| FieldPath::parse("spec"));
        Self::new(&field, &finding.message, lines)
    }

    /// Returns the complaint as a warning.
    pub(super) fn into_warning(self) -> Self {
        Self { is_warning: true, ..self }
    }

    fn new(field: &FieldPath, message: &str, lines: &Lines) -> Self {
        let line = lines.line_of(field);
        let field = field.to_string();
        let message = message.strip_prefix(&format!("{field}: ")).unwrap_or(message).trim_end_matches('.');
        Self { line, field, message: message.to_owned(), is_warning: false }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.line)?;
        if self.is_warning {
            formatter.write_str("warning: ")?;
        }
        if !self.field.is_empty() {
            write!(formatter, "{}: ", self.field)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Returns the first field that a message names.
fn field_in(message: &str) -> Option<FieldPath> {
    let mut words = message.split_whitespace().map(|word| word.trim_end_matches([':', ',', ';', '.']));
    words.find(|word| word.starts_with("spec.") || word.starts_with("metadata.")).map(FieldPath::parse)
}

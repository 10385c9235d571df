//! Tiers of a file, checked as the API server checks them.

use dnstier_crds::DnsTier;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use crate::offline::complaint::Complaint;
use crate::offline::field_path::FieldPath;
use crate::offline::schema::{Problem, check, schema};
use crate::offline::yaml::{self, Lines};

/// Kinds of lists whose items are looked at, such as those that `kubectl get -o yaml` prints.
const LISTS: [&str; 2] = ["List", "DnsTierList"];

/// Tier of a file.
#[derive(Clone, Debug)]
pub(super) struct FileTier {
    /// Tier.
    pub(super) tier: DnsTier,
    /// Lines of its fields.
    pub(super) lines: Lines,
}

/// Content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct TierFile {
    /// Tiers that the API server accepts.
    pub(super) tiers: Vec<FileTier>,
    /// Complaints about the others.
    pub(super) complaints: Vec<Complaint>,
}

impl TierFile {
    /// Reads the tiers of a file, and leaves out objects of other kinds.
    pub(super) fn read(text: &str) -> Self {
        let (documents, problems) = yaml::parse(text);
        let mut file = Self { tiers: Vec::new(), complaints: problems.into_iter().map(Complaint::of_syntax).collect() };
        for document in documents {
            file.take(&document.value, &document.lines);
        }
        file
    }

    /// Returns the tiers beside one of them.
    pub(super) fn others(&self, name: &str) -> Vec<DnsTier> {
        self.tiers.iter().map(|other| &other.tier).filter(|other| other.name_any() != name).cloned().collect()
    }

    fn take(&mut self, object: &Value, lines: &Lines) {
        let kind = object["kind"].as_str().unwrap_or_default();
        if LISTS.contains(&kind) {
            for (index, item) in object["items"].as_array().into_iter().flatten().enumerate() {
                if let Some(lines) = lines.below(&FieldPath::parse("items").index(index)) {
                    self.take(item, &lines);
                }
            }
        } else if kind == DnsTier::kind(&()) {
            let problems = self.take_tier(object, lines);
            self.complaints.extend(problems.iter().map(|problem| Complaint::of_problem(problem, lines)));
        }
    }

    /// Takes a tier, or returns what is wrong with it.
    fn take_tier(&mut self, object: &Value, lines: &Lines) -> Vec<Problem> {
        let (completed, mut problems) = check(schema(), object);
        let version = DnsTier::api_version(&());
        if object["apiVersion"] != *version {
            problems.push(Problem::new(FieldPath::parse("apiVersion"), format!("must be {version}")));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if !name.is_empty() && self.tiers.iter().any(|other| other.tier.name_any() == name) {
            problems.push(Problem::new(FieldPath::parse("metadata.name"), format!("{name} is in this file twice")));
        }
        if !problems.is_empty() {
            return problems;
        }
        match serde_json::from_value(completed) {
            Ok(tier) => {
                self.tiers.push(FileTier { tier, lines: lines.clone() });
                Vec::new()
            }
            Err(error) => vec![Problem::new(FieldPath::parse("metadata"), error.to_string())],
        }
    }
}

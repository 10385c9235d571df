//! Transition of a tier: the edits of its spec, and what they have to lead to.

use serde_json::Value;

use crate::values::{Edit, Table, fill_in};

/// Outcome that a changed spec has to lead to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The tier comes to rest, and what the field moves has moved.
    Rest,
    /// The tier comes to rest, whether or not something moves: the order of a list has changed.
    Reordered,
    /// The API server refuses the spec, and nothing changes.
    Refused,
    /// A condition says what is wrong; the spec is taken back.
    Error,
    /// A condition says that the change is held, until the edit lets it go on.
    Held(Box<Edit>),
}

/// How a transition comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    #[default]
    Plain,
    /// Another change is on its way.
    Superseding,
    /// The operator is killed on the way.
    WithRestart,
}

/// Behaviour of a roll-out that a field of `spec.rollout` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Number of nodes that are the first.
    Canaries(usize),
    /// Number of waves.
    Waves(usize),
    /// Seconds for which the first nodes are watched.
    Soak(i64),
}

/// Transition of a tier.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transition {
    pub(crate) edits: Vec<Edit>,
    /// Values of the field that are set where the first one is there already.
    pub(crate) alternatives: Vec<Edit>,
    pub(crate) outcome: Outcome,
    pub(crate) manner: Manner,
    pub(crate) behaviour: Option<Behaviour>,
    /// Whether the spec is taken back once it is in force.
    pub(crate) is_fleeting: bool,
    /// Whether it begins from the first spec: what it shows needs all nodes of the tier.
    pub(crate) begins_anew: bool,
}

impl Transition {
    /// Creates a transition of one field.
    pub(crate) fn new(edit: Edit, outcome: Outcome) -> Self {
        let manner = Manner::Plain;
        Self {
            edits: vec![edit],
            alternatives: Vec::new(),
            outcome,
            manner,
            behaviour: None,
            is_fleeting: false,
            begins_anew: false,
        }
    }

    /// Returns the transition with the first of its values that changes the spec; unchanged where none does.
    pub(crate) fn that_changes(&self, spec: &Value, table: &Table, world: &str, cluster_dns: &str) -> Self {
        let others = self.alternatives.iter().map(|edit| Self { edits: vec![edit.clone()], ..self.clone() });
        let mut all = std::iter::once(self.clone()).chain(others);
        let changes = |one: &Self| one.spec_after(spec, table, world, cluster_dns) != *spec;
        all.find(changes).unwrap_or_else(|| self.clone())
    }

    /// Returns the spec after the edits.
    pub(crate) fn spec_after(&self, spec: &Value, table: &Table, world: &str, cluster_dns: &str) -> Value {
        let mut after = spec.clone();
        self.edits.iter().for_each(|edit| edit.apply(&mut after, table));
        fill_in(&mut after, world, cluster_dns);
        after
    }

    /// Returns the fields and their new values.
    pub(crate) fn describe(&self, before: &Value) -> String {
        let edits = self.edits.iter().map(|edit| {
            let old = crate::path::get(before, &edit.path, &edit.entry).map_or_else(|| "absent".to_owned(), short);
            let new = edit.value.as_ref().map_or_else(|| "absent".to_owned(), short);
            let entry = if edit.entry.is_empty() { String::new() } else { format!(" ({})", edit.entry) };
            format!("{}{entry}: {old} -> {new}", edit.path)
        });
        let edits: Vec<String> = edits.collect();
        format!("{} [{:?}, {:?}]", edits.join("; "), self.outcome, self.manner)
    }

    /// Returns how long it takes, in units of a plain roll-out.
    pub(crate) fn weight(&self) -> usize {
        let says = self.edits.iter().filter_map(|edit| edit.reason.as_deref());
        match self.outcome {
            Outcome::Refused => 1,
            _ if says.into_iter().any(|reason| reason == "PodsNotRunning") => 300,
            _ if self.is_fleeting => 30,
            Outcome::Error if self.edits.iter().any(|edit| edit.reason.is_some()) => 30,
            _ => 12,
        }
    }
}

/// Returns the beginning of a value.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() > 160 { format!("{}…", text.chars().take(160).collect::<String>()) } else { text }
}

#[test]
fn a_value_that_is_there_already_gives_way_to_another_one() {
    let table = Table::read();
    let path = "nodeCache.cache.maxTtl";
    let to = |value: &str| Edit::to(path, serde_json::json!(value));
    let transition = Transition { alternatives: vec![to("1m"), to("2m")], ..Transition::new(to("1m"), Outcome::Rest) };
    let value = |before: &str| {
        let spec = serde_json::json!({"nodeCache": {"cache": {"maxTtl": before}}});
        transition.that_changes(&spec, &table, "world", "dns").edits[0].value.clone()
    };
    assert_eq!(value("5m"), Some("1m".into()));
    assert_eq!(value("1m"), Some("2m".into()));
}

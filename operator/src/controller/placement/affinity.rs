//! Required node affinity: further requirements, and whether a node meets it, as the scheduler decides.

use k8s_openapi::api::core::v1::{Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use crate::controller::observe::nodes::Labels;

/// Field of a Node that an affinity may name.
const NAME_FIELD: &str = "metadata.name";

/// Returns the requirement that a label has one of these values.
#[must_use]
pub(super) fn is_in(key: &str, values: &[String]) -> NodeSelectorRequirement {
    NodeSelectorRequirement { key: key.to_owned(), operator: "In".to_owned(), values: Some(values.to_vec()) }
}

/// Returns the requirement that a label is absent or has another value.
#[must_use]
pub(super) fn is_not_in(key: &str, value: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement { key: key.to_owned(), operator: "NotIn".to_owned(), values: Some(vec![value.to_owned()]) }
}

/// Returns the requirement that the node has this name. Of fields, a requirement has one value.
#[must_use]
pub(super) fn has_name(name: &str) -> NodeSelectorRequirement {
    is_in(NAME_FIELD, &[name.to_owned()])
}

/// Returns the requirement that the node has another name.
#[must_use]
pub(super) fn has_other_name(name: &str) -> NodeSelectorRequirement {
    is_not_in(NAME_FIELD, name)
}

/// Adds requirements to an affinity. Its terms are alternatives, so each of them gets all requirements, but for one
/// that has none: no node meets it, and with a requirement some would.
#[must_use]
pub(super) fn add_requirements(mut affinity: Affinity, requirements: &[NodeSelectorRequirement]) -> Affinity {
    let required =
        &mut affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution;
    let Some(required) = required else {
        let term = NodeSelectorTerm { match_expressions: Some(requirements.to_vec()), match_fields: None };
        *required = Some(NodeSelector { node_selector_terms: vec![term] });
        return affinity;
    };
    if required.node_selector_terms.is_empty() {
        // The API server refuses a list without terms, which means the same.
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in required.node_selector_terms.iter_mut().filter(|term| !is_empty(term)) {
        term.match_expressions.get_or_insert_default().extend(requirements.iter().cloned());
    }
    affinity
}

/// Returns whether a term has no requirement.
#[must_use]
pub(super) fn is_empty(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten()).next().is_none()
}

/// Returns whether a node meets the required node affinity: one of its terms, if it has any.
#[must_use]
pub(super) fn may_run(affinity: &Affinity, name: &str, labels: &Labels) -> bool {
    let required = affinity
        .node_affinity
        .as_ref()
        .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, name, labels)))
}

/// Returns the name of the one node that a term can match; `None` for a term that asks for anything else.
#[must_use]
pub(super) fn only_name(term: &NodeSelectorTerm) -> Option<&str> {
    let [field] = term.match_fields.as_deref()? else { return None };
    let [name] = field.values.as_deref()? else { return None };
    let is_name = field.key == NAME_FIELD && field.operator == "In";
    (is_name && term.match_expressions.as_ref().is_none_or(Vec::is_empty)).then_some(name)
}

/// Returns whether a node meets a term: all of its requirements. A term without any is met by no node.
#[must_use]
pub(super) fn matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let mut requirements = expressions
        .map(|requirement| (requirement, labels.get(&requirement.key).map(String::as_str)))
        .chain(fields.map(|requirement| (requirement, (requirement.key == NAME_FIELD).then_some(name))))
        .peekable();
    requirements.peek().is_some() && requirements.all(|(requirement, actual)| is_met(requirement, actual))
}

fn is_met(requirement: &NodeSelectorRequirement, actual: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_listed = actual.is_some_and(|actual| values.iter().any(|value| value == actual));
    let numbers = || Some((actual?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => numbers().is_some_and(|(actual, bound)| actual > bound),
        "Lt" => numbers().is_some_and(|(actual, bound)| actual < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect()),
        }
    }

    fn affinity(terms: Vec<NodeSelectorTerm>) -> Affinity {
        let mut affinity = Affinity::default();
        affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
            Some(NodeSelector { node_selector_terms: terms });
        affinity
    }

    fn term(requirements: Vec<NodeSelectorRequirement>) -> NodeSelectorTerm {
        NodeSelectorTerm { match_expressions: Some(requirements), match_fields: None }
    }

    fn labels() -> Labels {
        [("pool", "blue"), ("cores", "8")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn a_requirement_is_met_as_the_scheduler_decides() {
        for (requirement, met) in [
            (requirement("pool", "In", &["red", "blue"]), true),
            (requirement("pool", "In", &["red"]), false),
            (requirement("absent", "In", &["x"]), false),
            (requirement("pool", "NotIn", &["blue"]), false),
            (requirement("absent", "NotIn", &["x"]), true),
            (requirement("pool", "Exists", &[]), true),
            (requirement("absent", "Exists", &[]), false),
            (requirement("absent", "DoesNotExist", &[]), true),
            (requirement("cores", "Gt", &["4"]), true),
            (requirement("cores", "Lt", &["8"]), false),
            (requirement("pool", "Gt", &["4"]), false),
            (requirement("pool", "Unheard", &["blue"]), false),
        ] {
            let affinity = affinity(vec![term(vec![requirement.clone()])]);
            assert_eq!(may_run(&affinity, "node-a", &labels()), met, "{requirement:?}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_no_node() {
        let no = || requirement("pool", "In", &["red"]);
        let yes = || requirement("pool", "Exists", &[]);
        assert!(may_run(&affinity(vec![term(vec![no()]), term(vec![yes()])]), "node-a", &labels()));
        assert!(!may_run(&affinity(vec![term(vec![yes(), no()])]), "node-a", &labels()));
        assert!(!may_run(&affinity(vec![NodeSelectorTerm::default()]), "node-a", &labels()));
        assert!(may_run(&Affinity::default(), "node-a", &labels()));
    }

    #[test]
    fn requirements_are_added_to_each_term_but_one_that_no_node_meets() {
        let of = |affinity| add_requirements(affinity, &[requirement("pool", "In", &["blue"])]);
        let runs = |affinity: Affinity| may_run(&of(affinity), "node-a", &labels());
        assert!(runs(Affinity::default()));
        assert!(runs(affinity(vec![term(vec![requirement("cores", "Exists", &[])])])));
        assert!(!runs(affinity(vec![term(vec![requirement("absent", "Exists", &[])])])));
        assert!(!runs(affinity(vec![NodeSelectorTerm::default(), term(Vec::new())])));
        assert!(!runs(affinity(Vec::new())));
        let one_of_two = vec![NodeSelectorTerm::default(), term(vec![requirement("cores", "Exists", &[])])];
        assert!(runs(affinity(one_of_two)));
    }

    #[test]
    fn a_node_may_be_required_by_its_name() {
        let fields = vec![requirement(NAME_FIELD, "In", &["node-a"])];
        let by_name = affinity(vec![NodeSelectorTerm { match_expressions: None, match_fields: Some(fields) }]);
        assert!(may_run(&by_name, "node-a", &labels()));
        assert!(!may_run(&by_name, "node-b", &labels()));
    }

    #[test]
    fn every_alternative_of_a_users_affinity_gets_the_requirements() {
        let configured = affinity(vec![
            term(vec![requirement("fast", "Exists", &[])]),
            term(vec![requirement("large", "Exists", &[])]),
        ]);
        let added = add_requirements(configured, &[requirement("zone", "In", &["zone-a"])]);
        let terms = added.node_affinity.unwrap().required_during_scheduling_ignored_during_execution.unwrap();
        assert_eq!(terms.node_selector_terms.len(), 2);
        for term in terms.node_selector_terms {
            let expressions = term.match_expressions.unwrap_or_default();
            assert_eq!(expressions.len(), 2);
            assert_eq!(expressions[1], requirement("zone", "In", &["zone-a"]));
        }
    }
}

//! Taints and tolerations, as the scheduler compares them.

use k8s_openapi::api::core::v1::Toleration;

use crate::controller::observe::nodes::NodeTaint;

/// Prefixes of taints that Kubernetes and clouds put on nodes in a state that passes by itself, such as `not-ready`.
const PASSING_STATES: [&str; 2] = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];

/// Taints that each pod of a DaemonSet on the host network tolerates, as key and effect: the DaemonSet controller adds
/// these tolerations to what its template says.
const TOLERATED_BY_DAEMON_SETS: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// Returns whether the DaemonSet controller makes no pod with these tolerations for a node with these taints, and does
/// not count the node. Unlike for [`intolerable_taint`], taints of a state that passes by itself count.
#[must_use]
pub(super) fn is_uncounted(taints: &[NodeTaint], tolerations: &[Toleration]) -> bool {
    taints.iter().any(|taint| {
        let is_binding = ["NoSchedule", "NoExecute"].contains(&taint.effect.as_str());
        let is_added = TOLERATED_BY_DAEMON_SETS.contains(&(taint.key.as_str(), taint.effect.as_str()));
        is_binding && !is_added && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// Returns the first taint that keeps pods with these tolerations from a node for good; `None` without one.
#[must_use]
pub(super) fn intolerable_taint<'a>(taints: &'a [NodeTaint], tolerations: &[Toleration]) -> Option<&'a NodeTaint> {
    intolerable(taints, tolerations, &["NoSchedule", "NoExecute"])
}

/// Returns the first taint that drives pods with these tolerations from a node for good; `None` without one.
#[must_use]
pub(super) fn evicting_taint<'a>(taints: &'a [NodeTaint], tolerations: &[Toleration]) -> Option<&'a NodeTaint> {
    intolerable(taints, tolerations, &["NoExecute"])
}

fn intolerable<'a>(taints: &'a [NodeTaint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a NodeTaint> {
    taints.iter().find(|taint| {
        let is_binding = effects.contains(&taint.effect.as_str());
        let passes = PASSING_STATES.iter().any(|prefix| taint.key.starts_with(prefix));
        is_binding && !passes && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// Returns a taint as `kubectl taint` writes it.
#[must_use]
pub(super) fn text(taint: &NodeTaint) -> String {
    let NodeTaint { key, value, effect } = taint;
    if value.is_empty() { format!("{key}:{effect}") } else { format!("{key}={value}:{effect}") }
}

/// Returns whether a toleration matches a taint: an absent key or effect matches every one.
fn tolerates(toleration: &Toleration, taint: &NodeTaint) -> bool {
    let matches =
        |wanted: Option<&str>, actual: &str| wanted.is_none_or(|wanted| wanted.is_empty() || wanted == actual);
    let has_value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or_default() == taint.value,
    };
    matches(toleration.effect.as_deref(), &taint.effect) && matches(toleration.key.as_deref(), &taint.key) && has_value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> NodeTaint {
        NodeTaint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() }
    }

    fn toleration(key: Option<&str>, operator: Option<&str>, value: Option<&str>, effect: Option<&str>) -> Toleration {
        Toleration {
            key: key.map(str::to_owned),
            operator: operator.map(str::to_owned),
            value: value.map(str::to_owned),
            effect: effect.map(str::to_owned),
            toleration_seconds: None,
        }
    }

    #[test]
    fn a_taint_is_tolerated_as_the_scheduler_does() {
        let dedicated = [taint("dedicated", "db", "NoSchedule")];
        for (toleration, tolerated) in [
            (toleration(None, Some("Exists"), None, None), true),
            (toleration(Some("dedicated"), Some("Exists"), None, None), true),
            (toleration(Some("dedicated"), Some("Exists"), None, Some("NoSchedule")), true),
            (toleration(Some("dedicated"), Some("Exists"), None, Some("NoExecute")), false),
            (toleration(Some("dedicated"), Some("Equal"), Some("db"), None), true),
            (toleration(Some("dedicated"), None, Some("db"), Some("")), true),
            (toleration(Some("dedicated"), None, Some("web"), None), false),
            (toleration(Some("other"), Some("Exists"), None, None), false),
        ] {
            let found = intolerable_taint(&dedicated, std::slice::from_ref(&toleration));
            assert_eq!(found.is_none(), tolerated, "{toleration:?}");
        }
        assert_eq!(intolerable_taint(&dedicated, &[]), dedicated.first());
    }

    #[test]
    fn a_state_that_passes_and_a_preference_keep_no_pod_away() {
        for passing in [
            taint("node.kubernetes.io/not-ready", "", "NoExecute"),
            taint("node.kubernetes.io/unreachable", "", "NoSchedule"),
            taint("node.kubernetes.io/unschedulable", "", "NoSchedule"),
            taint("node.kubernetes.io/disk-pressure", "", "NoSchedule"),
            taint("node.cloudprovider.kubernetes.io/uninitialized", "true", "NoSchedule"),
            taint("dedicated", "db", "PreferNoSchedule"),
        ] {
            assert_eq!(intolerable_taint(std::slice::from_ref(&passing), &[]), None, "{passing:?}");
        }
    }

    #[test]
    fn a_daemon_set_counts_no_node_with_a_taint_of_a_passing_state_that_nothing_tolerates() {
        let all = [toleration(None, Some("Exists"), None, None)];
        for (taint, is_expected) in [
            (taint("node.kubernetes.io/unreachable", "", "NoExecute"), false),
            (taint("node.kubernetes.io/unreachable", "", "NoSchedule"), true),
            (taint("node.kubernetes.io/not-ready", "", "NoSchedule"), true),
            (taint("node.cloudprovider.kubernetes.io/shutdown", "", "NoSchedule"), true),
            (taint("node.kubernetes.io/unschedulable", "", "NoSchedule"), false),
            (taint("dedicated", "db", "PreferNoSchedule"), false),
        ] {
            let taints = std::slice::from_ref(&taint);
            assert_eq!((is_uncounted(taints, &[]), is_uncounted(taints, &all)), (is_expected, false), "{taint:?}");
        }
    }
}

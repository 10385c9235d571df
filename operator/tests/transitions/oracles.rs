//! Oracles about one moment of a tier: its rest, the health of its workloads, the log of its operator.

use serde_json::Value;

use crate::common::objects::Objects;
use crate::common::state::is_at_rest;
use crate::world::NODES;

const COMPONENT: &str = "app.kubernetes.io/component";
const INSTANCE: &str = "app.kubernetes.io/instance";

/// Condition of a tier about its newest spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) type_: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Returns the conditions of a tier that are about its newest spec.
pub(crate) fn conditions(world: &str, objects: &Objects) -> Vec<Condition> {
    let Some(tier) = objects.get("DnsTier", "", world) else { return Vec::new() };
    let conditions = tier["status"]["conditions"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    conditions
        .filter(|condition| condition["observedGeneration"] == tier["metadata"]["generation"])
        .map(|condition| Condition {
            type_: text(&condition["type"]),
            status: text(&condition["status"]),
            reason: text(&condition["reason"]),
            message: text(&condition["message"]),
        })
        .collect()
}

/// Returns what keeps a tier from rest and health; empty when nothing does.
pub(crate) fn unrest(world: &str, objects: &Objects) -> Vec<String> {
    let mut unrest = Vec::new();
    if !is_at_rest(world, objects) {
        let conditions = conditions(world, objects).into_iter();
        unrest
            .extend(conditions.map(|each| format!("{}={} {}: {}", each.type_, each.status, each.reason, each.message)));
        unrest.push("the tier is not at rest".to_owned());
    }
    unrest.extend(miscounted(world, objects));
    unrest.extend(mislabelled(world, objects));
    unrest.extend(unhealthy(world, objects));
    unrest
}

/// Returns the complaint that a tier counts other nodes than it has: each one should run caches or is left out, and
/// those with caches are those of the DaemonSet.
fn miscounted(world: &str, objects: &Objects) -> Option<String> {
    let tier = objects.get("DnsTier", "", world)?;
    let nodes = &tier["status"]["nodes"];
    let excluded = nodes["excluded"].as_array().into_iter().flatten();
    let excluded: u64 = excluded.filter_map(|each| each["nodes"].as_u64()).sum();
    let desired = nodes["desired"].as_u64().unwrap_or_default();
    let sets = objects.select(|key, object| key.0 == "DaemonSet" && object["metadata"]["labels"][INSTANCE] == world);
    let scheduled = sets.iter().filter_map(|(_, set)| set["status"]["desiredNumberScheduled"].as_u64()).sum::<u64>();
    let is_right = desired == scheduled && desired + excluded == NODES.len() as u64;
    (!is_right).then(|| format!("of {} nodes, {scheduled} run caches, and the status has {nodes}", NODES.len()))
}

/// Returns the resolvers that were told of another number of resolvers on their node than there are.
fn mislabelled(world: &str, objects: &Objects) -> Vec<String> {
    let resolvers = objects.select(|key, object| {
        let labels = &object["metadata"]["labels"];
        key.0 == "Pod" && labels[INSTANCE] == world && labels[COMPONENT] == "zone-resolver"
    });
    let on_node = |node: &Value| resolvers.iter().filter(|(_, pod)| pod["spec"]["nodeName"] == *node).count();
    let told = |pod: &Value| pod["metadata"]["annotations"]["dnstier.io/resolvers-on-node"].clone();
    let is_wrong = |pod: &Value| told(pod).as_str() != Some(on_node(&pod["spec"]["nodeName"]).to_string().as_str());
    let wrong = resolvers.iter().filter(|(_, pod)| is_wrong(pod));
    wrong.map(|((.., name), pod)| format!("Pod {name} was told of {} resolvers on its node", told(pod))).collect()
}

/// Returns the workloads and pods of a tier that are not as they should be.
pub(crate) fn unhealthy(world: &str, objects: &Objects) -> Vec<String> {
    let owned = objects.select(|_, object| object["metadata"]["labels"][INSTANCE] == world);
    let mut unhealthy = Vec::new();
    for ((kind, _, name), object) in owned {
        let (status, number) = (&object["status"], |value: &Value| value.as_i64().unwrap_or_default());
        let is_observed = status["observedGeneration"] == object["metadata"]["generation"];
        let is_healthy = match kind {
            "DaemonSet" => {
                let wanted = number(&status["desiredNumberScheduled"]);
                let counts = ["currentNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable"];
                is_observed
                    && counts.iter().all(|count| number(&status[count]) == wanted)
                    && number(&status["numberMisscheduled"]) == 0
            }
            "Deployment" => {
                let wanted = number(&object["spec"]["replicas"]);
                let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
                is_observed && counts.iter().all(|count| number(&status[count]) == wanted)
            }
            "Pod" => status["phase"] == "Running" && !object["metadata"]["deletionTimestamp"].is_string(),
            _ => true,
        };
        if !is_healthy {
            unhealthy.push(format!("{kind} {name} is not healthy: {status}"));
        }
    }
    unhealthy
}

/// Returns the lines of an operator's log that should not be there. Warnings are expected of an error.
pub(crate) fn bad_lines(log: &str, are_warnings_expected: bool) -> Vec<String> {
    let is_bad = |line: &&str| {
        let is_warning = line.contains(" WARN ") && !EXPECTED_WARNINGS.iter().any(|expected| line.contains(expected));
        line.contains(" ERROR ") || line.contains("panicked") || (is_warning && !are_warnings_expected)
    };
    log.lines().filter(is_bad).map(str::to_owned).collect()
}

/// Warnings of an operator that does what it should, in front of an API server that has too much to do.
const EXPECTED_WARNINGS: [&str; 1] = ["did not answer within"];

#[test]
fn errors_and_panics_of_a_log_are_found() {
    let log = "2026 INFO a\n2026 WARN b\n2026 ERROR c\nthread 'main' panicked at d\n";
    assert_eq!(bad_lines(log, true).len(), 2);
    assert_eq!(bad_lines(log, false).len(), 3);
}

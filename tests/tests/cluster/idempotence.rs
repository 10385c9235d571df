//! A tier that does not change is not written to.

use std::collections::BTreeMap;

use dnstier_tests::require;

use crate::tier::{
    NAMESPACE, NODE_NAMESPACE, TIER, WAIT_TIMEOUT, ensure, exclusive_tier, get, kubectl, kubectl_json, operator_leader,
    wait_until, wait_until_ready,
};

#[test]
fn forced_reconciles_and_a_restart_of_the_operator_write_to_no_child() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let before = owned_objects();
    assert!(before.len() > 15, "{before:?}");

    let runs = reconciles();
    for round in 0..20 {
        kubectl(&["annotate", "dnstier", TIER, "--overwrite", &format!("example.com/round={round}")]);
        wait_until("the tier was reconciled", WAIT_TIMEOUT, || {
            let now = reconciles();
            ensure(now > runs + round, || format!("{now} runs"))
        });
    }
    kubectl(&["annotate", "dnstier", TIER, "example.com/round-"]);
    assert_eq!(changed(&before, &owned_objects()), Vec::<String>::new());

    let operator = "deployment/dnstier-operator";
    kubectl(&["rollout", "restart", "-n", NAMESPACE, operator]);
    kubectl(&["rollout", "status", "-n", NAMESPACE, operator, "--timeout=120s"]);
    wait_until("the new operator has reconciled", WAIT_TIMEOUT, || {
        ensure(reconciles() > 0, || "no run yet".to_owned())
    });
    wait_until_ready();
    assert_eq!(changed(&before, &owned_objects()), Vec::<String>::new());
}

/// Returns the resource version of each owned object, by kind, namespace and name.
///
/// Of workloads, whose status controllers write, the generation counts, which only a changed spec raises.
fn owned_objects() -> BTreeMap<String, String> {
    let kinds = "serviceaccounts,configmaps,services,poddisruptionbudgets,networkpolicies,daemonsets,deployments";
    let selector = format!("app.kubernetes.io/instance={TIER},app.kubernetes.io/managed-by=dnstier-operator");
    let mut owned_objects = BTreeMap::new();
    for namespace in [NAMESPACE, NODE_NAMESPACE, "kube-system"] {
        let list = kubectl_json(&["get", kinds, "-n", namespace, "-l", &selector]);
        for item in list["items"].as_array().expect("a list") {
            let meta = &item["metadata"];
            // A new leader writes its name into the record of the roll-out, so that the one before cannot.
            if meta["labels"]["app.kubernetes.io/component"] == "rollout" {
                continue;
            }
            let key = format!("{} {namespace}/{}", item["kind"], meta["name"]);
            owned_objects.insert(key, meta["resourceVersion"].to_string());
        }
    }
    owned_objects
}

fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let differs = |key: &&String| before.get(*key) != after.get(*key);
    let mut keys: Vec<_> = before.keys().chain(after.keys()).filter(differs).cloned().collect();
    keys.dedup();
    keys
}

/// Returns how often the leader of the operator has reconciled a tier, from its metrics.
fn reconciles() -> u64 {
    let Some(name) = operator_leader() else { return 0 };
    let Ok(text) = get(NAMESPACE, &name, 8080, "metrics") else { return 0 };
    let line = text.lines().find(|line| line.starts_with("dnstier_operator_reconciles_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map_or(0, |runs| runs as u64)
}

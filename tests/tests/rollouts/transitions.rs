//! Twenty changes of fields one after the other, half of them wrong: each is taken back, and everything is as it was.

use std::collections::BTreeMap;

use dnstier_tests::require;
use serde_json::{Value, json};

use crate::tier::{
    TIER, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl_json, patch_tier, restore_tier, wait_until,
    wait_until_ready,
};
use crate::witness::wait_until_rolled_out;

/// Fields that come into force: a merge patch of the spec.
fn good() -> [Value; 10] {
    [
        json!({"nodeCache": {"cache": {"maxTtl": "20s"}}}),
        json!({"nodeCache": {"cache": {"negativeMaxTtl": "10s"}}}),
        json!({"nodeCache": {"lastResort": {"packetsPerSecond": 50}}}),
        json!({"nodeCache": {"podAnnotations": {"note": "hello"}}}),
        json!({"resolvers": {"cache": {"serveStale": "1h"}}}),
        json!({"resolvers": {"privateSuffixes": ["corp.example"]}}),
        json!({"resolvers": {"podLabels": {"team": "dns"}}}),
        json!({"resolvers": {"replicasPerZone": 1}}),
        json!({"rollout": {"canariesPerZone": 2}}),
        json!({"rollout": {"waveSize": "100%"}, "clusterDomain": "cluster.local"}),
    ]
}

/// Fields that lead to an error, and what the message of `Degraded` has to name.
fn bad() -> [(Value, &'static str); 10] {
    let dead = json!([{"suffix": "dead.example", "upstreams": [{"addresses": ["192.0.2.77"]}]}]);
    let weight = json!([{"weight": 0, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]);
    let term = json!([{"topologyKey": "", "labelSelector": {}}]);
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    [
        (json!({"clusterDns": {"name": "no-such-dns"}}), "no-such-dns"),
        (json!({"clusterDns": {"namespace": "nowhere"}}), "nowhere"),
        (json!({"resolvers": {"zones": ["zone-a", "zone-b", "zone-c", "zone-z"]}}), "zone-z"),
        (json!({"resolvers": {"upstreams": [{"addresses": ["10.96.0.10"]}]}}), "10.96.0.10"),
        (json!({"routes": dead}), "dead.example SOA"),
        (json!({"nodeCache": {"affinity": {"nodeAffinity": {preferred: weight}}}}), "weight"),
        (json!({"resolvers": {"affinity": {"podAntiAffinity": {required: term}}}}), "topologyKey"),
        (json!({"nodeCache": {"tolerations": [{"key": "bad key", "operator": "Exists"}]}}), "tolerations"),
        (json!({"resolvers": {"tolerations": [{"key": "x", "value": "not a value!"}]}}), "tolerations"),
        (json!({"resolvers": {"resources": {"limits": {"gold": "1"}}}}), "gold"),
    ]
}

/// Returns the objects of the tier without what Kubernetes and the way to them add.
fn objects() -> BTreeMap<String, Value> {
    let kinds = "daemonsets,deployments,services,configmaps,poddisruptionbudgets,networkpolicies,serviceaccounts";
    let selector = format!("app.kubernetes.io/instance={TIER}");
    let list = kubectl_json(&["get", kinds, "-A", "-l", &selector]);
    let object = |object: &Value| {
        let metadata = &object["metadata"];
        let name = format!("{} {}/{}", object["kind"], metadata["namespace"], metadata["name"]);
        let stable = &object["data"]["stable.json"];
        (name, json!({"labels": metadata["labels"], "spec": object["spec"], "stable": stable}))
    };
    list["items"].as_array().expect("a list").iter().map(object).collect()
}

/// Takes a change back, and waits until everything is as it was.
fn take_back(before: &BTreeMap<String, Value>, patch: &Value) {
    restore_tier().expect("the tier is there");
    wait_until_ready();
    wait_until(&format!("everything is as it was before {patch}"), WAIT_TIMEOUT, || {
        let now = objects();
        let differs = |name: &&String| before.get(*name) != now.get(*name);
        let different: Vec<&String> = before.keys().chain(now.keys()).filter(differs).collect();
        ensure(different.is_empty(), || format!("{different:?} differ"))
    });
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn twenty_changes_of_fields_leave_nothing_behind_when_they_are_taken_back() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let before = objects();
    for patch in good() {
        eprintln!("{patch}");
        patch_tier(&json!({"spec": patch}).to_string());
        wait_until_rolled_out();
        wait_until_ready();
        take_back(&before, &patch);
    }
    for (patch, says) in bad() {
        eprintln!("{patch}");
        patch_tier(&json!({"spec": patch}).to_string());
        let degraded = wait_until(&format!("the message names {says}"), 3 * WAIT_TIMEOUT, || {
            let degraded = condition("Degraded")?;
            ensure(degraded.0 == "True" && degraded.2.contains(says), || format!("{degraded:?}"))?;
            Ok(degraded)
        });
        eprintln!("  {degraded:?}");
        take_back(&before, &patch);
    }
}

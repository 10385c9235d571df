//! Last resort: all resolvers of all zones are gone, and nodes ask the upstreams themselves until one is back.

use dnstier_tests::require;
use node_cache_config::status::LAST_RESORT_SCOPE;

use crate::tier::{
    CLUSTER_DNS, NAMESPACE, RestoreOnDrop, TIER, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, node_status,
    pods, query, try_query, wait_until, wait_until_ready,
};

/// Returns how many queries the caches of a node have sent to their last resort.
fn sent_by(node: &str) -> u64 {
    let status = node_status(node).expect("the status of a node");
    let upstreams = status.instances.iter().flat_map(|instance| &instance.upstreams);
    upstreams.filter(|upstream| upstream.scope == LAST_RESORT_SCOPE).map(|upstream| upstream.sent).sum()
}

fn scale_operator(replicas: &str) {
    kubectl(&["scale", "-n", NAMESPACE, "deployment/dnstier-operator", &format!("--replicas={replicas}")]);
}

#[test]
fn nodes_ask_the_upstreams_while_the_resolvers_are_scaled_to_zero_and_stop_with_the_first_that_answers() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let before = sent_by("node-a");
    // The operator would scale them up again.
    scale_operator("0");
    let operator = RestoreOnDrop(|| scale_operator("3"));
    let selector = format!("app.kubernetes.io/instance={TIER},app.kubernetes.io/component=zone-resolver");
    kubectl(&["scale", "-n", NAMESPACE, "deployment", "-l", &selector, "--replicas=0"]);
    wait_until("no resolver is left", WAIT_TIMEOUT, || {
        let pods = pods(NAMESPACE, "zone-resolver");
        ensure(pods.is_empty(), || format!("{pods:?}"))
    });
    let mut number = 0;
    wait_until("the last resort answers a name that no cache has", WAIT_TIMEOUT, || {
        number += 1;
        let response = try_query("node-a", &[&format!("resort-{number}.wild.example"), "--server", CLUSTER_DNS])?;
        ensure(response.rcode == "NOERROR" && sent_by("node-a") > before, || format!("{response:?}"))
    });
    drop(operator);
    wait_until("resolvers are back", WAIT_TIMEOUT, || {
        let ready = condition("Ready")?;
        ensure(ready.0 == "True", || format!("{ready:?}"))
    });
    wait_until_ready();
    wait_until("the nodes ask the resolvers", WAIT_TIMEOUT, || {
        let before = sent_by("node-a");
        for _ in 0..10 {
            number += 1;
            query("node-a", &[&format!("resort-{number}.wild.example"), "--server", CLUSTER_DNS]);
        }
        ensure(sent_by("node-a") == before, || format!("{} after {before}", sent_by("node-a")))
    });
}

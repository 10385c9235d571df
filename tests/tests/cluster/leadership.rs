//! Leader election of the operator: whoever leads may stop or be killed, and the next one acts.

use std::collections::BTreeSet;

use dnstier_tests::require;

use crate::tier::{
    NAMESPACE, WAIT_TIMEOUT, condition, ensure, exclusive_tier, get, kubectl, kubectl_json, operator_leader,
    patch_tier, wait_until, wait_until_ready,
};

#[test]
fn a_leader_that_stops_or_is_killed_is_replaced_by_another_pod_that_acts() {
    require!(require::lab());
    let _tier = exclusive_tier();
    for (cap, how) in [(7, &[][..]), (8, &["--grace-period=0", "--force"][..])] {
        let leader = operator_leader().expect("a leader");
        assert_leads_alone(&leader);
        let mut delete = vec!["delete", "pod", "-n", NAMESPACE, &leader, "--wait=false"];
        delete.extend(how);
        kubectl(&delete);
        wait_until("another pod leads", WAIT_TIMEOUT, || {
            let next = operator_leader();
            ensure(next.as_ref().is_some_and(|next| *next != leader), || {
                format!("{leader} was deleted, {next:?} leads")
            })
        });
        patch_tier(&format!(r#"{{"spec":{{"nodeCache":{{"cache":{{"maxTtl":"{cap}s"}}}}}}}}"#));
        // Of the newest generation.
        wait_until("the tier is ready", WAIT_TIMEOUT, || {
            let ready = condition("Ready")?;
            ensure(ready.0 == "True", || format!("{ready:?}"))
        });
        kubectl(&["rollout", "status", "-n", NAMESPACE, "deployment/dnstier-operator", "--timeout=120s"]);
    }
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_until_ready();
}

/// Asserts that three pods are ready, of which this one alone says that it leads.
fn assert_leads_alone(leader: &str) {
    let pods = || {
        let list = kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator"]);
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let leads = |pod: &str| {
        let page = get(NAMESPACE, pod, 8080, "metrics").unwrap_or_default();
        page.lines().any(|line| line == "dnstier_operator_leader 1")
    };
    wait_until("one of three pods leads", WAIT_TIMEOUT, || {
        let pods = pods();
        let leaders: Vec<_> = pods.iter().filter(|pod| leads(pod)).collect();
        ensure(pods.len() == 3 && leaders == [leader], || format!("{leaders:?} of {pods:?} lead, and not {leader}"))
    });
}

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

/// Asserts that three pods serve metrics, of which this one alone says that it leads, and the others that they do not.
fn assert_leads_alone(leader: &str) {
    let pods = || {
        let list = kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator"]);
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let says = |pod: &str, line: &str| {
        let page = get(NAMESPACE, pod, 8080, "metrics").unwrap_or_default();
        page.lines().any(|found| found == line)
    };
    wait_until("one of three pods leads", WAIT_TIMEOUT, || {
        let pods = pods();
        let that_say = |line: &str| pods.iter().filter(|pod| says(pod, line)).collect::<Vec<_>>();
        let (leaders, standbys) = (that_say("dnstier_operator_leader 1"), that_say("dnstier_operator_leader 0"));
        ensure(pods.len() == 3 && leaders == [leader] && standbys.len() == 2, || {
            format!("{leaders:?} of {pods:?} lead, and not {leader}; {standbys:?} do not")
        })
    });
}

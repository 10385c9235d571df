//! Mistakes that only the cluster shows become a condition with a sentence, and captured addresses stay captured.

use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, NODE_NAMESPACE, NODES, RestoreOnDrop, WAIT_TIMEOUT, captured, condition_of, ensure, exclusive_tier,
    kubectl, node_pod, patch_tier, query, wait_until, wait_until_degraded, wait_until_ready,
};

#[test]
fn a_missing_cluster_dns_service_is_told_and_the_last_good_state_stays() {
    require!(require::lab());
    let _tier = exclusive_tier();
    patch_tier(r#"{"spec":{"clusterDns":{"name":"no-such-dns","namespace":"kube-system"}}}"#);
    wait_until_degraded("the Service is named", &["kube-system/no-such-dns"]);
    assert_tier_serves();
}

#[test]
fn a_zone_without_a_node_is_told_and_the_others_stay() {
    require!(require::lab());
    let _tier = exclusive_tier();
    patch_tier(r#"{"spec":{"resolvers":{"zones":["zone-a","zone-b","zone-c","zone-z"]}}}"#);
    wait_until_degraded("the zone is named", &["zone-z"]);
    assert_tier_serves();
}

#[test]
fn of_two_tiers_that_want_one_address_the_younger_one_gives_way_and_says_so() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let younger = "{apiVersion: dnstier.io/v1alpha1, kind: DnsTier, metadata: {name: younger}}";
    let _removal = RestoreOnDrop(|| drop(kubectl(&["delete", "dnstier", "younger", "--ignore-not-found"])));
    lab().kubectl_with_input(&["apply", "-f", "-"], younger).expect("the API server knows nothing against it");
    let ready = wait_until("the younger tier says who has the address", WAIT_TIMEOUT, || {
        let ready = condition_of("younger", "Ready")?;
        ensure(ready.0 == "False" && ready.1 == "AddressTaken", || format!("{ready:?}"))?;
        Ok(ready)
    });
    assert!(ready.2.contains("default"), "{ready:?}");
    assert_tier_serves();
}

#[test]
fn what_the_api_server_forbids_is_told_with_the_command_that_helps() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let _role = RestoreOnDrop(|| lab().install().expect("the role is back"));
    kubectl(&["delete", "rolebinding", "-n", "kube-system", "-l", "app.kubernetes.io/part-of=dnstier"]);
    kubectl(&["delete", "service", "-n", "kube-system", "dnstier-default-cluster-dns"]);
    wait_until_degraded("the refusal is told", &["services", "kube-system", "kubectl"]);
    assert_tier_serves();
}

#[test]
fn a_namespace_that_refuses_node_pods_is_told_with_the_command_that_helps() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let level = |level: &str| {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        kubectl(&["label", "namespace", NODE_NAMESPACE, "--overwrite", &label])
    };
    let privileged = RestoreOnDrop(|| drop(level("privileged")));
    level("restricted");
    kubectl(&["delete", "pod", "-n", NODE_NAMESPACE, &node_pod("node-c").expect("a node pod").name]);
    wait_until_degraded("the level is told", &["kubectl label namespace", NODE_NAMESPACE, "privileged"]);
    let response = query("node-c", &["shop.example", "--server", CLUSTER_DNS]);
    assert_eq!(response.rcode, "NOERROR", "the cluster DNS answers on that node meanwhile");
    drop(privileged);
    wait_until_ready();
}

#[test]
fn an_image_that_the_admission_policy_refuses_is_told_with_the_value_that_admits_it() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let images = || {
        let path = "jsonpath={.items[*].spec.template.spec.containers[*].image}";
        kubectl(&["get", "daemonset", "-n", NODE_NAMESPACE, "-o", path])
    };
    let before = images();
    patch_tier(r#"{"spec":{"nodeCache":{"image":"mirror.example/dnstier-node-cache:1"}}}"#);
    let image = "image mirror.example/dnstier-node-cache:1 ";
    wait_until_degraded("the value is named", &["spec.nodeCache.image", image, "admissionPolicy.extraImages"]);
    let stalled = condition_of("default", "Stalled");
    assert!(stalled.as_ref().is_ok_and(|stalled| stalled.0 == "True" && stalled.1 == "Forbidden"), "{stalled:?}");
    assert_eq!(images(), before);
    assert_tier_serves();

    patch_tier(r#"{"spec":{"nodeCache":{"image":null},"resolvers":{"image":"mirror.example/dnstier-node-cache:1"}}}"#);
    wait_until_degraded("the value is named", &["spec.resolvers.image", image, "admissionPolicy.extraImages"]);
    assert_tier_serves();
    patch_tier(r#"{"spec":{"resolvers":{"image":null}}}"#);
    wait_until_ready();
}

fn assert_tier_serves() {
    for node in NODES {
        if let Err(actual) = captured(node) {
            panic!("what was captured stays so, but {actual}");
        }
        assert_eq!(query(node, &["shop.example", "--server", CLUSTER_DNS]).rcode, "NOERROR");
    }
}

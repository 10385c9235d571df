//! A changed configuration is rolled out to every node and restarts nothing; an invalid one is rejected.

use std::time::Instant;

use dnstier_tests::require;
use node_cache_config::names::{REVISION_ANNOTATION, revision_key};

use crate::tier::{
    CLUSTER_DNS, NAMESPACE, NODE_NAMESPACE, NODES, Pod, RestoreOnDrop, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl,
    kubectl_json, node_pod, node_pods, node_status, patch_tier, query, wait_until, wait_until_ready,
};

#[test]
fn a_route_is_rolled_out_to_every_node_and_restarts_nothing() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let before = node_pods();
    let routes = kubectl_json(&["get", "dnstier", "default"])["spec"]["routes"].clone();
    // No zone of the lab's world has this suffix; the cluster DNS answers it with NXDOMAIN, so a response other than
    // SERVFAIL from an upstream that refuses everything shows the route.
    patch_tier(r#"{"spec":{"routes":[{"suffix":"routed.test","upstreams":[{"addresses":["169.254.169.253"]}]}]}}"#);
    wait_until_active_everywhere(|config| config["routes"][0]["suffix"] == "routed.test");
    for node in NODES {
        let status = node_status(node).expect("a status");
        let scopes: Vec<_> =
            status.instances.iter().flat_map(|instance| &instance.upstreams).map(|u| &u.scope).collect();
        assert!(scopes.iter().any(|scope| *scope == "route/routed.test"), "{node}: {scopes:?}");
    }
    assert_no_restart(&before);
    patch_tier(&serde_json::json!({"spec": {"routes": routes}}).to_string());
    wait_until_ready();
}

#[test]
fn a_cap_on_ttls_is_rolled_out_to_every_node_and_restarts_nothing() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let before = node_pods();
    for node in NODES {
        query(node, &["shop.example", "--server", CLUSTER_DNS]);
    }
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"7s"}}}}"#);
    wait_until_active_everywhere(|config| config["nodeCache"]["cache"]["maxTtl"] == 7);
    for node in NODES {
        let response = query(node, &["shop.example", "--server", CLUSTER_DNS]);
        assert!(response.answers.iter().all(|record| record.ttl <= 7), "{node}: {response:?}");
    }
    assert_no_restart(&before);
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_until_ready();
}

#[test]
fn private_answers_are_refused_on_every_node_and_allowed_again_and_nothing_restarts() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let before = node_pods();
    let addresses = |name: &str| {
        let of_node = |node| {
            let response = query(node, &[name, "--server", CLUSTER_DNS]);
            assert_eq!(response.rcode, "NOERROR", "{name} on {node}: {response:?}");
            response.data("A").map(str::to_owned).collect::<Vec<_>>()
        };
        NODES.map(of_node)
    };
    let api_server = || NODES.map(|_| vec!["10.96.0.1".to_owned()]);
    assert_eq!(addresses("inside.partner.test"), api_server(), "by default every answer is passed on");

    patch_tier(r#"{"spec":{"nodeCache":{"privateAnswers":"Refuse"}}}"#);
    wait_until_active_everywhere(|config| config["nodeCache"]["privateAnswers"] == "Refuse");
    wait_until("the outside name is refused", WAIT_TIMEOUT, || {
        let found = addresses("inside.partner.test");
        ensure(found.iter().all(Vec::is_empty), || format!("{found:?}"))
    });
    assert_eq!(addresses("partner.test"), NODES.map(|_| vec!["198.51.100.70".to_owned()]));
    assert_eq!(addresses("kubernetes.default.svc.cluster.local"), api_server(), "names of the cluster are exempt");

    // A kubelet that is still busy with one change of a pod's annotations may see the next one a minute later.
    wait_until_ready();
    patch_tier(r#"{"spec":{"nodeCache":{"privateAnswers":null}}}"#);
    wait_until_active_everywhere(|config| config["nodeCache"]["privateAnswers"].is_null());
    wait_until("the outside name is answered", WAIT_TIMEOUT, || {
        let found = addresses("inside.partner.test");
        ensure(found == api_server(), || format!("{found:?}"))
    });
    assert_no_restart(&before);
    wait_until_ready();
}

#[test]
fn a_revision_that_the_process_refuses_is_kept_out_and_told() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let in_force = node_status("node-a").expect("a status").revision.in_force;
    // The operator never writes such a revision, and would remove it again: it is scaled to zero.
    let scale = |replicas: &str| kubectl(&["scale", "-n", NAMESPACE, "deployment/dnstier-operator", replicas]);
    scale("--replicas=0");
    let operator = RestoreOnDrop(|| drop(scale("--replicas=3")));
    let selector = "app.kubernetes.io/component=operator";
    wait_until("the operator is gone", WAIT_TIMEOUT, || {
        let pods = kubectl(&["get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "name"]);
        ensure(pods.is_empty(), || pods.clone())
    });
    let broken = serde_json::json!({"data": {revision_key("broken"): "{\"tier\": \"default\"}"}});
    kubectl(&[
        "patch",
        "configmap",
        "dnstier-default-revisions",
        "-n",
        NODE_NAMESPACE,
        "--type=merge",
        "-p",
        &broken.to_string(),
    ]);
    let pod = node_pod("node-a").expect("a node pod");
    kubectl(&[
        "annotate",
        "pod",
        "-n",
        NODE_NAMESPACE,
        &pod.name,
        "--overwrite",
        &format!("{REVISION_ANNOTATION}=broken"),
    ]);

    let refusal = wait_until("the refusal is told", WAIT_TIMEOUT, || {
        let revision = node_status("node-a")?.revision;
        ensure(revision.asked.as_deref() == Some("broken") && revision.in_force == in_force, || {
            format!("{revision:?}")
        })?;
        revision.refusal.ok_or_else(|| "no refusal".to_owned())
    });
    assert!(refusal.contains("clusterDomain") || refusal.contains("broken"), "{refusal}");
    assert_eq!(query("node-a", &["shop.example", "--server", CLUSTER_DNS]).rcode, "NOERROR");

    drop(operator);
    wait_until_ready();
}

/// Waits until a configuration with this property is in force on all nodes.
fn wait_until_active_everywhere(has_property: impl Fn(&serde_json::Value) -> bool) {
    let start = Instant::now();
    wait_until("the new revision is in force everywhere", WAIT_TIMEOUT, || {
        let map = kubectl_json(&["get", "configmap", "-n", NODE_NAMESPACE, "dnstier-default-revisions"]);
        for node in NODES {
            let revision = node_status(node)?.revision.in_force.ok_or("no revision")?;
            let config =
                map["data"][revision_key(&revision)].as_str().ok_or_else(|| format!("no key for {revision}"))?;
            let config = serde_json::from_str(config).map_err(|error| error.to_string())?;
            ensure(has_property(&config), || format!("{node} still has {revision}"))?;
        }
        Ok(())
    });
    eprintln!("in force on all nodes after {:?}", start.elapsed());
}

fn assert_no_restart(before: &[Pod]) {
    let after = node_pods();
    let of = |pods: &[Pod]| pods.iter().map(|pod| (pod.uid.clone(), pod.restarts)).collect::<Vec<_>>();
    assert_eq!(of(&after), of(before), "pods and their containers stay as they were");
}

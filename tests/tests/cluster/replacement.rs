//! Pods are replaced, agents restarted and configurations changed under a flood of single tries to the address of the
//! cluster DNS, and not one query is lost. node-c runs kube-proxy in iptables mode, the others in nftables mode.

use dnstier_tests::lab::Signal;
use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, NODES, WAIT_TIMEOUT, ensure, exclusive_tier, node_pod, node_pods, patch_tier, signal, wait_until,
    wait_until_ready,
};
use crate::watch::flood_from_all_nodes;

/// Queries a second from each node.
const RATE: u32 = 200;

#[test]
fn a_new_image_loses_no_query() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let before = node_pods();
    let image = lab().image("dnstier-node-cache").expect("the image");
    let other = lab().alias_image(&image, "next").expect("a second name for the same image");
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    patch_tier(&serde_json::json!({"spec": {"nodeCache": {"image": other}}}).to_string());
    wait_until("every node pod is a new one", 2 * WAIT_TIMEOUT, || {
        let now = node_pods();
        let replaced = |node: &str| {
            let uid = |pods: &[crate::tier::Pod]| pods.iter().find(|pod| pod.node == node).map(|pod| pod.uid.clone());
            uid(&now).is_some() && uid(&now) != uid(&before)
        };
        ensure(NODES.iter().all(|node| replaced(node)), || format!("{now:?}"))
    });
    wait_until_ready();
    flood.assert_none_lost();
    patch_tier(r#"{"spec":{"nodeCache":{"image":null}}}"#);
    wait_until("the roll-out back has begun", WAIT_TIMEOUT, || {
        let ready = crate::tier::condition("Progressing")?;
        ensure(ready.0 == "True", || format!("{ready:?}"))
    });
    wait_until_ready();
}

#[test]
fn a_restarted_agent_loses_no_query() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    for node in NODES {
        let pod = node_pod(node).expect("a node pod");
        signal(node, "agent", Signal::KILL);
        wait_until("the agent was started again", WAIT_TIMEOUT, || {
            let now = node_pod(node)?;
            ensure(now.restarts > pod.restarts && now.ready, || format!("{now:?}"))
        });
    }
    wait_until_ready();
    flood.assert_none_lost();
}

#[test]
fn a_changed_configuration_loses_no_query() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    for maximum in ["10s", "20s", "30s"] {
        patch_tier(&format!(r#"{{"spec":{{"nodeCache":{{"cache":{{"maxTtl":"{maximum}"}}}}}}}}"#));
        std::thread::sleep(std::time::Duration::from_secs(2));
        wait_until_ready();
    }
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_until_ready();
    flood.assert_none_lost();
}

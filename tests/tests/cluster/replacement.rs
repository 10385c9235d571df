//! Pods are replaced, agents restarted and configurations changed under a flood of single tries to the address of the
//! cluster DNS, and not one query is lost. node-c runs kube-proxy in iptables mode, the others in nftables mode.

use dnstier_tests::lab::Signal;
use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, GENEROUS, NODES, eventually, node_pod, node_pods, patch_tier, seen, signal, turn, whole,
};
use crate::watch::flood_everywhere;

/// Questions a second from each node.
const RATE: u32 = 200;

#[test]
fn a_new_image_loses_no_query() {
    require!(require::lab());
    let _turn = turn();
    let before = node_pods();
    let image = lab().image("dnstier-node-cache").expect("the image");
    let other = lab().alias_image(&image, "next").expect("a second name for the same image");
    let flood = flood_everywhere(CLUSTER_DNS, RATE);
    patch_tier(&serde_json::json!({"spec": {"nodeCache": {"image": other}}}).to_string());
    eventually("every node pod is a new one", 2 * GENEROUS, || {
        let now = node_pods();
        let replaced = |node: &str| {
            let uid = |pods: &[crate::tier::Pod]| pods.iter().find(|pod| pod.node == node).map(|pod| pod.uid.clone());
            uid(&now).is_some() && uid(&now) != uid(&before)
        };
        seen(NODES.iter().all(|node| replaced(node)), || format!("{now:?}"))
    });
    whole();
    flood.nothing_lost();
    patch_tier(r#"{"spec":{"nodeCache":{"image":null}}}"#);
    eventually("the roll-out back has begun", GENEROUS, || {
        let ready = crate::tier::condition("Progressing")?;
        seen(ready.0 == "True", || format!("{ready:?}"))
    });
    whole();
}

#[test]
fn a_restarted_agent_loses_no_query() {
    require!(require::lab());
    let _turn = turn();
    let flood = flood_everywhere(CLUSTER_DNS, RATE);
    for node in NODES {
        let pod = node_pod(node).expect("a node pod");
        signal(node, "agent", Signal::KILL);
        eventually("the agent was started again", GENEROUS, || {
            let now = node_pod(node)?;
            seen(now.restarts > pod.restarts && now.ready, || format!("{now:?}"))
        });
    }
    whole();
    flood.nothing_lost();
}

#[test]
fn a_changed_configuration_loses_no_query() {
    require!(require::lab());
    let _turn = turn();
    let flood = flood_everywhere(CLUSTER_DNS, RATE);
    for maximum in ["10s", "20s", "30s"] {
        patch_tier(&format!(r#"{{"spec":{{"nodeCache":{{"cache":{{"maxTtl":"{maximum}"}}}}}}}}"#));
        std::thread::sleep(std::time::Duration::from_secs(2));
        whole();
    }
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    whole();
    flood.nothing_lost();
}

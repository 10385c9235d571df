//! The tier and the chart are taken away, in either order, while pods ask all the time: nothing fails and nothing is
//! left behind.

use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, GENEROUS, LINK_LOCAL, NAMESPACE, NODE_NAMESPACE, NODES, eventually, kubectl, kubectl_json, seen, turn,
    whole,
};
use crate::watch::patient;

#[test]
fn deleting_the_tier_and_then_the_chart_fails_no_query_and_leaves_nothing() {
    require!(require::lab());
    let _turn = turn();
    let watch = patient(&NODES, &[CLUSTER_DNS]);
    kubectl(&["delete", "dnstier", "default", "--wait=true"]);
    nothing_is_left_on_any_node();
    lab().uninstall().expect("the chart goes");
    nothing_is_left_in_the_cluster();
    watch.nothing_failed_but_for(2);
    lab().install().expect("the chart comes back");
    whole();
}

#[test]
fn uninstalling_the_chart_and_then_deleting_the_tier_fails_no_query_and_leaves_nothing() {
    require!(require::lab());
    let _turn = turn();
    let watch = patient(&NODES, &[CLUSTER_DNS]);
    lab().uninstall().expect("the chart goes");
    kubectl(&["delete", "dnstier", "default", "--wait=true"]);
    nothing_is_left_on_any_node();
    nothing_is_left_in_the_cluster();
    watch.nothing_failed_but_for(2);
    lab().install().expect("the chart comes back");
    whole();
}

fn nothing_is_left_on_any_node() {
    for name in NODES {
        let node = lab().node(name).expect("a node");
        let run = |command: &[&str]| node.run(command).map_err(|error| format!("{error:#}"));
        eventually("nothing is left on the node", GENEROUS, || {
            let addresses = run(&["ip", "-o", "address", "show", "dev", "lo"])?;
            seen(!addresses.contains(LINK_LOCAL) && !addresses.contains(CLUSTER_DNS), || addresses.clone())?;
            let tables = run(&["nft", "list", "tables"])?;
            seen(!tables.contains("dnstier"), || tables.clone())?;
            let sockets = run(&["ss", "-lntup"])?;
            let ours = ["node-agent", "node-cache", "zone-resolver"];
            seen(!ours.iter().any(|process| sockets.contains(process)), || sockets.clone())
        });
    }
}

fn nothing_is_left_in_the_cluster() {
    let kinds = "all,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings";
    let labelled = "app.kubernetes.io/part-of=dnstier";
    eventually("no object is left", GENEROUS, || {
        for namespace in [NAMESPACE, NODE_NAMESPACE, "kube-system"] {
            let list = kubectl_json(&["get", kinds, "-n", namespace, "-l", labelled]);
            let items = list["items"].as_array().expect("a list");
            let names: Vec<_> =
                items.iter().map(|item| format!("{} {}", item["kind"], item["metadata"]["name"])).collect();
            seen(names.is_empty(), || format!("{names:?}"))?;
        }
        Ok(())
    });
}

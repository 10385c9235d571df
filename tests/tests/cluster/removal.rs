//! The tier and the chart are removed, in either order, while pods send queries: no query fails and nothing is left
//! behind.

use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, LINK_LOCAL, NAMESPACE, NODE_NAMESPACE, NODES, WAIT_TIMEOUT, ensure, exclusive_tier, kubectl,
    kubectl_json, wait_until, wait_until_ready,
};
use crate::watch::stub_clients;

#[test]
fn deleting_the_tier_and_then_the_chart_fails_no_query_and_leaves_nothing() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let watch = stub_clients(&NODES, &[CLUSTER_DNS]);
    kubectl(&["delete", "dnstier", "default", "--wait=true"]);
    wait_until_nodes_are_clean();
    lab().uninstall().expect("the chart goes");
    wait_until_cluster_is_clean();
    watch.assert_servfail_at_most(2);
    lab().install().expect("the chart comes back");
    wait_until_ready();
}

#[test]
fn uninstalling_the_chart_and_then_deleting_the_tier_fails_no_query_and_leaves_nothing() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let watch = stub_clients(&NODES, &[CLUSTER_DNS]);
    lab().uninstall().expect("the chart goes");
    kubectl(&["delete", "dnstier", "default", "--wait=true"]);
    wait_until_nodes_are_clean();
    wait_until_cluster_is_clean();
    watch.assert_servfail_at_most(2);
    lab().install().expect("the chart comes back");
    wait_until_ready();
}

fn wait_until_nodes_are_clean() {
    for name in NODES {
        let node = lab().node(name).expect("a node");
        let run = |command: &[&str]| node.run(command).map_err(|error| format!("{error:#}"));
        wait_until("nothing is left on the node", WAIT_TIMEOUT, || {
            let addresses = run(&["ip", "-o", "address", "show", "dev", "lo"])?;
            ensure(!addresses.contains(LINK_LOCAL) && !addresses.contains(CLUSTER_DNS), || addresses.clone())?;
            let tables = run(&["nft", "list", "tables"])?;
            ensure(!tables.contains("dnstier"), || tables.clone())?;
            let sockets = run(&["ss", "-lntup"])?;
            let ours = ["node-agent", "node-cache", "zone-resolver"];
            ensure(!ours.iter().any(|process| sockets.contains(process)), || sockets.clone())
        });
    }
}

fn wait_until_cluster_is_clean() {
    let kinds = "all,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies,\
                 roles,rolebindings,clusterroles,clusterrolebindings,\
                 validatingadmissionpolicies,validatingadmissionpolicybindings";
    let labelled = "app.kubernetes.io/part-of=dnstier";
    wait_until("no object is left", WAIT_TIMEOUT, || {
        for namespace in [NAMESPACE, NODE_NAMESPACE, "kube-system"] {
            let list = kubectl_json(&["get", kinds, "-n", namespace, "-l", labelled]);
            let items = list["items"].as_array().expect("a list");
            let names: Vec<_> =
                items.iter().map(|item| format!("{} {}", item["kind"], item["metadata"]["name"])).collect();
            ensure(names.is_empty(), || format!("{names:?}"))?;
        }
        Ok(())
    });
}

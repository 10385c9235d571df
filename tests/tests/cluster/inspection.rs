//! Inspection of caches and resolvers with the programs in their own containers.

use dnstier_tests::require;

use crate::tier::{NAMESPACE, NODE_NAMESPACE, exclusive_tier, kubectl, node_pod, pods, query};

#[test]
fn caches_and_resolvers_explain_and_forget_answers_in_their_own_containers() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let name = "inspected.wild.example";
    assert!(!query("node-a", &[name]).answers.is_empty());
    let pod = node_pod("node-a").expect("a node pod");
    let cache = ["exec", "-n", NODE_NAMESPACE, &pod.name, "-c", "cache-0", "--", "/node-cache"];
    let run = |words: &[&str]| kubectl(&[&cache, words].concat());
    let explained = run(&["explain", name]);
    for part in ["cache-0:\n", "cache-1:\n", "  route           outside\n", "(zone/zone-a) up\n"] {
        assert!(explained.contains(part), "{part:?} is not in\n{explained}");
    }
    assert!(explained.contains("  cache           this query: NOERROR, "), "{explained}");
    assert!(run(&["flush", "wild.example", "--below"]).contains(" entries flushed\n"));
    let flushed = run(&["explain", name]);
    assert_eq!(flushed.matches("  cache           no entry\n").count(), 2, "{flushed}");
    assert!(run(&["stats"]).contains("  queries         "));

    let resolvers = pods(NAMESPACE, "zone-resolver");
    let dumps = resolvers
        .iter()
        .map(|pod| kubectl(&["exec", "-n", NAMESPACE, &pod.name, "--", "/zone-resolver", "dump", "wild.example"]));
    assert!(
        dumps.into_iter().any(|dump| dump.contains(&format!("{name}. A [forward]: NOERROR, "))),
        "a resolver asked"
    );
}

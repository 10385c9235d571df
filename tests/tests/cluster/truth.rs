//! `kubectl get dnstier` and the conditions are correct while one part after the other is removed.

use dnstier_tests::lab::Signal;
use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    RestoreOnDrop, WAIT_TIMEOUT, condition, ensure, exclusive_tier, kubectl, node_pod, signal_container,
    stop_kubelet_until_drop, wait_until, wait_until_one_is_away, wait_until_ready,
};

#[test]
fn the_columns_count_what_is_there() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let columns = columns();
    let column = |name: &str| columns.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str());
    assert_eq!(column("NAME"), Some("default"));
    assert_eq!(column("READY"), Some("3/3"));
    assert_eq!(column("RESOLVERS"), Some("6/6"));
    assert_eq!(column("ZONES"), Some("3"));
    assert_eq!(column("UPDATED"), Some("3/3"));
    assert_eq!(column("STEP"), Some("Done"));
    assert!(column("REVISION").is_some_and(|revision| revision.len() == 10), "{columns:?}");
    for name in ["PHASE", "QPS", "HIT%", "SERVFAIL%", "THROTTLED", "MESSAGE"] {
        assert!(column(name).is_some(), "{name}: {columns:?}");
    }
}

#[test]
fn a_node_pod_that_cannot_answer_is_not_counted_as_ready() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let pod = node_pod("node-b").expect("a node pod");
    let kubelet = stop_kubelet_until_drop("node-b");
    for container in ["cache-0", "cache-1", "agent"] {
        signal_container("node-b", &pod.uid, container, Signal::KILL).expect("the process is there");
    }
    wait_until("the columns say that a node is missing", WAIT_TIMEOUT, || {
        let columns = columns();
        ensure(columns.contains(&("READY".to_owned(), "2/3".to_owned())), || format!("{columns:?}"))
    });
    // Its kubelet is silent: the node is away, and not a problem of the tier.
    wait_until_one_is_away();
    drop(kubelet);
    wait_until_ready();
}

#[test]
fn a_dead_upstream_is_a_condition_and_makes_nothing_unready() {
    require!(require::lab());
    let _tier = exclusive_tier();
    lab().world().stop_provider().expect("the provider's resolver stops");
    let provider = RestoreOnDrop(|| lab().world().start_provider().expect("the provider's resolver starts"));
    let mut number = 0;
    let degraded = wait_until("the condition names the upstream", WAIT_TIMEOUT, || {
        // Only a query shows the loss.
        number += 1;
        let name = format!("dead-{number}.wild.example");
        let _ = crate::tier::try_query("node-a", &[&name, "--tries", "1", "--timeout", "200"]);
        let degraded = condition("Degraded")?;
        ensure(degraded.0 == "True" && degraded.2.contains("169.254.169.253"), || format!("{degraded:?}"))?;
        Ok(degraded)
    });
    eprintln!("{degraded:?}");
    let ready = condition("Ready").expect("a condition");
    drop(provider);
    assert_eq!(ready.0, "True", "{ready:?}");
    wait_until("the upstream is well again", WAIT_TIMEOUT, || {
        let degraded = condition("Degraded")?;
        ensure(degraded.0 == "False", || format!("{degraded:?}"))
    });
    wait_until_ready();
}

/// Returns the columns of `kubectl get dnstier -o wide`, with their headers.
fn columns() -> Vec<(String, String)> {
    let table = kubectl(&["get", "dnstier", "-o", "wide"]);
    let mut lines = table.lines();
    let headers = lines.next().unwrap_or_default();
    let values = lines.next().unwrap_or_default();
    // Columns are aligned: a value stands below its header.
    let starts: Vec<usize> = headers.split_whitespace().filter_map(|header| headers.find(header)).collect();
    let value = |index: usize| {
        let end = starts.get(index + 1).copied().unwrap_or(values.len()).min(values.len());
        values.get(starts[index]..end).unwrap_or_default().trim().to_owned()
    };
    headers.split_whitespace().enumerate().map(|(index, header)| (header.to_owned(), value(index))).collect()
}

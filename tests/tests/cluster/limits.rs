//! The provider's resolver drops what is above its limit without a word: the tier sends it no more for that, finds the
//! limit, and says so. A packet budget keeps it below a limit that is known.

use std::time::Duration;

use dnstier_tests::flood::Report;
use dnstier_tests::lab::{PROVIDER, PUBLIC_RESOLVER};
use dnstier_tests::require;

use crate::lab;
use crate::tier::{
    CLUSTER_DNS, NAMESPACE, NODES, RestoreOnDrop, TIER, WAIT_TIMEOUT, condition, ensure, exclusive_tier, get, kubectl,
    kubectl_json, patch_tier, pods, wait_until, wait_until_ready,
};
use crate::watch::{Clients, flood_of_names_from_all_nodes};

/// Packets a second that the provider takes of each node: in the proportion of an outage that was seen, and few enough
/// for a machine on which three nodes share two processors.
const LIMIT: u32 = 80;
/// New names a second of each node.
const RATE: u32 = 120;
/// Time for which they are queried: many times that of one query.
const DURATION: Duration = Duration::from_secs(20);
/// Packets to the provider for each query of a client, in percent, at most.
const MAX_PACKETS_PERCENT: u64 = 130;

/// Limit, and queries of each node, where a limit is to be found: it takes processors that have time to look.
const FOUND_LIMIT: u32 = 40;
const FOUND_RATE: u32 = 80;
/// Time in which a resolver learns what is usual.
const LEARNING_TIME: Duration = Duration::from_secs(8);
/// Time from a limit on after which all is answered.
const ESCAPE_TIME: Duration = Duration::from_secs(3);

/// Packet budget of a node, and queries of each node that are more.
const BUDGET: u32 = 60;
const RATE_ABOVE_BUDGET: u32 = 100;

#[test]
fn a_provider_with_a_silent_limit_gets_at_most_1_3_packets_for_each_query_and_no_query_is_lost() {
    require!(require::lab());
    let _tier = exclusive_tier();
    wait_until_ready();
    let world = lab().world();
    world.limit_provider(LIMIT).expect("a limit");
    let _limit = RestoreOnDrop(|| drop(lab().world().unlimit_provider()));
    let flood = flood_of_names_from_all_nodes(CLUSTER_DNS, RATE, "*.many");
    std::thread::sleep(DURATION);
    let reports = flood.stop();
    let [offered, dropped] = world.limited_packets().expect("counters");
    let sent: u64 = reports.iter().map(|(_, report)| report.sent).sum();
    let answered: u64 = reports.iter().filter_map(|(_, report)| report.rcodes.get("NOERROR")).sum();
    let lost: u64 = reports.iter().map(|(_, report)| report.lost).sum();
    eprintln!(
        "{sent} queries of {} nodes, {answered} answered, {lost} lost; {offered} packets to the provider, {dropped} \
         dropped: {:.2} packets for each query",
        NODES.len(),
        offered as f64 / sent as f64
    );
    // Hardly more than in the second before each resolver has found it.
    assert!(dropped > sent / 100, "the limit was met: {dropped} of {offered} packets dropped, {reports:?}");
    assert!(offered * 100 <= sent * MAX_PACKETS_PERCENT, "{offered} packets for {sent} queries: {reports:?}");
    assert!(lost * 1_000 <= sent, "each query has a response, if only SERVFAIL: {reports:?}");
}

/// Waits until no limit is told, of another test either: resolvers remember it for a while.
fn wait_until_nothing_throttles() {
    wait_until("the condition forgets the limit", 3 * WAIT_TIMEOUT, || {
        let throttled = condition("UpstreamThrottled")?;
        ensure(throttled.0 != "True", || format!("{throttled:?}"))
    });
}

/// Returns the queries of a flood and those that were answered.
fn sent_and_answered(flood: Clients<Report>) -> (u64, u64) {
    let reports = flood.stop();
    let sent = reports.iter().map(|(_, report)| report.sent).sum();
    (sent, reports.iter().filter_map(|(_, report)| report.rcodes.get("NOERROR")).sum())
}

/// Returns whether the tier has an event with this reason and a note that contains this text.
fn has_event(reason: &str, text: &str) -> bool {
    let selector = format!("involvedObject.kind=DnsTier,involvedObject.name={TIER},reason={reason}");
    let events = kubectl_json(&["get", "events", "-A", "--field-selector", &selector]);
    let events = events["items"].as_array().expect("a list of events");
    events.iter().any(|event| event["message"].as_str().is_some_and(|message| message.contains(text)))
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_limit_that_appears_is_told_its_excess_goes_to_the_fallback_and_it_is_forgotten_when_it_is_gone() {
    require!(require::lab());
    let _tier = exclusive_tier();
    patch_tier(&format!(r#"{{"spec": {{"resolvers": {{"fallback": [{{"addresses": ["{PUBLIC_RESOLVER}"]}}]}}}}}}"#));
    wait_until_ready();
    let flood = flood_of_names_from_all_nodes(CLUSTER_DNS, FOUND_RATE, "*.many");
    wait_until("the traffic is enough to find a limit", WAIT_TIMEOUT, || {
        let throttled = condition("UpstreamThrottled")?;
        ensure(throttled.1 == "WithinLimits", || format!("{throttled:?}"))
    });
    std::thread::sleep(LEARNING_TIME);
    lab().world().limit_provider(FOUND_LIMIT).expect("a limit");
    let limit = RestoreOnDrop(|| drop(lab().world().unlimit_provider()));
    let limited_at = std::time::Instant::now();
    std::thread::sleep(ESCAPE_TIME);
    let measured = flood_of_names_from_all_nodes(CLUSTER_DNS, FOUND_RATE / 4, "*.many");
    let message = wait_until("the condition tells the limit", WAIT_TIMEOUT, || {
        let throttled = condition("UpstreamThrottled")?;
        let is_told = throttled.0 == "True" && throttled.1 == "LimitFound";
        ensure(is_told, || format!("{throttled:?}")).map(|()| throttled.2)
    });
    eprintln!("told {:.1} s after the limit: {message}", limited_at.elapsed().as_secs_f64());
    assert!(message.starts_with(&format!("Upstream {PROVIDER} answers ")), "{message}");
    assert!(message.contains(&format!("/s go to {PUBLIC_RESOLVER}")) && message.contains("set packetBudget to "));
    assert!(condition("Degraded").expect("a condition").2.contains(&format!("Upstream {PROVIDER} answers ")));
    assert_eq!(condition("Ready").expect("a condition").0, "True");
    let columns = kubectl(&["get", "dnstier", TIER, "-o", "wide"]);
    assert!(columns.contains("THROTTLED") && columns.contains(&format!(" {PROVIDER} ")), "{columns}");
    wait_until("an event tells it", WAIT_TIMEOUT, || {
        ensure(has_event("LimitFound", &format!("Upstream {PROVIDER} answers ")), || "no event".to_owned())
    });
    drop(limit);
    let gone_at = std::time::Instant::now();
    let (sent, answered) = sent_and_answered(measured);
    eprintln!("{answered} of {sent} queries answered from {ESCAPE_TIME:?} after the limit on");
    assert!((sent - answered) * 100 <= sent, "{answered} of {sent} queries answered");
    wait_until_nothing_throttles();
    eprintln!("forgotten {:.1} s after its end", gone_at.elapsed().as_secs_f64());
    let (sent, answered) = sent_and_answered(flood);
    eprintln!("{answered} of {sent} queries answered in all");
}

/// Returns the value of a metric of a resolver.
fn metric(pod: &str, series: &str) -> Option<f64> {
    let page = get(NAMESPACE, pod, 9153, "metrics").ok()?;
    let line = page.lines().find(|line| line.starts_with(series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn two_resolvers_of_a_node_divide_its_packet_budget_and_a_need_above_it_is_told() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let budget = format!(r#"{{"addresses": ["{PROVIDER}"], "packetBudget": {{"packetsPerSecond": {BUDGET}}}}}"#);
    patch_tier(&format!(r#"{{"spec": {{"resolvers": {{"upstreams": [{budget}]}}}}}}"#));
    wait_until_ready();
    wait_until("each of two resolvers of a node has half of the budget", WAIT_TIMEOUT, || {
        let resolvers = pods(NAMESPACE, "zone-resolver");
        let budgets: Vec<Option<f64>> =
            resolvers.iter().map(|pod| metric(&pod.name, "dnstier_cache_upstream_budget{")).collect();
        let on_node = |node: &str| resolvers.iter().filter(|pod| pod.node == node).count();
        let is_divided = NODES.iter().all(|node| on_node(node) == 2);
        let half = Some(f64::from(BUDGET / 2));
        ensure(is_divided && budgets.iter().all(|budget| *budget == half), || format!("{resolvers:?}: {budgets:?}"))
    });
    wait_until_nothing_throttles();
    let flood = flood_of_names_from_all_nodes(CLUSTER_DNS, RATE_ABOVE_BUDGET, "*.many");
    let message = wait_until("the condition tells the need", WAIT_TIMEOUT, || {
        let throttled = condition("UpstreamThrottled")?;
        ensure(throttled.1 == "BudgetSpent", || format!("{throttled:?}")).map(|()| throttled.2)
    });
    assert!(message.starts_with(&format!("Upstream {PROVIDER} needs ")), "{message}");
    let annotations = kubectl(&[
        "get",
        "pods",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/component=zone-resolver",
        "-o",
        "jsonpath={.items[*].metadata.annotations.dnstier\\.io/resolvers-on-node}",
    ]);
    assert_eq!(annotations.split_whitespace().collect::<Vec<_>>(), ["2"; 6], "{annotations}");
    drop(flood.stop());
}

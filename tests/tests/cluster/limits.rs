//! The provider's resolver drops what is above its limit without a word, and the tier sends it no more for that.

use std::time::Duration;

use dnstier_tests::require;

use crate::lab;
use crate::tier::{CLUSTER_DNS, NODES, RestoreOnDrop, exclusive_tier, wait_until_ready};
use crate::watch::flood_of_names_from_all_nodes;

/// Packets a second that the provider takes of each node: in the proportion of an outage that was seen, and few enough
/// for a machine on which three nodes share two processors.
const LIMIT: u32 = 80;
/// New names a second of each node.
const RATE: u32 = 120;
/// Time for which they are queried: many times that of one query.
const DURATION: Duration = Duration::from_secs(20);
/// Packets to the provider for each query of a client, in percent, at most.
const MAX_PACKETS_PERCENT: u64 = 130;

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
    assert!(dropped > sent / 10, "the limit was met: {dropped} of {offered} packets dropped, {reports:?}");
    assert!(offered * 100 <= sent * MAX_PACKETS_PERCENT, "{offered} packets for {sent} queries: {reports:?}");
    assert!(lost * 1_000 <= sent, "each query has a response, if only SERVFAIL: {reports:?}");
}

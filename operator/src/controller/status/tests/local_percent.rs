use node_cache_config::figures::ZoneQueries;

use super::*;
use crate::controller::fixtures::{change_report, set_away};
use crate::controller::observe::poll::PodPage;

/// Has a node pod tell that its caches have sent these numbers of queries since the poll before.
fn send(observed: &mut Observed, pod: &str, own: u64, other: u64) {
    change_report(observed, pod, |report| {
        *report = report.polled_again(|page| match page {
            PodPage::Node(status) => status.figures.zone_queries = Some(ZoneQueries { own, other }),
            PodPage::Resolver(_) => panic!("{pod} is a zone resolver"),
        });
    });
}

fn percents(observed: &Observed) -> Vec<(String, Option<u32>)> {
    let zones = reconciled_status(observed).zones.into_iter();
    zones.map(|zone| (zone.name, zone.local_percent)).collect()
}

fn expected(percents: [Option<u32>; 3]) -> Vec<(String, Option<u32>)> {
    ["zone-a", "zone-b", "zone-c"].map(str::to_owned).into_iter().zip(percents).collect()
}

#[test]
fn each_zone_tells_the_share_of_its_queries_that_stay_in_it_while_that_is_known() {
    let mut observed = settled();
    assert_eq!(percents(&observed), expected([None; 3]), "nobody has told anything");
    send(&mut observed, "node-pod-a", 150, 50);
    send(&mut observed, "node-pod-b", 200, 0);
    send(&mut observed, "node-pod-c", 0, 0);
    assert_eq!(percents(&observed), expected([Some(75), Some(100), None]));
    let status = reconciled_status(&observed);
    let mut observed = with_status(observed, status);
    change_report(&mut observed, "node-pod-a", |report| report.failures = 1);
    set_away(&mut observed, &["node-b"]);
    assert_eq!(percents(&observed), expected([None; 3]), "nobody tells it any more");
}

#[test]
fn an_operator_that_has_just_started_leaves_the_shares_that_it_finds() {
    let mut observed = settled();
    let mut status = reconciled_status(&observed);
    status.zones[1].local_percent = Some(40);
    observed = with_status(observed, status);
    assert_eq!(percents(&observed), expected([None, Some(40), None]));
}

//! Roll-outs in the hands of people, who pause them, go on, change their mind, and try again.

use dnstier_tests::require;

use crate::tier::{CLUSTER_DNS, condition, exclusive_tier, kubectl, patch_tier, wait_until_ready};
use crate::watch::flood_from_all_nodes;
use crate::witness::{RATE, STOPPED, Witness, target, wait_for_reason, wait_until_rolled_out};

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_paused_roll_out_stays_where_it_is_and_a_new_spec_takes_its_place() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    let witness = Witness::start();
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"20s"}}}}"#);
    wait_for_reason(&["Canary"]);
    let first = target();
    patch_tier(r#"{"spec":{"rollout":{"paused":true}}}"#);
    wait_for_reason(&["Paused"]);
    // Longer than a soak and a look: it would have gone on.
    std::thread::sleep(std::time::Duration::from_secs(15));
    let (status, reason, _) = condition("RolledOut").expect("a condition");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Paused"));
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":"21s"}},"rollout":{"paused":false}}}"#);
    wait_until_rolled_out();
    let second = target();
    let asked = witness.stop();
    let nodes = |revision: &str| {
        let of = |one: &&crate::witness::Asked| one.component == "node-cache" && one.revision == revision;
        asked.iter().filter(of).map(|one| one.zone()).collect::<Vec<_>>()
    };
    assert!(nodes(&first).len() <= 3, "no node but the first ones sees the old target: {asked:?}");
    assert_eq!(nodes(&second).len(), 6, "{asked:?}");
    // Resumed as it was, it goes on.
    patch_tier(r#"{"spec":{"nodeCache":{"cache":{"maxTtl":null}}}}"#);
    wait_for_reason(&["Canary"]);
    let third = target();
    patch_tier(r#"{"spec":{"rollout":{"paused":true}}}"#);
    wait_for_reason(&["Paused"]);
    patch_tier(r#"{"spec":{"rollout":{"paused":false}}}"#);
    wait_until_ready();
    assert_eq!(target(), third);
    flood.assert_none_lost();
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn a_target_that_was_taken_back_is_tried_again_when_somebody_asks() {
    require!(require::lab());
    let _tier = exclusive_tier();
    let flood = flood_from_all_nodes(CLUSTER_DNS, RATE);
    patch_tier(r#"{"spec":{"routes":[{"suffix":"corp.test","upstreams":[{"addresses":["192.0.2.250"]}]}]}}"#);
    wait_for_reason(&STOPPED);
    kubectl(&["annotate", "dnstier", "default", "--overwrite", "dnstier.io/retry-rollout=once-more"]);
    wait_for_reason(&["Canary"]);
    wait_for_reason(&STOPPED);
    patch_tier(r#"{"spec":{"routes":null}}"#);
    wait_until_ready();
    flood.assert_none_lost();
}

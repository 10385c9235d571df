//! Promises to users, shown on a real cluster of three zones.
//!
//! The modules follow a tier's life: the API rejects and accepts, names are resolved, parts fail, the configuration
//! changes, zones come and go, pods are replaced, nothing is written without need, status is correct, and everything is
//! removed again. All tests share one lab, which is brought up once and stays warm; a test that breaks something waits
//! until the tier is ready again before the next one begins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod chart;
mod comparison;
mod configuration;
mod crd_rules;
mod diff;
mod idempotence;
mod images;
mod inspection;
mod last_resort;
mod leadership;
mod limits;
mod metrics;
mod nodes;
mod probes;
mod refusals;
mod removal;
mod replacement;
mod resolution;
mod rights;
mod survival;
mod tier;
mod truth;
mod watch;
mod zones;

use std::sync::OnceLock;

use dnstier_tests::lab::{Lab, Options};

/// Tier that all tests begin with.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/dnstier.yaml");

/// Returns the lab that all tests share, brought up on first use.
fn lab() -> &'static Lab {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    let lab = LAB.get_or_init(|| {
        let options = Options::for_tests();
        if let Ok(warm) = Lab::open(&options.name) {
            // An earlier run may have ended in the middle of a change; there may be no tier at all.
            let _ = warm.kubectl(&["replace", "-f", EXAMPLE]);
            let _ = warm.kubectl(&["delete", "node", "--selector", nodes::MADE_UP, "--wait=false"]);
        }
        Lab::up(&options).map_err(|error| format!("{error:#}"))
    });
    lab.as_ref().unwrap_or_else(|error| panic!("the lab does not come up: {error}"))
}

//! What a user is promised, shown on a real cluster of three zones.
//!
//! The rooms follow a tier's life: the API refuses and accepts, names are answered, parts fail, the configuration
//! changes, zones come and go, pods are replaced, nothing is written without need, status tells the truth, and
//! everything is taken away again. All of them share one lab, which is brought up once and left warm; a test that
//! breaks something waits until the tier is whole again before the next one begins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod chart;
mod comparison;
mod configuration;
mod crd_rules;
mod idempotence;
mod inspection;
mod refusals;
mod removal;
mod replacement;
mod resolution;
mod survival;
mod tier;
mod truth;
mod watch;
mod zones;

use std::sync::OnceLock;

use dnstier_tests::lab::{Lab, Options};

/// The tier that all tests begin with.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/dnstier.yaml");

/// The lab that all tests share, brought up on first use.
fn lab() -> &'static Lab {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    let lab = LAB.get_or_init(|| {
        let options = Options::for_tests();
        if let Ok(warm) = Lab::open(&options.name) {
            // An earlier run may have ended in the middle of a change; there may as well be no tier at all.
            let _ = warm.kubectl(&["replace", "-f", EXAMPLE]);
        }
        Lab::up(&options).map_err(|error| format!("{error:#}"))
    });
    lab.as_ref().unwrap_or_else(|error| panic!("the lab does not come up: {error}"))
}

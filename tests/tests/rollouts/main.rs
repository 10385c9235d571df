//! Promises about changes of a configuration, shown on a real cluster with two nodes a zone: a node that has not been
//! reached yet is in each of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bad;
mod departure;
mod good;
mod interruptions;
mod people;
mod responders;
mod rights;
#[allow(dead_code, reason = "tests of roll-outs need a part of it")]
#[path = "../cluster/tier.rs"]
mod tier;
mod transitions;
#[allow(dead_code, reason = "tests of roll-outs need a part of it")]
#[path = "../cluster/watch.rs"]
mod watch;
mod witness;

use std::sync::OnceLock;

use dnstier_tests::lab::{Lab, Options, Shape};

/// Tier that all tests begin with.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/dnstier.yaml");

/// Returns the lab that all tests share, with two nodes a zone.
fn lab() -> &'static Lab {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    let lab = LAB.get_or_init(|| {
        let options = Options { shape: Shape::TwoNodesPerZone, ..Options::for_tests() };
        if let Ok(warm) = Lab::open(&options.name) {
            // An earlier run may have ended in the middle of a change; there may be no tier at all.
            let _ = warm.kubectl(&["replace", "-f", EXAMPLE]);
        }
        let lab = Lab::up(&options).map_err(|error| format!("{error:#}"))?;
        rights::start(&lab);
        Ok(lab)
    });
    lab.as_ref().unwrap_or_else(|error| panic!("the lab does not come up: {error}"))
}

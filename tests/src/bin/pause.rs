//! The first process of a pod's namespaces: it waits, and buries what is left to it.
//!
//! It answers no signal: a container that only waits is killed.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::{WaitOptions, wait};

fn main() {
    loop {
        // Fails while there is no child, and who comes here later was orphaned: no hurry.
        if wait(WaitOptions::empty()).is_err() {
            sleep(Duration::from_secs(10));
        }
    }
}

//! First process of a pod's namespaces: it waits, and reaps orphans.
//!
//! No signal is handled: a container that only waits is killed.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::{WaitOptions, wait};

fn main() {
    loop {
        // Fails while there is no child. A child that comes later was orphaned, and can wait.
        if wait(WaitOptions::empty()).is_err() {
            sleep(Duration::from_secs(10));
        }
    }
}

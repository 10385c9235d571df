//! Replay of the corpora: every seed, and every input that was found, once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use dnstier_fuzz::{TARGETS, seeds};

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

#[test]
fn no_input_of_the_corpora_breaks_a_promise() {
    for (target, run) in TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus(target)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            run(&std::fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 3, "{target}: {inputs}");
    }
}

#[test]
fn the_corpora_hold_the_seeds() {
    for (target, name, bytes) in seeds::all() {
        let path = corpus(target).join(name);
        assert!(std::fs::read(&path).is_ok_and(|read| read == bytes), "run `seeds`: {}", path.display());
    }
}

//! Programs of the data plane that are measured, as they are released.

use std::path::PathBuf;

/// Returns the path of a program of the package `node-cache`, which cargo puts beside this one when both are built with
/// one profile. Ends the process with a sentence on standard output when the program is missing.
pub(crate) fn find(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.with_file_name(name);
    if !program.is_file() {
        println!(
            "{} is missing: build it with `cargo build --profile bench --package node-cache --bins`",
            program.display()
        );
        std::process::exit(2);
    }
    program
}

//! Programs of the data plane, measured as they are released.

use std::path::PathBuf;

/// Returns the path of a program of the package `node-cache`. Cargo puts it beside this program when both are built
/// with one profile. Where it is missing, this process ends with exit code 2 and the command that builds it.
pub(crate) fn find(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap().with_file_name(name);
    if !program.is_file() {
        println!(
            "{} is missing: build it with `cargo build --locked --profile bench --package node-cache --bins`, or run \
             the benchmark by `make bench`",
            program.display()
        );
        std::process::exit(2);
    }
    program
}

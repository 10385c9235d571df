//! `dnstier-operator`: see `--help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> anyhow::Result<ExitCode> {
    dnstier_operator::Args::parse().run()
}

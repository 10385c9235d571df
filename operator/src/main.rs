//! `dnstier-operator`: see `--help`.

#![forbid(unsafe_code)]

use clap::Parser;

fn main() -> anyhow::Result<()> {
    dnstier_operator::Args::parse().run()
}

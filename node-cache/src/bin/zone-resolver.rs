//! A resolver of a zone.

use clap::Parser;
use node_cache::cmd::zone_resolver::Arguments;

fn main() -> anyhow::Result<()> {
    Ok(Arguments::parse().run()?)
}

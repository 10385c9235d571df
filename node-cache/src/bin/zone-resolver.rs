//! Program `zone-resolver`: see [`node_cache::cmd::zone_resolver`].

use clap::Parser;
use node_cache::cmd::zone_resolver::Args;

fn main() -> anyhow::Result<()> {
    Ok(Args::parse().run()?)
}

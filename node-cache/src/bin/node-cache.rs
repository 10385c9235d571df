//! Program `node-cache`: see [`node_cache::cmd::node_cache`].

use clap::Parser;
use node_cache::cmd::node_cache::Args;

fn main() -> anyhow::Result<()> {
    Ok(Args::parse().run()?)
}

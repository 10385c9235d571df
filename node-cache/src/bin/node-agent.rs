//! Program `node-agent`: see [`node_cache::cmd::node_agent`].

use clap::Parser;
use node_cache::cmd::node_agent::Args;

fn main() -> anyhow::Result<()> {
    Ok(Args::parse().run()?)
}

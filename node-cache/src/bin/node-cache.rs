//! A caching resolver of a node.

use clap::Parser;
use node_cache::cmd::node_cache::Arguments;

fn main() -> anyhow::Result<()> {
    Ok(Arguments::parse().run()?)
}

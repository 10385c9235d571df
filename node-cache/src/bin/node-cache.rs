//! A caching resolver of a node.

use clap::Parser;
use node_cache::process::node_cache::Arguments;

fn main() -> anyhow::Result<()> {
    Ok(Arguments::parse().run()?)
}

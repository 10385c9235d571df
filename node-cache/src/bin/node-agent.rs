//! The agent of a node: holds the captured addresses while the caches of its pod answer.

use clap::{Parser, Subcommand};
use node_cache::agent::{self, Args, Probe};
use node_cache::cmd::logging;

/// Captures addresses for the caches of this node, as a lease that ends by itself.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Capture the addresses of the configuration until SIGTERM comes, then withdraw them.
    Run(Args),
    /// Ask the agent of this pod how it is, for the kubelet.
    Probe(Probe),
}

fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Run(args) => {
            logging::start();
            runtime.block_on(agent::run(args))?;
        }
        Command::Probe(probe) => runtime.block_on(probe.ask())?,
    }
    Ok(())
}

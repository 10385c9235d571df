//! `tap`: samples of the messages of running processes of this pod, as dnstap on standard output.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use node_cache_config::names::RUN_DIR;
use tokio::time::sleep;

use super::ProgramError;
use super::args::seconds;
use super::shutdown::Shutdown;
use crate::dnstap::{self, MessageFilter, TapError, TapOptions, TapSource};

/// Write samples of queries and responses, of clients and to upstreams, as dnstap to standard output
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("what").args(["queries", "responses"])))]
pub(super) struct Tap {
    /// One query of so many, picked at random, and its response; 1 for all
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Queries only
    #[arg(long)]
    queries: bool,
    /// Responses only
    #[arg(long)]
    responses: bool,
    /// End after so many messages
    #[arg(long)]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_parser = seconds)]
    during: Option<Duration>,
    /// Directory of the sockets
    #[arg(long, default_value = RUN_DIR)]
    pub(super) run_dir: PathBuf,
}

impl Tap {
    /// Copies the messages of the processes of these names to standard output, until the limits are reached or shutdown is
    /// requested.
    pub(super) async fn run(&self, names: &[String]) -> Result<(), ProgramError> {
        if io::stdout().is_terminal() {
            let binary =
                io::Error::other("what is written is not text; send it to a file or a program that reads dnstap");
            return Err(TapError::Output(binary).into());
        }
        let mut shutdown = Shutdown::listen().map_err(ProgramError::Start)?;
        let what = match (self.queries, self.responses) {
            (true, _) => MessageFilter::Queries,
            (_, true) => MessageFilter::Responses,
            (false, false) => MessageFilter::Both,
        };
        let source = |name: &String| TapSource { name: name.clone(), path: dnstap::socket_path(&self.run_dir, name) };
        let sources: Vec<TapSource> = names.iter().map(source).collect();
        let end = async {
            tokio::select! {
                () = shutdown.requested() => {}
                () = sleep_if(self.during) => {}
            }
        };
        let options = TapOptions { sample_rate: self.sample, filter: what };
        Ok(dnstap::copy(&sources, options, self.count.unwrap_or(u64::MAX), end, io::stdout()).await?)
    }
}

/// Sleeps for this long; for ever without a limit.
async fn sleep_if(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

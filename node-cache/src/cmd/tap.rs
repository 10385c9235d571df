//! `tap`: the messages of the processes of this pod, on standard output.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use node_cache_config::names::RUN_DIR;
use tokio::time::sleep;

use super::shutdown::Shutdown;
use super::{ProcessError, seconds};
use crate::dnstap::{self, MessageFilter, TapError, TapOptions, TapSource};

/// Writes samples of questions and answers as dnstap to standard output: of clients, and to other servers.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("what").args(["queries", "responses"])))]
pub(super) struct Tap {
    /// One question of so many, picked at random, and its answer; 1 for all
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Questions alone
    #[arg(long)]
    queries: bool,
    /// Answers alone
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
    /// Shows the messages of the processes of these names, until there were enough or the program is told to stop.
    pub(super) async fn write(&self, names: &[String]) -> Result<(), ProcessError> {
        if io::stdout().is_terminal() {
            let binary =
                io::Error::other("what is written is not text; send it to a file or a program that reads dnstap");
            return Err(TapError::Output(binary).into());
        }
        let mut termination = Shutdown::listen().map_err(ProcessError::Start)?;
        let what = match (self.queries, self.responses) {
            (true, _) => MessageFilter::Queries,
            (_, true) => MessageFilter::Responses,
            (false, false) => MessageFilter::Both,
        };
        let source = |name: &String| TapSource { name: name.clone(), path: dnstap::socket_path(&self.run_dir, name) };
        let sources: Vec<TapSource> = names.iter().map(source).collect();
        let over = async {
            let time_is_up = async {
                match self.during {
                    Some(during) => sleep(during).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = termination.asked() => {}
                () = time_is_up => {}
            }
        };
        let wanted = TapOptions { sample_rate: self.sample, filter: what };
        Ok(dnstap::copy(&sources, wanted, self.count.unwrap_or(u64::MAX), over, io::stdout()).await?)
    }
}

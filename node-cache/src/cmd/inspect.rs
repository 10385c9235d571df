//! `stats`, `explain`, `flush` and `dump`: questions of people about the cache of running processes of this pod.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::Subcommand;

use super::ProgramError;
use crate::admin::{self, Command};

/// Time that a process may take to answer.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Questions about the cache of a running process.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Inspect {
    /// Count queries, hits, misses and stale responses, and show each upstream
    Stats,
    /// Show how a query would be answered, and why; or what was detected about an upstream
    Explain {
        /// The full name, or the address of an upstream
        name: String,
        /// The record type
        #[arg(default_value = "A")]
        rtype: String,
    },
    /// Remove the cached responses for a name
    Flush {
        /// The full name
        name: String,
        /// And for everything below it
        #[arg(long)]
        below: bool,
    },
    /// Show the cached responses for a name and everything below it
    Dump {
        /// The full name
        #[arg(default_value = ".")]
        name: String,
    },
}

impl Inspect {
    /// Sends the command to each of these processes and prints each answer under the process's name. Fails with the
    /// first process that does not answer, after all were asked.
    pub(super) async fn run(&self, run_dir: &Path, names: &[String]) -> Result<(), ProgramError> {
        let command = Command::from_line(&self.line())?;
        let mut first_error = None;
        for name in names {
            let path = admin::socket_path(run_dir, name);
            match admin::send_command(&path, command.clone(), INSPECT_TIMEOUT).await {
                Ok(text) => write!(std::io::stdout(), "{name}:\n{text}").map_err(ProgramError::Output)?,
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Returns the command as a line of the control socket.
    fn line(&self) -> String {
        match self {
            Self::Stats => "stats".to_owned(),
            Self::Explain { name, rtype } => format!("explain {name} {rtype}"),
            Self::Flush { name, below: false } => format!("flush {name}"),
            Self::Flush { name, below: true } => format!("flush-below {name}"),
            Self::Dump { name } => format!("dump {name}"),
        }
    }
}

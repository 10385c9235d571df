//! Forms of arguments that processes share.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use node_cache_config::names::RUN_DIR;

use super::ProcessError;
use crate::admin::{self, Command};

/// The most threads of one process that answer.
const MOST_WORKERS: usize = 64;
/// How long a process may take for the answer to a probe.
const PROBE_LIMIT: Duration = Duration::from_secs(4);

/// What a probe can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Question {
    /// Whether the process reacts.
    Live,
    /// Whether it can do its work.
    Ready,
}

/// Asks a running process of this pod how it is; fails when it is not well.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Probe {
    /// What is asked
    #[arg(value_enum)]
    pub(super) question: Question,
    /// Directory of the control sockets
    #[arg(long, default_value = RUN_DIR)]
    pub(super) run_dir: PathBuf,
}

impl Probe {
    /// Asks the process of this name.
    pub(super) async fn ask(&self, name: &str) -> Result<(), ProcessError> {
        let command = match self.question {
            Question::Live => Command::Live,
            Question::Ready => Command::Ready,
        };
        Ok(admin::probe(&admin::socket_path(Path::new(&self.run_dir), name), command, PROBE_LIMIT).await?)
    }
}

/// How long a process may take for the answer to a person.
const INSPECTION_LIMIT: Duration = Duration::from_secs(5);

/// What people ask a running process about its answers.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Inspect {
    /// How many questions were answered, and by whom
    Stats,
    /// What would be said to a question, and why
    Explain {
        /// The full name
        name: String,
        /// The type of the records
        #[arg(default_value = "A")]
        rtype: String,
    },
    /// Forget the answers that are kept for a name
    Flush {
        /// The full name
        name: String,
        /// And for everything below it
        #[arg(long)]
        below: bool,
    },
    /// Show the answers that are kept for a name and everything below it
    Dump {
        /// The full name
        #[arg(default_value = ".")]
        name: String,
    },
}

impl Inspect {
    /// Asks each of these processes and prints what it says under its name. A process that does not answer is told of, and
    /// the others are still asked.
    pub(super) async fn ask(&self, run_dir: &Path, names: &[String]) -> Result<(), ProcessError> {
        let line = match self {
            Self::Stats => "stats".to_owned(),
            Self::Explain { name, rtype } => format!("explain {name} {rtype}"),
            Self::Flush { name, below: false } => format!("flush {name}"),
            Self::Flush { name, below: true } => format!("flush-below {name}"),
            Self::Dump { name } => format!("dump {name}"),
        };
        let command = Command::from_line(&line)?;
        let mut failed = None;
        for name in names {
            let path = admin::socket_path(run_dir, name);
            match admin::send_command(&path, command.clone(), INSPECTION_LIMIT).await {
                Ok(text) => write!(std::io::stdout(), "{name}:\n{text}").map_err(ProcessError::Output)?,
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Resolves a name as a pod does and says who answered.
#[derive(Clone, Debug, Args)]
pub(super) struct Ask {
    /// The full name
    pub(super) name: String,
}

impl Ask {
    /// Asks the servers of this pod's `/etc/resolv.conf` and prints a sentence.
    pub(super) fn run(&self) -> Result<(), ProcessError> {
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolved = crate::cmd::ask::resolve(&self.name, &resolv_conf)?;
        writeln!(std::io::stdout(), "{resolved}").map_err(ProcessError::Output)
    }
}

/// A time in seconds, with or without an `s` behind it.
///
/// # Errors
///
/// A sentence that says what would be right.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    number.map(Duration::from_secs).map_err(|_| format!("{text:?} is not a number of seconds such as 10s"))
}

/// A number of bytes, at least one mebibyte.
///
/// # Errors
///
/// A sentence that says what would be right.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if number >= 1 << 20 => Ok(number),
        _ => Err(format!("{text:?} is not a number of bytes of at least 1048576")),
    }
}

/// A number of threads that answer.
///
/// # Errors
///
/// A sentence that says what would be right.
pub(super) fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=MOST_WORKERS) => Ok(number),
        _ => Err(format!("{text:?} is not a number of workers from 1 to {MOST_WORKERS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_or_refused_with_a_sentence() {
        assert_eq!(seconds("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert!(seconds("10m").is_err());
        assert_eq!(bytes("67108864"), Ok(64 << 20));
        assert!(bytes("64Mi").is_err() && bytes("1024").is_err());
        assert_eq!((workers("1"), workers("64")), (Ok(1), Ok(64)));
        assert_eq!(workers("0"), Err("\"0\" is not a number of workers from 1 to 64".to_owned()));
        assert!(workers("65").is_err() && workers("-1").is_err() && workers("four").is_err());
    }
}

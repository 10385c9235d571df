//! The control socket of a process: one line with a command in, its answer out, end.
//!
//! `status` gives JSON, `metrics` Prometheus text, `live` and `ready` the word `ok` or a sentence that says what is
//! missing. `stats`, `explain NAME TYPE`, `flush NAME`, `flush-below NAME` and `dump NAME` are for people: text, or a
//! sentence that says what is wrong with the command.

mod client;
pub(crate) mod http_limits;
pub mod merge;
mod server;

pub use client::{AskError, ask, probe};
pub use server::{Report, serve};

use std::path::{Path, PathBuf};

use crate::dns::codes::rtype;
use crate::dns::{Name, NameError};

/// The answer of `live` and `ready` when nothing is missing.
pub const OK: &str = "ok";

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// How the process is, as JSON.
    Status,
    /// Whether it reacts at all.
    Live,
    /// Whether it can do its work.
    Ready,
    /// Its counters, as Prometheus text.
    Metrics,
    /// Something about its answers.
    Answers(Inspection),
}

/// What people ask about answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// How many there were, and who gave them.
    Stats,
    /// What would be said to a question, and why.
    Explain {
        /// The name.
        name: Name,
        /// The type of the records.
        rtype: u16,
    },
    /// Forget what is in memory.
    Flush {
        /// The name.
        name: Name,
        /// Whether everything below it is meant too.
        below: bool,
    },
    /// What is in memory.
    Dump {
        /// The name whose answers are meant, and those of everything below it.
        below: Name,
    },
}

/// A line that is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCommand {
    /// Nothing of this kind can be asked for.
    #[error(
        "unknown command {0:?}; status, live, ready, metrics, stats, explain NAME [TYPE], flush NAME, flush-below NAME and \
         dump [NAME] are known"
    )]
    Unknown(String),
    /// There is no name where one is needed.
    #[error("{0} needs a name")]
    NoName(&'static str),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A type that is none.
    #[error("{0:?} is not a type of records such as A, MX or TYPE65")]
    Type(String),
}

impl Command {
    /// The line on the wire.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Status => "status".into(),
            Self::Live => "live".into(),
            Self::Ready => "ready".into(),
            Self::Metrics => "metrics".into(),
            Self::Answers(Inspection::Stats) => "stats".into(),
            Self::Answers(Inspection::Explain { name, rtype }) => format!("explain {name} {}", rtype::to_text(*rtype)),
            Self::Answers(Inspection::Flush { name, below: false }) => format!("flush {name}"),
            Self::Answers(Inspection::Flush { name, below: true }) => format!("flush-below {name}"),
            Self::Answers(Inspection::Dump { below }) => format!("dump {below}"),
        }
    }

    /// The command that a line stands for. Names are as people write them, with or without a final dot.
    ///
    /// # Errors
    ///
    /// [`BadCommand`] says what would be right.
    pub fn from_line(line: &str) -> Result<Self, BadCommand> {
        let mut words = line.split_whitespace();
        let (word, name, kind) = (words.next().unwrap_or_default(), words.next(), words.next());
        let needed =
            |command| name.ok_or(BadCommand::NoName(command)).and_then(|name| Ok(Name::from_text(name)?.lower()));
        Ok(match word {
            "status" => Self::Status,
            "live" => Self::Live,
            "ready" => Self::Ready,
            "metrics" => Self::Metrics,
            "stats" => Self::Answers(Inspection::Stats),
            "explain" => {
                let rtype = rtype::from_text(kind.unwrap_or("A"));
                let rtype = rtype.ok_or_else(|| BadCommand::Type(kind.unwrap_or_default().to_owned()))?;
                Self::Answers(Inspection::Explain { name: needed("explain")?, rtype })
            }
            "flush" => Self::Answers(Inspection::Flush { name: needed("flush")?, below: false }),
            "flush-below" => Self::Answers(Inspection::Flush { name: needed("flush-below")?, below: true }),
            "dump" => Self::Answers(Inspection::Dump { below: Name::from_text(name.unwrap_or("."))?.lower() }),
            other => return Err(BadCommand::Unknown(other.to_owned())),
        })
    }
}

/// Where the process of this name (`agent`, `cache-0`, `zone-resolver`, …) listens.
#[must_use]
pub fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_the_same_after_its_way_over_the_socket() {
        for line in [
            "status",
            "live",
            "ready",
            "metrics",
            "stats",
            "explain www.example. MX",
            "explain www.example. TYPE65280",
            "flush www.example.",
            "flush-below .",
            "dump example.",
        ] {
            assert_eq!(Command::from_line(line).unwrap().line(), line);
        }
        assert_eq!(Command::from_line("explain WWW.Example").unwrap().line(), "explain www.example. A");
        assert_eq!(Command::from_line("dump").unwrap().line(), "dump .");
    }

    #[test]
    fn a_line_that_is_no_command_is_refused_with_what_would_be_right() {
        for (line, sentence) in [
            ("frobnicate", "unknown command \"frobnicate\"; status, live, ready,"),
            ("flush", "flush needs a name"),
            ("explain a..b", "\"a..b\" is not a domain name"),
            ("explain www.example B", "\"B\" is not a type of records such as A, MX or TYPE65"),
        ] {
            let error = Command::from_line(line).unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{line}: {error}");
        }
    }
}

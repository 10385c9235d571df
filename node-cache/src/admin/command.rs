//! Commands of the control socket and their syntax.

use std::net::{IpAddr, SocketAddr};

use node_cache_config::probes::ProbeName;

use crate::dns::codes::rtype;
use crate::dns::{Name, NameError};

/// Response to `live` and `ready` when nothing is missing.
pub const OK: &str = "ok";

/// Command of the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Status of the process, as JSON.
    Status,
    /// Liveness: the process responds at all.
    Live,
    /// Readiness: the process can do its work.
    Ready,
    /// Metrics, in OpenMetrics.
    Metrics,
    /// Probe past the cache for a name of the configuration, as JSON.
    Probe(ProbeName),
    /// Inspection or flush of the cache.
    Inspect(Inspection),
}

/// Command of an operator (a person) about the cache and its responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// Counters of queries by source of the response, and of each upstream.
    Stats,
    /// Route, upstreams and cache entries that decide the response to a query.
    Explain {
        /// Queried name.
        name: Name,
        /// Queried record type.
        rtype: u16,
    },
    /// State of the upstream with an address, and what was detected about its limits.
    ExplainUpstream {
        /// Address of the upstream.
        address: IpAddr,
        /// Port; any for `None`.
        port: Option<u16>,
    },
    /// Removes entries from the cache.
    Flush {
        /// Name whose entries are removed.
        name: Name,
        /// Whether the entries of all names below it are removed too.
        below: bool,
    },
    /// Lists the entries of the cache.
    Dump {
        /// Name whose entries are listed, together with those of all names below it.
        below: Name,
    },
}

/// Syntax error of a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The first word is not a command.
    #[error(
        "unknown command {0:?}; status, live, ready, metrics, probe NAME TYPE, stats, explain NAME [TYPE], \
         explain ADDRESS, flush NAME, flush-below NAME and dump [NAME] are known"
    )]
    Unknown(String),
    /// The command needs a name and has none.
    #[error("{0} needs a name")]
    MissingName(&'static str),
    /// The name is not a domain name.
    #[error(transparent)]
    InvalidName(#[from] NameError),
    /// The type is neither the mnemonic of a record type nor `TYPE` with a number (RFC 3597).
    #[error("{0:?} is not a type of records such as A, MX or TYPE65")]
    UnknownType(String),
}

impl Command {
    /// Returns the command line on the wire, without the line feed.
    #[must_use]
    pub fn to_line(&self) -> String {
        match self {
            Self::Status => "status".into(),
            Self::Live => "live".into(),
            Self::Ready => "ready".into(),
            Self::Metrics => "metrics".into(),
            Self::Probe(ProbeName { name, rtype }) => format!("probe {name} {rtype}"),
            Self::Inspect(Inspection::Stats) => "stats".into(),
            Self::Inspect(Inspection::Explain { name, rtype }) => format!("explain {name} {}", rtype::to_text(*rtype)),
            Self::Inspect(Inspection::ExplainUpstream { address, port: None }) => format!("explain {address}"),
            Self::Inspect(Inspection::ExplainUpstream { address, port: Some(port) }) => {
                format!("explain {}", SocketAddr::new(*address, *port))
            }
            Self::Inspect(Inspection::Flush { name, below: false }) => format!("flush {name}"),
            Self::Inspect(Inspection::Flush { name, below: true }) => format!("flush-below {name}"),
            Self::Inspect(Inspection::Dump { below }) => format!("dump {below}"),
        }
    }

    /// Parses a command line. Names are in presentation format, with or without a final dot. Defaults: type A for
    /// `explain`, the root for `dump`. An address is an upstream to explain; with a final dot it is a name. Words after
    /// the last one that a command takes are ignored.
    ///
    /// # Errors
    ///
    /// [`CommandError`], whose text says what would be right.
    pub fn from_line(line: &str) -> Result<Self, CommandError> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let name = words.next();
        let type_text = words.next();
        let required_name = |command| {
            name.ok_or(CommandError::MissingName(command)).and_then(|name| Ok(Name::from_text(name)?.lower()))
        };
        Ok(match command {
            "status" => Self::Status,
            "live" => Self::Live,
            "ready" => Self::Ready,
            "metrics" => Self::Metrics,
            // Looked up as it is among the names of the configuration.
            "probe" => {
                let name = name.ok_or(CommandError::MissingName("probe"))?;
                Self::Probe(ProbeName::new(name, type_text.unwrap_or("A")))
            }
            "stats" => Self::Inspect(Inspection::Stats),
            "explain" if let Some((address, port)) = name.and_then(parse_upstream) => {
                Self::Inspect(Inspection::ExplainUpstream { address, port })
            }
            "explain" => {
                let rtype = rtype::from_text(type_text.unwrap_or("A"));
                let rtype = rtype.ok_or_else(|| CommandError::UnknownType(type_text.unwrap_or_default().to_owned()))?;
                Self::Inspect(Inspection::Explain { name: required_name("explain")?, rtype })
            }
            "flush" => Self::Inspect(Inspection::Flush { name: required_name("flush")?, below: false }),
            "flush-below" => Self::Inspect(Inspection::Flush { name: required_name("flush-below")?, below: true }),
            "dump" => Self::Inspect(Inspection::Dump { below: Name::from_text(name.unwrap_or("."))?.lower() }),
            other => return Err(CommandError::Unknown(other.to_owned())),
        })
    }
}

/// Returns an address, and its port if it has one; `None` for anything else.
fn parse_upstream(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| (address.ip(), Some(address.port())));
    text.parse().ok().map(|address| (address, None)).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_formatting_and_parsing() {
        for line in [
            "status",
            "live",
            "ready",
            "metrics",
            "probe www.example AAAA",
            "stats",
            "explain www.example. MX",
            "explain www.example. TYPE65280",
            "explain 169.254.169.253",
            "explain 127.0.0.1:5353",
            "explain [fd00::2]:53",
            "explain 169.254.169.253. A",
            "flush www.example.",
            "flush-below .",
            "dump example.",
        ] {
            assert_eq!(Command::from_line(line).unwrap().to_line(), line);
        }
        assert_eq!(Command::from_line("explain WWW.Example").unwrap().to_line(), "explain www.example. A");
        assert_eq!(Command::from_line("dump").unwrap().to_line(), "dump .");
    }

    #[test]
    fn an_invalid_command_is_rejected_with_what_would_be_right() {
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

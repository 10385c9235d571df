//! Command-line arguments that programs share, and their value parsers. Each error is a sentence that says what would
//! be right.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use node_cache_config::names::{CONFIG_DIR, RUN_DIR};

/// Directories that every running program needs.
#[derive(Clone, Debug, Args)]
pub(super) struct Directories {
    /// Directory of the projected volume with the configuration
    #[arg(long = "config-dir", default_value = CONFIG_DIR, value_name = "CONFIG_DIR")]
    pub(super) config: PathBuf,
    /// Directory of the sockets that the containers of the pod share
    #[arg(long = "run-dir", default_value = RUN_DIR, value_name = "RUN_DIR")]
    pub(super) run: PathBuf,
}

/// Most threads of one process that read sockets.
const MAX_WORKERS: usize = 64;

/// Parses a time in seconds, with or without an `s` behind it.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    number.map(Duration::from_secs).map_err(|_| format!("{text:?} is not a number of seconds such as 10s"))
}

/// Parses a number of bytes, at least one mebibyte.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if number >= 1 << 20 => Ok(number),
        _ => Err(format!("{text:?} is not a number of bytes of at least 1048576")),
    }
}

/// Parses a number of workers: threads that each read every socket.
pub(super) fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=MAX_WORKERS) => Ok(number),
        _ => Err(format!("{text:?} is not a number of workers from 1 to {MAX_WORKERS}")),
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

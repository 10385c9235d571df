//! Asking a process of the same pod how it is.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Command, OK};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 4 << 20;

/// Why a process could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It did not answer in time.
    #[error("{path}: no answer within {limit:?}")]
    Silent {
        /// Its control socket.
        path: String,
        /// How long it had.
        limit: Duration,
    },
    /// The socket cannot be used.
    #[error("{path}: {source}")]
    Socket {
        /// Its control socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The answer is not text, or is empty.
    #[error("{path}: the answer is not text")]
    NotText {
        /// Its control socket.
        path: String,
    },
    /// A probe's answer is not `ok`; this is what it says.
    #[error("{0}")]
    Missing(String),
}

/// Sends a command to the control socket at `path` and gives back the answer.
///
/// # Errors
///
/// [`AskError`] when there is no answer within `limit`, or none that is text.
pub async fn ask(path: &Path, command: Command, limit: Duration) -> Result<String, AskError> {
    let name = || path.display().to_string();
    let bytes = tokio::time::timeout(limit, exchange(path, command))
        .await
        .map_err(|_| AskError::Silent { path: name(), limit })?
        .map_err(|source| AskError::Socket { path: name(), source })?;
    match String::from_utf8(bytes) {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => Err(AskError::NotText { path: name() }),
    }
}

/// Asks `live` or `ready` as a probe does.
///
/// # Errors
///
/// [`AskError`] when there is no answer or when it is not `ok`.
pub async fn probe(path: &Path, command: Command, limit: Duration) -> Result<(), AskError> {
    let answer = ask(path, command, limit).await?;
    if answer.trim() == OK {
        return Ok(());
    }
    Err(AskError::Missing(answer.trim().to_owned()))
}

async fn exchange(path: &Path, command: Command) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("{}\n", command.line()).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

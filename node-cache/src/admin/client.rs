//! Client of a control socket: sends one command to a process of the same pod and reads the response.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::command::{Command, OK};

/// Longest response that a person gets, in bytes; the rest of a longer one is left out.
const MAX_RESPONSE_LEN: usize = 4 << 20;

/// Failure of a command that was sent to a control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The process did not respond in time.
    #[error("{path}: no response within {limit:?}")]
    Timeout {
        /// Path of the control socket.
        path: String,
        /// Time limit of the command.
        limit: Duration,
    },
    /// The socket cannot be connected to, written or read.
    #[error("{path}: {source}")]
    Socket {
        /// Path of the control socket.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The response is empty, or is not UTF-8.
    #[error("{path}: the response is not text")]
    InvalidResponse {
        /// Path of the control socket.
        path: String,
    },
    /// The response to a probe is not `ok`; it is a sentence that says what is missing.
    #[error("{0}")]
    ProbeFailed(String),
}

/// Sends `command` to the control socket at `path` and returns the response.
///
/// # Errors
///
/// [`ControlError`] when there is no response within `limit`, or one that is not text.
pub async fn send_command(path: &Path, command: Command, limit: Duration) -> Result<String, ControlError> {
    send_command_bounded(path, command, limit, MAX_RESPONSE_LEN).await
}

/// Sends `command` to a process that is less trusted than this one: reads at most `max_len` bytes of the response and
/// leaves the rest out.
///
/// # Errors
///
/// [`ControlError`] when there is no response within `limit`, or one that is not text.
pub(crate) async fn send_command_bounded(
    path: &Path,
    command: Command,
    limit: Duration,
    max_len: usize,
) -> Result<String, ControlError> {
    let display_path = || path.display().to_string();
    let bytes = tokio::time::timeout(limit, exchange(path, command, max_len))
        .await
        .map_err(|_| ControlError::Timeout { path: display_path(), limit })?
        .map_err(|source| ControlError::Socket { path: display_path(), source })?;
    match String::from_utf8(bytes) {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => Err(ControlError::InvalidResponse { path: display_path() }),
    }
}

/// Sends `live` or `ready` and checks that the response is `ok`, as a liveness or readiness probe does.
///
/// # Errors
///
/// [`ControlError`] when there is no response within `limit`, or another one than `ok`.
pub async fn probe(path: &Path, command: Command, limit: Duration) -> Result<(), ControlError> {
    let response = send_command(path, command, limit).await?;
    if response.trim() == OK {
        return Ok(());
    }
    Err(ControlError::ProbeFailed(response.trim().to_owned()))
}

async fn exchange(path: &Path, command: Command, max_len: usize) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("{}\n", command.to_line()).as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(max_len.try_into().unwrap_or(u64::MAX)).read_to_end(&mut response).await?;
    Ok(response)
}

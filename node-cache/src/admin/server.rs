//! Listening side of a control socket.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::command::Command;
use crate::unix_socket;
use crate::unix_socket::connections::{Connections, Silence};

/// Longest command line, in bytes: a word, a name of which every octet is escaped, and a type.
const MAX_COMMAND_LEN: u64 = 1200;
/// Longest time from connecting to the end of the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of the user of this process, as the kubelet's probes are, that are served at one time.
const MAX_CONNECTIONS: usize = 8;
/// Wait after a failed `accept`, such as one for lack of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Implementation of the control commands of one process.
pub trait CommandHandler: Send + Sync + 'static {
    /// Connections of other users than that of this process that are served at one time.
    const MAX_OTHER_USERS: usize = MAX_CONNECTIONS;

    /// Returns the response to a command, as text.
    fn handle(&self, command: Command) -> impl Future<Output = String> + Send;
}

/// Serves commands at the Unix socket `path` until the future is dropped. Replaces what an earlier process left there.
///
/// # Errors
///
/// Any error of creating the socket.
pub async fn serve<H: CommandHandler>(path: &Path, handler: Arc<H>) -> std::io::Result<()> {
    let listener = unix_socket::bind(path)?;
    let mut connections = Connections::new(MAX_CONNECTIONS, H::MAX_OTHER_USERS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                let serving = |stream, silence| async move {
                    let served = serve_connection(stream, &*handler, &silence);
                    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%error, "control connection failed"),
                        Err(_) => tracing::debug!(limit = ?CONNECTION_TIMEOUT, "control connection timed out"),
                    }
                };
                connections.serve(stream, serving).await;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot accept a control connection");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}

async fn serve_connection<H: CommandHandler>(
    mut stream: UnixStream,
    handler: &H,
    silence: &Silence,
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_COMMAND_LEN)).read_line(&mut line).await?;
    silence.end();
    let response = match Command::from_line(&line) {
        Ok(command) => handler.handle(command).await,
        Err(error) => error.to_string(),
    };
    write.write_all(response.as_bytes()).await?;
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::super::client::{ControlError, probe, send_command};
    use super::super::command::OK;
    use super::*;

    /// A process that is live and not ready.
    struct NotReady;

    impl CommandHandler for NotReady {
        async fn handle(&self, command: Command) -> String {
            match command {
                Command::Live => OK.to_owned(),
                Command::Ready => "no name was resolved yet".to_owned(),
                command => command.to_line(),
            }
        }
    }

    #[tokio::test]
    async fn a_process_serves_its_control_socket_and_replaces_that_of_its_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let path = crate::admin::socket_path(dir.path(), "cache-0");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let serving = tokio::spawn({
            let path = path.clone();
            async move { serve(&path, Arc::new(NotReady)).await }
        });
        let limit = Duration::from_secs(1);
        while send_command(&path, Command::Status, limit).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(send_command(&path, Command::Status, limit).await.unwrap(), "status");
        probe(&path, Command::Live, limit).await.unwrap();
        let error = probe(&path, Command::Ready, limit).await.unwrap_err();
        assert!(matches!(&error, ControlError::ProbeFailed(text) if text == "no name was resolved yet"), "{error}");
        serving.abort();
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_told_from_one_that_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let error = probe(&dir.path().join("none.sock"), Command::Live, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, ControlError::Socket { .. }), "{error}");
    }

    #[tokio::test]
    async fn connections_that_say_nothing_keep_no_probe_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = crate::admin::socket_path(dir.path(), "agent");
        let serving = tokio::spawn({
            let path = path.clone();
            async move { serve(&path, Arc::new(NotReady)).await }
        });
        let limit = Duration::from_millis(900);
        while probe(&path, Command::Live, limit).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut silent = Vec::new();
        for _ in 0..6 {
            for _ in 0..150 {
                silent.push(UnixStream::connect(&path).await.unwrap());
            }
            probe(&path, Command::Live, limit).await.unwrap();
        }
        let mut byte = [0];
        let end = tokio::time::timeout(limit, silent[0].read(&mut byte)).await;
        assert_eq!(end.unwrap().unwrap(), 0, "the oldest one is closed");
        serving.abort();
    }
}

//! The listening side of a control socket.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::Command;

/// Everybody in the pod's group may ask, nobody else.
const MODE: u32 = 0o660;
/// The longest command, in bytes: a word, a name of which every octet is escaped, and a type.
const LONGEST_COMMAND: u64 = 1200;
/// How long a client may take from connecting to having read its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many clients are served at once; further ones wait to be accepted.
const CLIENTS: usize = 16;

/// What a process says of itself.
pub trait Report: Send + Sync + 'static {
    /// The answer to a command.
    fn answer(&self, command: Command) -> impl Future<Output = String> + Send;
}

/// Listens at `path` and answers until it is dropped. A socket left there by a former process is replaced.
///
/// # Errors
///
/// When the socket cannot be created.
pub async fn serve<R: Report>(path: &Path, report: Arc<R>) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("{}: {error}", path.display());
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let report = report.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(PATIENCE, converse(stream, &*report)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("control socket: {error}"),
                Err(_) => tracing::debug!("control socket: a client took longer than {PATIENCE:?}"),
            }
        });
    }
}

async fn converse<R: Report>(mut stream: UnixStream, report: &R) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST_COMMAND)).read_line(&mut line).await?;
    let answer = match Command::from_line(&line) {
        Ok(command) => report.answer(command).await,
        Err(error) => error.to_string(),
    };
    write.write_all(answer.as_bytes()).await?;
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::super::{AskError, OK, ask, probe};
    use super::*;

    struct Half;

    impl Report for Half {
        async fn answer(&self, command: Command) -> String {
            match command {
                Command::Live => OK.to_owned(),
                Command::Ready => "no name was resolved yet".to_owned(),
                command => command.line(),
            }
        }
    }

    #[tokio::test]
    async fn a_process_answers_on_its_control_socket_and_replaces_the_one_of_its_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let path = super::super::socket_path(dir.path(), "cache-0");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let serving = tokio::spawn({
            let path = path.clone();
            async move { serve(&path, Arc::new(Half)).await }
        });
        let second = Duration::from_secs(1);
        while ask(&path, Command::Status, second).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(ask(&path, Command::Status, second).await.unwrap(), "status");
        probe(&path, Command::Live, second).await.unwrap();
        let refused = probe(&path, Command::Ready, second).await.unwrap_err();
        assert!(matches!(&refused, AskError::Missing(text) if text == "no name was resolved yet"), "{refused}");
        serving.abort();
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_told_from_one_that_lacks_something() {
        let dir = tempfile::tempdir().unwrap();
        let refused = probe(&dir.path().join("none.sock"), Command::Live, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(refused, AskError::Socket { .. }), "{refused}");
    }
}

//! Listening side of a tap: a request line from each reader, then frames until the reader disconnects.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frames;
use super::tap::{MAX_READERS, MessageFilter, Tap, TapOptions};
use crate::unix_socket;
use crate::unix_socket::connections::{Connections, Silence};

/// Longest time from connecting to the end of the request line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that one write may take. A reader that does not read is then disconnected, which frees its slot.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest request line, in bytes.
const MAX_REQUEST_LEN: u64 = 64;
/// Connections at one time of the user of this process, and as many of all others. More than there are reader slots:
/// a connection without a request makes room for the next one, and no reader has to.
const MAX_CONNECTIONS: usize = 2 * MAX_READERS;
/// Wait after a failed `accept`, such as one for lack of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

impl TapOptions {
    /// Returns the request line on the wire: sample rate, space, message filter, line feed.
    pub(super) fn to_line(self) -> String {
        let filter = match self.filter {
            MessageFilter::Both => "both",
            MessageFilter::Queries => "queries",
            MessageFilter::Responses => "responses",
        };
        format!("{} {filter}\n", self.sample_rate)
    }

    fn from_line(line: &str) -> Option<Self> {
        let (sample_rate, filter) = line.strip_suffix('\n')?.split_once(' ')?;
        let filter = match filter {
            "both" => MessageFilter::Both,
            "queries" => MessageFilter::Queries,
            "responses" => MessageFilter::Responses,
            _ => return None,
        };
        Some(Self { sample_rate: sample_rate.parse().ok()?, filter })
    }
}

/// Serves tap readers at the Unix socket `path` until the future is dropped. Replaces what an earlier process left
/// there.
///
/// # Errors
///
/// Any error of creating the socket.
pub async fn serve(path: &Path, tap: Arc<Tap>) -> io::Result<()> {
    let listener = unix_socket::bind(path)?;
    let mut connections = Connections::new(MAX_CONNECTIONS, MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let tap = tap.clone();
                let serving = |stream, silence| async move {
                    if let Err(error) = serve_reader(stream, &tap, &silence).await {
                        tracing::debug!(%error, "tap reader disconnected");
                    }
                };
                connections.serve(stream, serving).await;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot accept a tap reader");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}

/// Reads the request of one reader and writes frames until it disconnects. Closes the connection without a frame when
/// all reader slots are taken.
async fn serve_reader(mut stream: UnixStream, tap: &Arc<Tap>, silence: &Silence) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    timeout(REQUEST_TIMEOUT, (&mut read).take(MAX_REQUEST_LEN).read_line(&mut line)).await??;
    let options = TapOptions::from_line(&line).ok_or(io::ErrorKind::InvalidData)?;
    let Some(reader) = tap.attach(options) else { return Ok(()) };
    silence.end();
    timeout(WRITE_TIMEOUT, write.write_all(&frames::start())).await??;
    loop {
        let frames = tokio::select! {
            // A reader sends nothing after its request: end of file or any byte ends the stream.
            _ = read.read_u8() => break,
            frames = reader.next_frames() => frames,
        };
        timeout(WRITE_TIMEOUT, write.write_all(&frames)).await??;
    }
    timeout(WRITE_TIMEOUT, write.write_all(&frames::stop())).await??;
    write.shutdown().await
}
